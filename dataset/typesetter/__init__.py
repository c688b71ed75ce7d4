"""Trees of LaTeX become boxes, and boxes become placed glyphs, by the rules of TeX.

fonts             outlines and metrics of the glyphs that come with matplotlib
computer_modern   what those outlines do not say about themselves
symbol_table      every symbol command: its class, character and glyph
symbols           what a token looks like in a font family
boxes             boxes, styles, and the spaces between neighbors
typeset           rows of symbols, and who sets what; the rest of it in
  scripts, fractions, delimiters, decorations, matrices
drawing           from placed glyphs to pixels

Rules without a source are those of The TeXbook's appendix G (Knuth 1986).
"""
