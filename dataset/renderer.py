r"""Draw labels: LaTeX in, the standard image out, and where each token of the label stands in it.

    image = render(r"\frac{1}{2}")                   # uint8 (H, W), dark on light, as printed
    placed = layout(r"\frac { 1 } { 2 }")              # glyphs and rules, each with its token's index: cheap to keep
    image = draw(placed, Style(em=32, slant=0.2))    # drawn again, in any style of the same font
    placed.boxes(Style(em=32, slant=0.2))              # where each token lies in that image

Layouts are measured in em, images in pixels. Who trains on standard images keeps layouts, and draws in every epoch.
`python -m tests.benchmarks.sheet_of_labels '\frac{1}{2}' labels.txt --out sheet.png --tokens` draws labels for people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dataset.latex.parser import LatexError, parse, tokenize
from dataset.typesetter import drawing, fonts, symbols
from dataset.typesetter.drawing import image_size as image_size  # for those who must know sizes without drawing
from dataset.typesetter.typeset import Typesetter
from utils.errors import DataError

FAMILIES = symbols.FAMILIES
MAX_TOKENS = 6_000  # the longest label of CROHME has 204


class RenderError(DataError):
    """A label that cannot be drawn: `latex`, the index of the `token` at fault, and the `reason`."""

    def __init__(self, latex: str, token: int, reason: str):
        shown = latex if len(latex) <= 80 else latex[:77] + "..."
        super().__init__(f"cannot draw {shown!r}: token {token}: {reason}")
        self.latex, self.token, self.reason = latex, token, reason

    def __reduce__(self):
        return RenderError, (self.latex, self.token, self.reason)


@dataclass(frozen=True)
class Style:
    """How a label is drawn. The defaults give the standard image; its jitter ranges are all zero.

    The first five count when a label is laid out, the others when it is drawn: one layout serves all their values.
    The same style, seed included, gives the same image.
    """

    font: str = "cm"  # cm, stix, dejavusans, dejavuserif
    display: bool = True  # large operators and fractions as on a line of their own
    chinese_font: str = ""  # a font file, for labels with Chinese
    max_width_em: float = 300.0  # what is larger is refused
    max_height_em: float = 100.0
    em: float = 50.0  # pixels
    margin: int = 4  # pixels of paper on each side
    weight: float = 0.0  # em by which strokes get thicker; below -0.03 thin ones begin to break
    slant: float = 0.0  # to the right per upwards
    # jitter ranges, between type and a near-casual hand
    spacing: float = 0.0  # share by which distances along the line grow; signs keep their width
    script_shift: float = 0.0  # share by which distances from the baseline grow
    baseline_jitter: float = 0.0  # em by which the baseline moves up and down
    scale_jitter: float = 0.0  # share by which signs differ in size (standard deviation)
    rotation_jitter: float = 0.0  # radians by which they are turned (standard deviation)
    seed: int = 0  # chooses among what the last three allow

    @property
    def is_plain(self) -> bool:
        """True where every sign stands exactly where the layout has it."""
        moves = (
            self.slant,
            self.spacing,
            self.script_shift,
            self.baseline_jitter,
            self.scale_jitter,
            self.rotation_jitter,
        )
        return not any(moves) and self.weight <= 0


class Glyph(NamedTuple):
    """A glyph that a token drew: its origin at (x, y) em, y upwards from the baseline, enlarged by the two scales."""

    font: int
    glyph: int
    x: float
    y: float
    scale_x: float
    scale_y: float
    token: int


class Rule(NamedTuple):
    """A filled rectangle that a token drew, its lower left corner at (x, y) em."""

    x: float
    y: float
    width: float
    height: float
    token: int


class Layout:
    """Placed glyphs and rules. Their ink fills exactly 0..width and -depth..height, in em from the baseline.

    Kept in five arrays, which are what a cache stores:
      extents (3,) float32: width, height, depth; depth is negative where all ink is above the baseline
      glyph_ids (G, 3) uint16: font, glyph, token      glyph_places (G, 4) float32: x, y, scale x, scale y
      rule_tokens (R,) uint16                          rule_places (R, 4) float32: x, y, width, height
    """

    __slots__ = ("extents", "glyph_ids", "glyph_places", "rule_tokens", "rule_places")

    def __init__(self, extents, glyph_ids, glyph_places, rule_tokens, rule_places):
        self.extents = extents
        self.glyph_ids, self.glyph_places = glyph_ids, glyph_places
        self.rule_tokens, self.rule_places = rule_tokens, rule_places

    @property
    def width(self) -> float:
        return float(self.extents[0])

    @property
    def height(self) -> float:
        return float(self.extents[1])

    @property
    def depth(self) -> float:
        return float(self.extents[2])

    @property
    def glyphs(self) -> tuple[Glyph, ...]:
        rows = zip(self.glyph_ids.tolist(), self.glyph_places.tolist(), strict=True)
        return tuple(Glyph(font, glyph, *place, token) for (font, glyph, token), place in rows)

    @property
    def rules(self) -> tuple[Rule, ...]:
        rows = zip(self.rule_places.tolist(), self.rule_tokens.tolist(), strict=True)
        return tuple(Rule(*place, token) for place, token in rows)

    @property
    def tokens(self) -> set[int]:
        """Indices of the tokens that own a glyph or a rule."""
        return {*self.glyph_ids[:, 2].tolist(), *self.rule_tokens.tolist()}

    def boxes(self, style: Style = Style()) -> list[tuple[int, float, float, float, float]]:  # noqa: B008
        """(token, left, top, right, bottom) in pixels of the image, for every token that leaves ink, by token."""
        return drawing.boxes(drawing.place(self, style))

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, extents, glyph_ids, glyph_places, rule_tokens, rule_places) -> "Layout":
        return cls(extents, glyph_ids, glyph_places, rule_tokens, rule_places)


# One for each font and set of limits: it remembers what it has looked up.
_typesetter = lru_cache(maxsize=16)(Typesetter)


def layout(latex: str | Sequence[str], style: Style = Style()) -> Layout:  # noqa: B008 (a Style never changes)
    """Lay out a label, a string or a sequence of tokens. Raises RenderError where it cannot be drawn."""
    if style.font not in FAMILIES:
        raise ValueError(f"font: expected one of {', '.join(FAMILIES)}, got {style.font!r}")
    try:
        # a string is measured first: even cutting it into tokens takes time
        if len(latex) > MAX_TOKENS * (16 if isinstance(latex, str) else 1):
            raise LatexError(MAX_TOKENS, f"longer than {MAX_TOKENS} tokens")
        tokens = tokenize(latex) if isinstance(latex, str) else latex
        if len(tokens) > MAX_TOKENS:
            raise LatexError(MAX_TOKENS, f"longer than {MAX_TOKENS} tokens")
        if not tokens:
            raise LatexError(0, "the label is empty")
        typesetter = _typesetter(style.font, style.chinese_font, style.max_width_em, style.max_height_em)
        box = typesetter.set_label(parse(tokens), style.display)
        marks, rules = [], []
        box.flatten(0.0, 0.0, marks, rules)
        if not marks and not rules:
            raise LatexError(0, "nothing in it leaves ink")
    except LatexError as error:
        text = latex if isinstance(latex, str) else " ".join(map(str, latex))
        raise RenderError(text, error.index, error.reason) from None
    return _pack(marks, rules, style.chinese_font)


def _pack(marks: list, rules: list, chinese_font: str) -> Layout:
    """Marks and rules of a box as a layout, moved so that the ink starts at x = 0."""
    left = bottom = 1e9
    right = top = -1e9
    for x, y, font, glyph, scale_x, scale_y, _ in marks:
        ink = fonts.metrics(font, glyph, chinese_font if font == fonts.USER_FONT else "")
        left, right = min(left, x + ink.left * scale_x), max(right, x + ink.right * scale_x)
        bottom, top = min(bottom, y + ink.bottom * scale_y), max(top, y + ink.top * scale_y)
    for x, y, width, height, _ in rules:
        left, right, bottom, top = min(left, x), max(right, x + width), min(bottom, y), max(top, y + height)
    return Layout(
        extents=np.array([right - left, top, -bottom], np.float32),
        glyph_ids=np.array([(mark[2], mark[3], mark[6]) for mark in marks], np.uint16).reshape(-1, 3),
        glyph_places=np.array([(m[0] - left, m[1], m[4], m[5]) for m in marks], np.float32).reshape(-1, 4),
        rule_tokens=np.array([rule[4] for rule in rules], np.uint16),
        rule_places=np.array([(rule[0] - left, *rule[1:4]) for rule in rules], np.float32).reshape(-1, 4),
    )


def draw_ink(layout: Layout, style: Style = Style()) -> np.ndarray:  # noqa: B008
    """The image of a layout as a network sees it: uint8 (H, W) as `image_size` says, ink 255 on paper 0."""
    return drawing.fill(drawing.place(layout, style), style.weight * style.em)


def draw(layout: Layout, style: Style = Style()) -> np.ndarray:  # noqa: B008
    """The image of a layout as it is printed: uint8 (H, W), dark ink on light paper."""
    return 255 - draw_ink(layout, style)


def render(latex: str | Sequence[str], style: Style = Style()) -> np.ndarray:  # noqa: B008
    """The image of a label: uint8 (H, W), dark ink on light paper. Raises RenderError where it cannot be drawn."""
    return draw(layout(latex, style), style)
