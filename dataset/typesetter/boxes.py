"""What typesetting is made of: boxes, the context in which a piece is set, the spaces between neighbors."""

from functools import cache
from typing import NamedTuple

DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)  # TeX's styles
SIZE = (0, 0, 1, 2)
SCALE = (1.0, 0.7, 0.5)

ORD, OP, BIN, REL, OPEN, CLOSE, PUNCT, INNER = range(8)  # TeX's classes of atoms
LEAST_RULE = 0.3  # em; a bar over nothing, or over a negative space, is still a bar

CLASS = {"ord": ORD, "op": OP, "bin": BIN, "rel": REL, "open": OPEN, "close": CLOSE, "punct": PUNCT, "inner": INNER}

# The TeXbook, chapter 18: mu between two neighbors, in text; in scripts only where the table has a star.
_SPACING = """
         Ord  Op   Bin  Rel  Open Close Punct Inner
    Ord   0    3*   4    5    0    0     0     3
    Op    3*   3*   0    5    0    0     0     3
    Bin   4    4    0    0    4    0     0     4
    Rel   5    5    0    0    5    0     0     5
    Open  0    0    0    0    0    0     0     0
    Close 0    3*   4    5    0    0     0     3
    Punct 3    3    0    3    3    3     3     3
    Inner 3    3*   4    5    3    0     3     3
"""
_ROWS = [line.split()[1:] for line in _SPACING.strip().split("\n")[1:]]
SPACING = [[(int(entry.rstrip("*")), int(entry[:-1] if "*" in entry else 0)) for entry in row] for row in _ROWS]


class Context(NamedTuple):
    """How a piece is set: TeX's style, whether exponents are kept low (cramped), and the alphabet in force."""

    style: int
    cramped: bool = False
    alphabet: str = ""

    @property
    def size(self) -> int:
        """0 text, 1 script, 2 scriptscript."""
        return SIZE[self.style]

    @property
    def scale(self) -> float:
        return SCALE[SIZE[self.style]]

    # What the pieces inside are set in (The TeXbook, chapter 17).

    @cache  # noqa: B019 (contexts are values, and few)
    def superscript(self) -> "Context":
        return Context(SCRIPT if self.style < SCRIPT else SCRIPTSCRIPT, self.cramped, self.alphabet)

    @cache  # noqa: B019
    def subscript(self) -> "Context":
        return Context(SCRIPT if self.style < SCRIPT else SCRIPTSCRIPT, True, self.alphabet)

    @cache  # noqa: B019
    def numerator(self) -> "Context":
        return Context(min(self.style + 1, SCRIPTSCRIPT), self.cramped, self.alphabet)

    @cache  # noqa: B019
    def denominator(self) -> "Context":
        return Context(min(self.style + 1, SCRIPTSCRIPT), True, self.alphabet)

    @cache  # noqa: B019
    def with_(self, style: int | None = None, cramped: bool | None = None, alphabet: str | None = None) -> "Context":
        return Context(
            self.style if style is None else style,
            self.cramped if cramped is None else cramped,
            self.alphabet if alphabet is None else alphabet,
        )


class Box:
    """Typeset material: a width, a height above and a depth below its baseline, in em, and what stands in it.

    marks: [(x, y, font, glyph, scale x, scale y, token)].   rules: [(x, y, width, height, token)] from their lower left
    corners.   boxes: [(x, y, Box)].
    italic: how far its last glyph leans out of its width.   skew: how far right of the middle an accent stands.
    is_character: a single symbol, whose scripts TeX sets lower than a box's.
    """

    __slots__ = ("width", "height", "depth", "italic", "skew", "is_character", "marks", "rules", "boxes")

    def __init__(self, width=0.0, height=0.0, depth=0.0, boxes=None, rules=None, marks=None):
        self.width, self.height, self.depth = width, height, depth
        self.italic = self.skew = 0.0
        self.is_character = False
        self.boxes, self.rules, self.marks = boxes or [], rules or [], marks or []

    def flatten(self, x: float, y: float, marks: list, rules: list) -> None:
        """Append all glyphs and rules in the box, placed with its reference point at (x, y)."""
        for left, bottom, font, glyph, scale_x, scale_y, token in self.marks:
            marks.append((x + left, y + bottom, font, glyph, scale_x, scale_y, token))
        for left, bottom, width, height, token in self.rules:
            rules.append((x + left, y + bottom, width, height, token))
        for left, bottom, box in self.boxes:
            box.flatten(x + left, y + bottom, marks, rules)


def space(width: float) -> Box:
    return Box(width)


def raised(box: Box, shift: float) -> Box:
    return Box(box.width, box.height + shift, box.depth - shift, [(0.0, shift, box)])


def beside(boxes: list[Box]) -> Box:
    """Boxes side by side on one baseline."""
    result = Box()
    for box in boxes:
        result.boxes.append((result.width, 0.0, box))
        result.width += box.width
        result.height, result.depth = max(result.height, box.height), max(result.depth, box.depth)
    return result


def stacked(content: Box, mark: Box, is_above: bool, gap: float, padding: float = 0.0) -> Box:
    """A mark over or under its content, middle over middle, a gap between them and padding on the far side."""
    width = max(content.width, mark.width)
    result = Box(width, content.height, content.depth, [((width - content.width) / 2, 0.0, content)])
    if is_above:
        y = content.height + gap + mark.depth
        result.height = y + mark.height + padding
    else:
        y = -content.depth - gap - mark.height
        result.depth = mark.depth - y + padding
    result.boxes.append(((width - mark.width) / 2, y, mark))
    return result
