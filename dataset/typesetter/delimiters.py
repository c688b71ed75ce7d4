r"""Delimiters of any height (rule 19): \left … \right, \big, and what binomials, roots and matrices need."""

from math import ceil

from dataset.latex.parser import Node
from dataset.typesetter import fonts, symbols
from dataset.typesetter.boxes import CLOSE, INNER, OPEN, ORD, REL, SCALE, TEXT, Box, Context, beside, space
from dataset.typesetter.computer_modern import AXIS
from dataset.typesetter.fonts import NUMBER

NULL_DELIMITER = 0.12  # \nulldelimiterspace, 1.2 pt

# Computer Modern's four larger sizes of each delimiter are named after these stems.
_STEMS = {
    "(": "parenleft",
    ")": "parenright",
    "[": "bracketleft",
    "]": "bracketright",
    r"\{": "braceleft",
    r"\}": "braceright",
    r"\langle": "angbracketleft",
    r"\rangle": "angbracketright",
    r"\lfloor": "floorleft",
    r"\rfloor": "floorright",
    r"\lceil": "ceilingleft",
    r"\rceil": "ceilingright",
    "/": "slash",
    r"\backslash": "backslash",
    r"\surd": "radical",
}
_BARS = {"|": "vextendsingle", r"\|": "vextenddouble"}
_NEVER_STRETCHED = frozenset([r"\langle", r"\rangle", "/", r"\backslash"])  # the slanted ones
_SAME = {"<": r"\langle", ">": r"\rangle", "⟨": r"\langle", "⟩": r"\rangle", r"\lbrace": r"\{", r"\rbrace": r"\}"}
_SAME |= {r"\lbrack": "[", r"\rbrack": "]"}
_SAME |= dict.fromkeys([r"\vert", r"\lvert", r"\rvert"], "|") | dict.fromkeys([r"\Vert", r"\lVert", r"\rVert"], r"\|")
_STIX_SIZES = ("STIXSizOneSymReg", "STIXSizTwoSymReg", "STIXSizThreeSymReg", "STIXSizFourSymReg")

# What \big and its larger kin reach, in em: the next larger form is 1.2, 1.8, 2.4, 3.0.
_BIG = {"big": 1.1, "Big": 1.7, "bigg": 2.3, "Bigg": 2.9}


def set_delimited(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    rows = [typesetter.row(child, context) for child in node.children]
    return INNER, enclosed(typesetter, rows, node.details, context)


def set_big(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    ((name, token),) = node.details
    size = node.name[1:].rstrip("lrm")
    kind = {"l": OPEN, "r": CLOSE, "m": REL}.get(node.name[1 + len(size) :], ORD)
    return kind, delimiter(typesetter, name, token, _BIG[size], context.with_(style=TEXT))


def enclosed(typesetter, rows: list[Box], delimiters: list[tuple[str, int]], context: Context) -> Box:
    r"""Rows between delimiters high enough for all of them (\delimiterfactor 901, \delimitershortfall 5 pt)."""
    axis = AXIS * context.scale
    reach = max(max(row.height - axis, row.depth + axis) for row in rows)
    height = max(2 * reach * 0.901, 2 * reach - 0.5)
    first, *others = (delimiter(typesetter, name, token, height, context) for name, token in delimiters)
    boxes = [first]
    for row, sign in zip(rows, others, strict=True):
        boxes += [row, sign]
    return beside(boxes)


def delimiter(typesetter, name: str, token: int, height: float, context: Context) -> Box:
    """A delimiter at least this high, its middle on the axis."""
    if name == ".":
        return space(NULL_DELIMITER)
    font, glyph, wide, tall = fitted(typesetter, _SAME.get(name, name), height, context.size)
    ink = fonts.metrics(font, glyph)
    shift = AXIS * context.scale - (ink.top + ink.bottom) / 2 * tall
    box = Box(ink.advance * wide, ink.top * tall + shift, -ink.bottom * tall - shift)
    box.marks = [(0.0, shift, font, glyph, wide, tall, token)]
    return box


def fitted(typesetter, name: str, height: float, size: int) -> tuple[int, int, float, float]:
    """A delimiter at least this high, as (font, glyph, scale x, scale y).

    TeX tries the ordinary sign at this size and at larger ones, then the larger forms; what none of them reaches is
    stretched.
    """
    small, *larger = _forms(typesetter, name)
    for trial in range(size, -1, -1):
        if _ink_height(*small) * SCALE[trial] >= height - 1e-3:
            return *small, SCALE[trial] * typesetter.widening(small[0], trial), SCALE[trial]
    scale = SCALE[size]
    for font, glyph in larger:
        if _ink_height(font, glyph) * scale >= height - 1e-3:
            return font, glyph, scale * typesetter.widening(font, size), scale
    font, glyph = (larger or [small])[-1]
    wide = scale * typesetter.widening(font, size)
    if name in _NEVER_STRETCHED and larger:
        return font, glyph, wide, scale
    if typesetter.is_computer_modern:  # its largest signs are pieced together, and grow in steps of 0.6 em
        height = 0.6 * scale * ceil(height / (0.6 * scale) - 1e-3)
    tall = height / _ink_height(font, glyph)
    if not larger:  # one form has to serve for all heights
        wide *= min((tall / scale) ** 0.3, 1.5)
    return font, glyph, wide, tall


def _ink_height(font: int, glyph: int) -> float:
    ink = fonts.metrics(font, glyph)
    return ink.top - ink.bottom


def _forms(typesetter, name: str) -> list[tuple[int, int]]:
    """The forms of a delimiter from small to large, as (font, glyph); that of bars is only there to be stretched."""
    forms = typesetter.delimiters.get(name)
    if forms is None:
        symbol = symbols.find(name, "", typesetter.family, typesetter.user_font)
        forms = typesetter.delimiters[name] = [(symbol.parts[0].font, symbol.parts[0].glyph)]
        extension = NUMBER["cmex10"]
        if typesetter.is_computer_modern and name in _BARS:
            forms.append((extension, fonts.glyph_of_name(extension, _BARS[name])))
        elif typesetter.is_computer_modern and name in _STEMS:
            forms += [(extension, fonts.glyph_of_name(extension, _STEMS[name] + size)) for size in _BIG]
        elif typesetter.family in ("cm", "stix") and name in _STEMS:
            code = symbols.ENTRIES[name].code
            found = [(NUMBER[font], fonts.glyph_of_character(NUMBER[font], code)) for font in _STIX_SIZES]
            forms += [(font, glyph) for font, glyph in found if glyph]
    return forms
