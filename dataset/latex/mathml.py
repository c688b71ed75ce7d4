r"""LaTeX labels as MathML, for word processors, web pages and screen readers.

    to_mathml(r"x ^ { 2 }")  ->  <math …><semantics><msup><mi>x</mi><mn>2</mn></msup>
                                 <annotation encoding="application/x-tex">x ^ { 2 }</annotation></semantics></math>

Elements are those of MathML Core (W3C) and, where it has none, of MathML 3 (frames, strokes through, columns). Letters
of other alphabets are characters of their own, as Core wants them: \mathbb { R } is ℝ.
"""

import re
import unicodedata
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from dataset.latex.parser import FENCES, LatexError, Node, parse, tokenize
from dataset.typesetter import symbols
from dataset.typesetter.typeset import ALPHABET, DECLARED, SPACE_MU, STYLES

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
# Characters that no XML document may hold (XML 1.0, section 2.2), not even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
APPLY_FUNCTION, NO_BREAK_SPACE, LONG_SOLIDUS = "\u2061", "\u00a0", "\u0338"
# Signs that mathematics writes with other characters than a keyboard has.
_CHARACTERS = {"-": "−", "*": "∗", "'": "′", r"\prime": "′", "~": NO_BREAK_SPACE}
# Ordinary signs that are operators to MathML.
_OPERATORS = frozenset("∀∃∄¬/|‖∖!.′″") | {"\\"}
# What grows in MathML unless it is told otherwise; in LaTeX that is behind \left alone.
_GROWING = frozenset("/|‖∖\\") | set(map(chr, range(0x2190, 0x2200))) | set(map(chr, range(0x27F0, 0x2800)))
# Each accent: its character, whether it grows with what it is set on, whether it stands above.
_ACCENTS = {
    r"\hat": ("^", False, True),
    r"\widehat": ("^", True, True),
    r"\check": ("ˇ", False, True),
    r"\widecheck": ("ˇ", True, True),
    r"\tilde": ("~", False, True),
    r"\widetilde": ("~", True, True),
    r"\acute": ("´", False, True),
    r"\grave": ("`", False, True),
    r"\dot": ("˙", False, True),
    r"\ddot": ("¨", False, True),
    r"\dddot": ("\u20db", False, True),
    r"\breve": ("˘", False, True),
    r"\bar": ("¯", False, True),
    r"\vec": ("→", False, True),
    r"\mathring": ("˚", False, True),
    r"\overline": ("‾", True, True),
    r"\underline": ("_", True, False),
    r"\overbrace": ("⏞", True, True),
    r"\underbrace": ("⏟", True, False),
    r"\overbracket": ("⎴", True, True),
    r"\underbracket": ("⎵", True, False),
    r"\overparen": ("⏜", True, True),
    r"\underparen": ("⏝", True, False),
    r"\wideparen": ("⏜", True, True),
    r"\overarc": ("⏜", True, True),
    r"\overrightarrow": ("→", True, True),
    r"\overleftarrow": ("←", True, True),
    r"\overleftrightarrow": ("↔", True, True),
    r"\underrightarrow": ("→", True, False),
    r"\underleftarrow": ("←", True, False),
    r"\underleftrightarrow": ("↔", True, False),
}
_ENCLOSURES = {
    r"\boxed": "box",
    r"\fbox": "box",
    r"\textcircled": "circle",
    r"\cancel": "updiagonalstrike",
    r"\bcancel": "downdiagonalstrike",
    r"\xcancel": "updiagonalstrike downdiagonalstrike",
}
_BIG = {"big": "1.2em", "Big": "1.8em", "bigg": "2.4em", "Bigg": "3em"}
# Alphabets by the names that Unicode gives to their letters.
_UNICODE = {"bf": "BOLD", "sf": "SANS-SERIF", "tt": "MONOSPACE", "bb": "DOUBLE-STRUCK", "cal": "SCRIPT",
            "scr": "SCRIPT", "frak": "FRAKTUR", "bfit": "BOLD ITALIC"}  # fmt: skip
_COLUMNS = {"cases": "left", "dcases": "left", "rcases": "left", "eqnarray": "right center left"}
_COLUMNS |= dict.fromkeys(["aligned", "align", "alignedat", "split"], "right left")
_LETTERS = {"l": "left", "c": "center", "r": "right"}


def to_mathml(latex: str | Sequence[str], is_display: bool = True) -> str:
    """The MathML of a label, a string or a sequence of tokens, with the LaTeX as its annotation.

    Raises LatexError where the label is not well-formed, or has a command that stands for no sign.
    """
    tokens = tokenize(latex) if isinstance(latex, str) else list(latex)
    math = Element("math", {"xmlns": NAMESPACE, "display": "block" if is_display else "inline"})
    semantics = SubElement(math, "semantics")
    semantics.append(_row(parse(tokens), ""))
    SubElement(semantics, "annotation", {"encoding": "application/x-tex"}).text = " ".join(tokens)
    return _NOT_IN_XML.sub("\ufffd", tostring(math, encoding="unicode"))


# ---- rows ------------------------------------------------------------------------------------------------------------
# `alphabet` is one of the typesetter's: "" where letters lean, "rm", "bf", "text rm" …


def _row(node: Node | None, alphabet: str) -> Element:
    """The pieces of a row in an <mrow>; a single piece by itself."""
    if node is None:
        return Element("mrow")
    pieces = _pieces(node.children, alphabet)
    return pieces[0] if len(pieces) == 1 else _with("mrow", *pieces)


def _pieces(nodes: Sequence[Node], alphabet: str) -> list[Element]:
    pieces: list[Element] = []
    for index, node in enumerate(nodes):
        if node.kind == "declaration":
            if node.name in STYLES:  # holds to the end of the row
                is_display = "true" if node.name == r"\displaystyle" else "false"
                level = {r"\scriptstyle": "1", r"\scriptscriptstyle": "2"}.get(node.name, "0")
                rest = _pieces(nodes[index + 1 :], alphabet)
                return [*pieces, _with("mstyle", *rest, displaystyle=is_display, scriptlevel=level)]
            alphabet = DECLARED[node.name]
            continue
        pieces.append(_WRITERS[node.kind](node, alphabet))
        _join_number(pieces)
        if _is_function(node) and index + 1 < len(nodes):
            pieces.append(_leaf("mo", APPLY_FUNCTION))
    return pieces


def _join_number(pieces: list[Element]) -> None:
    """Where the last piece is a digit, or one with scripts: put the digits before it, and a point, into its number."""
    last = pieces[-1][0] if pieces[-1].tag in ("msup", "msub", "msubsup") else pieces[-1]
    before = [(piece.tag, piece.text) for piece in pieces[-3:-1]]
    has_point = len(before) == 2 and before[0][0] == "mn" and before[1] == ("mo", ".")
    count = 2 if has_point else 1
    if last.tag != "mn" or not before or pieces[-1 - count].tag != "mn" or (has_point and "." in before[0][1]):
        return
    last.text = "".join(piece.text for piece in pieces[-1 - count : -1]) + last.text
    del pieces[-1 - count : -1]


def _is_function(node: Node) -> bool:
    if node.kind == "scripts" and node.children[0] is not None:
        node = node.children[0]
    if node.kind == "alphabet":
        return node.name.startswith(r"\operatorname")
    return node.kind == "symbol" and node.name in symbols.FUNCTIONS and node.name != r"\bmod"


def _with(tag: str, *children: Element, **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.extend(children)
    return element


def _leaf(tag: str, text: str, **attributes: str) -> Element:
    element = Element(tag, attributes)
    element.text = text
    return element


# ---- signs -----------------------------------------------------------------------------------------------------------


def _symbol(node: Node, alphabet: str) -> Element:
    name = node.name
    if name in symbols.FUNCTIONS:
        text = symbols.SPELLING.get(name, name[1:])
        return _leaf("mo" if name == r"\bmod" else "mi", text)
    kind, character = _sign(node)
    if character.isdigit() and character.isascii():
        return _leaf("mn", _in_alphabet(character, alphabet))
    if alphabet.startswith("text"):
        return _leaf("mtext", character)
    if kind in ("ord", "inner") and character not in _OPERATORS:
        return _letter(name, character, alphabet)
    grows = kind in ("open", "close") or character in _GROWING
    return _leaf("mo", character, **({"stretchy": "false"} if grows else {}))


def _sign(node: Node) -> tuple[str, str]:
    """The class of a symbol and its character."""
    name = node.name
    entry = symbols.ENTRIES.get(name)
    if entry is None and len(name) > 1:
        raise LatexError(node.token, f"unknown command '{name}'")
    kind = entry.kind if entry else "ord"
    return kind, _CHARACTERS.get(name) or (chr(entry.code) if entry else name)


def _letter(name: str, character: str, alphabet: str) -> Element:
    moved = _in_alphabet(character, alphabet)
    entry = symbols.ENTRIES.get(name)
    # A single letter leans unless it is told not to.
    leans = (entry is None or entry.shape == "italic") and alphabet in ("", "it", "cal")
    is_upright = moved == character and character.isalpha() and not leans
    return _leaf("mi", moved, **({"mathvariant": "normal"} if is_upright else {}))


def _in_alphabet(character: str, alphabet: str) -> str:
    """A letter or digit of another alphabet; the character itself where that has none."""
    style = _UNICODE.get(alphabet.removeprefix("text "))
    name = unicodedata.name(character, "")
    if style is None or not name.startswith(("LATIN ", "GREEK ", "DIGIT ")):
        return character
    words = name.removeprefix("LATIN ").removeprefix("GREEK ").replace(" LETTER", "")
    styles = [style, "BOLD"] if name.startswith("DIGIT") and style == "BOLD ITALIC" else [style]
    # Letters that Unicode had before, such as ℝ, ℬ and ℭ, lack the word MATHEMATICAL.
    tries = [f"MATHEMATICAL {style} {words}" for style in styles]
    tries += [f"{style} {words}", f"{style.replace('FRAKTUR', 'BLACK-LETTER')} {words}"]
    for wanted in tries:
        try:
            return unicodedata.lookup(wanted)
        except KeyError:
            continue
    return character


def _space(node: Node, alphabet: str) -> Element:
    if alphabet.startswith("text"):
        return _leaf("mtext", NO_BREAK_SPACE)
    return Element("mspace", {"width": f"{SPACE_MU[node.name] / 18:.3g}em"})


def _group(node: Node, alphabet: str) -> Element:
    return _row(node.children[0], alphabet)


def _alphabet(node: Node, alphabet: str) -> Element:
    own = ALPHABET.get(node.name, alphabet)
    children = node.children[0].children
    if own.startswith("text") and all(child.kind in ("symbol", "space") for child in children):
        letters = [NO_BREAK_SPACE if child.kind == "space" else _sign(child)[1] for child in children]
        return _leaf("mtext", "".join(_in_alphabet(letter, own) for letter in letters))
    if own == "rm" and len(children) > 1 and all(child.kind == "symbol" and len(child.name) == 1 for child in children):
        return _leaf("mi", "".join(child.name for child in children))  # of several letters it stands upright
    return _row(node.children[0], own)


def _negation(node: Node, alphabet: str) -> Element:
    struck = _row(node.children[0], alphabet)
    if struck.text is None:  # not one sign
        return _with("menclose", struck, notation="updiagonalstrike")
    struck.text = unicodedata.normalize("NFC", struck.text + LONG_SOLIDUS)
    return struck


# ---- what is set around others ---------------------------------------------------------------------------------------


def _scripts(node: Node, alphabet: str) -> Element:
    base_node, below, above = node.children
    limits, _, primes = node.details
    base = Element("mrow") if base_node is None else _WRITERS[base_node.kind](base_node, alphabet)
    below = None if below is None else _row(below, alphabet)
    above = None if above is None else _row(above, alphabet)
    if primes:
        marks = _leaf("mo", "′" * len(primes))
        above = marks if above is None else _with("mrow", marks, above)
    has_limits = limits == r"\limits" or (limits == "" and _takes_limits(base_node))
    if limits == r"\limits":
        base.set("movablelimits", "false")
    if below is None and above is None:  # `\limits`, and no script after it
        return base
    if below is None:
        return _with("mover" if has_limits else "msup", base, above)
    if above is None:
        return _with("munder" if has_limits else "msub", base, below)
    return _with("munderover" if has_limits else "msubsup", base, below, above)


def _takes_limits(node: Node | None) -> bool:
    if node is None:
        return False
    if node.kind == "accent":  # \underbrace { a } _ { b }
        return node.name.endswith(("brace", "bracket"))
    is_large = node.name in symbols.LARGE_OPERATORS and node.name not in symbols.INTEGRALS
    return node.name == r"\operatorname*" or is_large or node.name in symbols.FUNCTIONS_WITH_LIMITS


def _fraction(node: Node, alphabet: str) -> Element:
    fraction = _with("mfrac", *(_row(child, alphabet) for child in node.children))
    if node.name.endswith("binom"):
        fraction.set("linethickness", "0")
        fraction = _with("mrow", _fence("("), fraction, _fence(")"))
    style = {"d": "true", "c": "true", "t": "false"}.get(node.name[1]) if len(node.name) == 6 else None
    return fraction if style is None else _with("mstyle", fraction, displaystyle=style, scriptlevel="0")


def _root(node: Node, alphabet: str) -> Element:
    radicand, degree = node.children
    if degree is None:
        return _with("msqrt", _row(radicand, alphabet))
    return _with("mroot", _row(radicand, alphabet), _row(degree, alphabet))


def _accent(node: Node, alphabet: str) -> Element:
    content = _row(node.children[0], alphabet)
    if node.name.endswith("phantom"):
        return _with("mphantom", content)
    if node.name in _ENCLOSURES:
        return _with("menclose", content, notation=_ENCLOSURES[node.name])
    character, grows, is_above = _ACCENTS[node.name]
    mark = _leaf("mo", character, stretchy="true" if grows else "false")
    side = {"accent": "true"} if is_above else {"accentunder": "true"}
    return _with("mover" if is_above else "munder", content, mark, **side)


def _stack(node: Node, alphabet: str) -> Element:
    first, second = (_row(child, alphabet) for child in node.children)
    return _with("munder" if node.name == r"\underset" else "mover", second, first)


def _arrow(node: Node, alphabet: str) -> Element:
    above, below = (None if child is None else _row(child, alphabet) for child in node.children)
    name = "\\" + node.name.removeprefix(r"\x")
    character = "=" if name == r"\longequal" else chr(symbols.ENTRIES[name].code)
    arrow = _leaf("mo", character, stretchy="true")
    return _with("mover", arrow, above) if below is None else _with("munderover", arrow, below, above)


def _modulus(node: Node, alphabet: str) -> Element:
    words = [_leaf("mi", "mod"), Element("mspace", {"width": "0.333em"})] if node.name == r"\pmod" else []
    gap = Element("mspace", {"width": "1em"})
    return _with("mrow", gap, _fence("("), *words, _row(node.children[0], alphabet), _fence(")"))


def _fence(delimiter: str, **attributes: str) -> Element:
    character = {"<": "⟨", ">": "⟩"}.get(delimiter)
    if character is None:
        entry = symbols.ENTRIES.get(delimiter)
        character = delimiter if entry is None else chr(entry.code)
    return _leaf("mo", character, **{"fence": "true", "stretchy": "true", **attributes})


def _delimited(node: Node, alphabet: str) -> Element:
    fences = [None if name == "." else _fence(name) for name, _ in node.details]
    pieces = [fences[0]]
    for fence, row in zip(fences[1:], node.children, strict=True):
        pieces += [_row(row, alphabet), fence]
    return _with("mrow", *(piece for piece in pieces if piece is not None))


def _big(node: Node, alphabet: str) -> Element:
    ((delimiter, _),) = node.details
    size = _BIG[node.name[1:].rstrip("lrm")]
    form = {"l": "prefix", "r": "postfix"}.get(node.name[-1], "infix")
    if delimiter == ".":
        return Element("mrow")
    return _fence(delimiter, minsize=size, maxsize=size, form=form)


def _substack(node: Node, alphabet: str) -> Element:
    return _with("mtable", *(_with("mtr", _with("mtd", _row(line, alphabet))) for line in node.children))


def _matrix(node: Node, alphabet: str) -> Element:
    _, columns, _ = node.details
    lines = [[_with("mtd", _row(cell, alphabet)) for cell in line.children] for line in node.children]
    table = _with("mtable", *(_with("mtr", *cells) for cells in lines))
    align = " ".join(_LETTERS[letter] for letter in columns if letter in _LETTERS) if node.name == "array" else ""
    if align := align or _COLUMNS.get(node.name.rstrip("*"), ""):
        table.set("columnalign", align)
    if "|" in columns.strip("|") and node.name == "array":
        inner = columns.strip("|")
        solid = [inner[index + 1] == "|" for index, letter in enumerate(inner[:-1]) if letter != "|"]
        table.set("columnlines", " ".join("solid" if line else "none" for line in solid))
    left, right = FENCES.get(node.name, (".", "."))
    fences = [None if name == "." else _fence(name) for name in (left, right)]
    if fences == [None, None]:
        return table
    return _with("mrow", *(piece for piece in (fences[0], table, fences[1]) if piece is not None))


_WRITERS = {
    "row": _row,
    "symbol": _symbol,
    "space": _space,
    "group": _group,
    "alphabet": _alphabet,
    "negation": _negation,
    "scripts": _scripts,
    "fraction": _fraction,
    "root": _root,
    "accent": _accent,
    "stack": _stack,
    "arrow": _arrow,
    "modulus": _modulus,
    "delimited": _delimited,
    "big": _big,
    "substack": _substack,
    "matrix": _matrix,
}
