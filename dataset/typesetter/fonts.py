"""The fonts that come with matplotlib: outlines and metrics of their glyphs, in em.

A font is a number, its place in FONTS; a glyph is its number in that font. Lengths are in em, y grows upwards from the
baseline.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from utils.errors import DataError

FONTS = (  # cached layouts know fonts by their place: only ever append
    "cmr10",
    "cmmi10",
    "cmsy10",
    "cmex10",
    "cmb10",
    "cmss10",
    "cmtt10",
    "cmti10",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "STIXSizOneSymReg",
    "STIXSizTwoSymReg",
    "STIXSizThreeSymReg",
    "STIXSizFourSymReg",
    "STIXSizFiveSymReg",
    "STIXNonUni",
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
)
NUMBER = {name: number for number, name in enumerate(FONTS)}
USER_FONT = 255  # the number of the font that a style names for Chinese, whatever file that is


class Metrics(NamedTuple):
    """What the typesetter must know of a glyph: its advance width, and the edges of its ink."""

    advance: float
    left: float
    bottom: float
    right: float
    top: float


@lru_cache(maxsize=64)
def _face(font: int, user_font: str):
    # imported late: whoever only parses labels or reads cached sizes does not pay for it
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    if font == USER_FONT:
        try:
            face = FT2Font(user_font)
        except (OSError, RuntimeError) as error:
            raise DataError(f"chinese_font: {user_font!r} cannot be read as a font: {error}") from None
    else:
        face = FT2Font(f"{get_data_path()}/fonts/ttf/{FONTS[font]}.ttf")
    return face, face.get_charmap(), {}


def glyph_of_character(font: int, character: str | int, user_font: str = "") -> int:
    """The number of a character's glyph, 0 where the font has none."""
    code = ord(character) if isinstance(character, str) else character
    return _face(font, user_font)[1].get(code, 0)


def glyph_of_name(font: int, name: str) -> int:
    """The number of the glyph with this PostScript name, for Computer Modern, whose encoding is its own."""
    face, _, names = _face(font, "")
    if not names:
        names.update({face.get_glyph_name(glyph): glyph for glyph in range(face.num_glyphs)})
    return names[name]


def _load(font: int, glyph: int, user_font: str):
    from matplotlib.ft2font import LoadFlags

    face = _face(font, user_font)[0]
    return face, face.load_glyph(glyph, flags=LoadFlags.NO_SCALE)


@lru_cache(maxsize=1 << 14)
def metrics(font: int, glyph: int, user_font: str = "") -> Metrics:
    face, loaded = _load(font, glyph, user_font)
    left, bottom, right, top = loaded.bbox
    unit = 1.0 / face.units_per_EM
    return Metrics(loaded.horiAdvance * unit, left * unit, bottom * unit, right * unit, top * unit)


class Outline(NamedTuple):
    """A glyph's closed curves as polygons: all points (P, 2) float32 in em, and the number of points of each."""

    points: np.ndarray
    counts: tuple[int, ...]


@lru_cache(maxsize=1 << 13)
def outline(font: int, glyph: int, user_font: str = "") -> Outline:
    face, _ = _load(font, glyph, user_font)
    points, codes = face.get_path()
    # unscaled outlines come as font units in FreeType's 26.6 fixed-point form, hence the 64
    polygons = _flatten(points * (64.0 / face.units_per_EM), codes)
    if not polygons:
        return Outline(np.zeros((0, 2), np.float32), ())
    return Outline(np.concatenate(polygons), tuple(len(polygon) for polygon in polygons))


@lru_cache(maxsize=1 << 13)
def normals(font: int, glyph: int, user_font: str = "") -> np.ndarray:
    """(P, 2) float32: which way is out of the ink at each point of the outline, to make strokes thicker or thinner."""
    points, counts = outline(font, glyph, user_font)
    if not counts:
        return points
    polygons = np.split(points, np.cumsum(counts)[:-1])
    largest = max(polygons, key=lambda polygon: abs(_area(polygon)))
    outwards = -1.0 if _area(largest) > 0 else 1.0  # TrueType fills to the right of its curves, PostScript to the left
    return np.concatenate([outwards * _normals(polygon) for polygon in polygons]).astype(np.float32)


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


def _normals(polygon: np.ndarray) -> np.ndarray:
    """Normals to the left at a closed polygon's corners, so long (two at most) that both edges there move by one."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    edges /= np.maximum(np.hypot(edges[:, :1], edges[:, 1:]), 1e-9)
    left = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    both = left + np.roll(left, 1, axis=0)
    return both / np.maximum((both * left).sum(axis=1, keepdims=True), 0.5)


MOVE, LINE, CONIC, CUBIC, CLOSE = 1, 2, 3, 4, 79


def _flatten(points: np.ndarray, codes: np.ndarray, tolerance: float = 0.0015) -> list[np.ndarray]:
    """Curves to polygons that stay within `tolerance` em of them, 0.15 px at 100 px per em; no point twice."""
    polygons, current, index = [], [], 0
    while index < len(codes):
        code = codes[index]
        if code == MOVE:
            current = [points[index]]
            index += 1
        elif code == LINE:
            current.append(points[index])
            index += 1
        elif code in (CONIC, CUBIC):
            degree = 2 if code == CONIC else 3
            control = np.stack([current[-1], *points[index : index + degree]])
            # a conic strays from its chord by at most a quarter of its second difference, a cubic by three quarters
            bend = np.abs(np.diff(control, n=2, axis=0)).max()
            steps = int(np.clip(np.ceil(np.sqrt(bend * (0.25 if degree == 2 else 0.75) / tolerance)), 1, 12))
            t = np.linspace(0, 1, steps + 1)[1:, None]
            control = control[:, None]  # (points, 1, 2): all t at once
            while len(control) > 1:  # de Casteljau: halfway points of halfway points
                control = control[:-1] + (control[1:] - control[:-1]) * t
            current.extend(control[0])
            index += degree
        else:  # CLOSE
            polygon = np.asarray(current, np.float32)
            is_new = np.abs(polygon - np.roll(polygon, 1, axis=0)).max(axis=1) > 1e-5
            if is_new.sum() > 2:
                polygons.append(polygon[is_new])
            current = []
            index += 1
    return polygons
