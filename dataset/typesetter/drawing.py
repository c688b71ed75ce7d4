"""From placed glyphs in em to pixels: outlines are moved as a style says, and filled.

A *sign* is one glyph or one rule of a layout; here it is a handful of polygons. `style` is a `dataset.renderer.Style`.
"""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np

from dataset.typesetter import fonts

SUPERSAMPLING = 2
# cv2.fillPoly also fills every pixel that an edge touches: it goes about this far, in finer pixels, beyond the outline.
# Chosen so that images have as much ink, and as close to the same grey values, as with 32-fold supersampling.
OVERFILL = 0.45


class Shape(NamedTuple):
    """A sign before it is placed. points, normals: (P, 2) float32, as in `fonts`.   centre: (2,), of its ink."""

    points: np.ndarray
    normals: np.ndarray
    counts: tuple[int, ...]
    centre: tuple[float, float]


class Placed(NamedTuple):
    """Signs in pixels. points, normals: (P, 2) float32.   counts: for each sign the points of its polygons."""

    height: int
    width: int
    margin: int
    points: np.ndarray
    normals: np.ndarray
    counts: list[tuple[int, ...]]
    tokens: np.ndarray  # (signs,)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def image_size(extents: np.ndarray, style) -> tuple[np.ndarray, np.ndarray]:
    """Height and width in pixels of what `draw` returns, without drawing.

    extents: (..., 3) width, height, depth in em, as in `Layout.extents`. The numbers of the style may be arrays of the
    leading shape, so that a million sizes take a second.

    Without jitter the ink touches all four margins. Jitter gets some slack, and `draw` keeps the ink inside it.
    """
    extents = np.asarray(extents, np.float64)
    width, height = room(extents[..., 0], extents[..., 1] + extents[..., 2], style)
    height, width = (np.maximum(np.ceil(side * style.em - 1e-6), 1).astype(np.int64) for side in (height, width))
    return height + 2 * style.margin, width + 2 * style.margin


def room(width, height, style):
    """Width and height in em of the ink with all jitter that the style allows.

    Sums and products alone, for numbers and arrays alike: one image and a million get the same size to the last bit.
    """
    bolder = (abs(style.weight) + style.weight) / 2  # 0 where strokes get thinner
    slack = abs(style.scale_jitter) + 0.5 * abs(style.rotation_jitter) + bolder
    squeezed = (abs(style.spacing) - style.spacing) / 2  # the signs at both ends keep their own width
    stretched = (abs(style.script_shift) + style.script_shift) / 2
    height = height * (1.0 + stretched) + 2 * abs(style.baseline_jitter) + slack
    width = width * (1.0 + style.spacing) + squeezed + slack + abs(style.slant) * height
    return width, height


# ---- places ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 13)
def _glyph(font: int, glyph: int, user_font: str) -> Shape:
    path = user_font if font == fonts.USER_FONT else ""
    outline, ink = fonts.outline(font, glyph, path), fonts.metrics(font, glyph, path)
    centre = (ink.left + ink.right) / 2, (ink.bottom + ink.top) / 2
    return Shape(outline.points, fonts.normals(font, glyph, path), outline.counts, centre)


@lru_cache(maxsize=256)
def _rule(steps: int) -> Shape:
    """A rule in shares of its width and height, its long sides cut into steps, its corners in a glyph's order."""
    along = np.linspace(0, 1, steps + 1)
    upper, lower = np.stack([along, np.ones_like(along)], axis=1), np.stack([along[::-1], np.zeros_like(along)], axis=1)
    normals = np.zeros((2 * steps + 2, 2))
    normals[: steps + 1, 1], normals[steps + 1 :, 1] = 1, -1
    normals[[0, -1], 0], normals[[steps, steps + 1], 0] = -1, 1
    points = np.concatenate([upper, lower])
    return Shape(points.astype(np.float32), normals.astype(np.float32), (2 * steps + 2,), (0.5, 0.5))


def place(layout, style) -> Placed:
    """The outlines of a layout's signs where the style puts them, in pixels of the image."""
    shapes = [_glyph(font, glyph, style.chinese_font) for font, glyph in layout.glyph_ids[:, :2].tolist()]
    # a rule follows a wandering baseline only where it has corners
    shapes += [_rule(int(2 * width) + 1 if style.baseline_jitter else 1) for width in layout.rule_places[:, 2].tolist()]
    tokens = np.concatenate([layout.glyph_ids[:, 2], layout.rule_tokens])
    places = np.concatenate([layout.glyph_places, layout.rule_places])  # (signs, 4): x, y, scale x, scale y
    sizes = [len(shape.points) for shape in shapes]
    points = np.concatenate([shape.points for shape in shapes])

    width, height = room(layout.width, layout.height + layout.depth, style)
    if style.is_plain:
        each = np.repeat(places, sizes, axis=0)
        points = points * each[:, 2:] + each[:, :2]
        left, top = 0.0, layout.height
    else:
        centres = np.array([shape.centre for shape in shapes])
        points = _freely(points, sizes, centres, tokens, places, len(layout.rule_tokens), style)
        points, left, top = _into(points, width, height, max(style.weight, 0.0))
    em, margin = style.em, style.margin
    return Placed(
        height=max(ceil(height * em - 1e-6), 1) + 2 * margin,
        width=max(ceil(width * em - 1e-6), 1) + 2 * margin,
        margin=margin,
        points=points * np.float32([em, -em]) + np.float32([margin - left * em, margin + top * em]),
        normals=np.concatenate([shape.normals for shape in shapes]) * np.float32([1, -1]),
        counts=[shape.counts for shape in shapes],
        tokens=tokens,
    )


def _freely(points, sizes, centres, tokens, places, rules: int, style) -> np.ndarray:
    """Points (P, 2) of shapes to points in em, moved as far as the style allows.

    sizes: points of each sign.   centres, tokens, places: of each sign; the last `rules` signs are rules.
    """
    random = np.random.default_rng(style.seed)
    origins, scales = places[:, :2].astype(np.float64), places[:, 2:].astype(np.float64)
    centres = origins + scales * centres

    # Rules, signs that share their token with others, and signs that were stretched belong to what surrounds them: they
    # are stretched as the plane is. All others move with their place on it, and keep their own size.
    belongs = np.bincount(tokens)[tokens] > 1
    belongs |= (scales[:, 1] > 1.5 * scales[:, 0]) | (scales[:, 0] > 1.6 * scales[:, 1])
    belongs[len(tokens) - rules :] = True
    spread = np.array([style.spacing, style.script_shift])
    jitter = np.clip(random.normal(size=(len(tokens), 2)), -2, 2)
    growth, turn = 1 + style.scale_jitter * jitter[:, 0], style.rotation_jitter * jitter[:, 1]
    cosine, sine = np.where(belongs, 1 + spread[0], growth * np.cos(turn)), np.where(belongs, 0, growth * np.sin(turn))
    upright = np.where(belongs, 1 + spread[1], cosine)
    anchors = np.stack(
        [centres[:, 0], origins[:, 1]], axis=1
    )  # its middle moves along the line, its baseline up or down
    shift_x = np.where(belongs, 0, anchors[:, 0] * spread[0] + centres[:, 0] * (1 - cosine) + centres[:, 1] * sine)
    shift_y = np.where(belongs, 0, anchors[:, 1] * spread[1] + centres[:, 1] * (1 - upright) - centres[:, 0] * sine)

    # one affine map a sign, from its shape to where it stands
    maps = np.empty((len(tokens), 6), np.float32)
    maps[:, 0], maps[:, 1] = cosine * scales[:, 0], -sine * scales[:, 1]
    maps[:, 2], maps[:, 3] = sine * scales[:, 0], upright * scales[:, 1]
    maps[:, 4] = cosine * origins[:, 0] - sine * origins[:, 1] + shift_x
    maps[:, 5] = sine * origins[:, 0] + upright * origins[:, 1] + shift_y
    maps = np.repeat(maps, sizes, axis=0)
    x = maps[:, 0] * points[:, 0] + maps[:, 1] * points[:, 1] + maps[:, 4]
    y = maps[:, 2] * points[:, 0] + maps[:, 3] * points[:, 1] + maps[:, 5]
    if style.baseline_jitter:
        long, short = random.uniform((5, 2.5), (10, 4))  # wavelengths, em
        phases = random.uniform(0, 2 * np.pi, 2)
        wave = np.sin(x * np.float32(2 * np.pi / long) + np.float32(phases[0]))
        wave += np.sin(x * np.float32(2 * np.pi / short) + np.float32(phases[1])) / 2
        y += wave * np.float32(style.baseline_jitter / 1.5)
    if style.slant:
        x += y * np.float32(style.slant)
    return np.stack([x, y], axis=1)


def _into(points: np.ndarray, width: float, height: float, weight: float) -> tuple[np.ndarray, float, float]:
    """Points in the middle of a room of this size; and the room's left and top edge.

    What does not fit is made smaller, what leaves much of the room empty a little larger.
    weight: em by which strokes will be thicker than their outlines.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    space = np.array([width, height]) - weight
    growth = np.minimum(1.1, space / np.maximum(high - low, 1e-6))
    middle = (low + high) / 2 * growth
    return points * growth.astype(np.float32), float(middle[0] - width / 2), float(middle[1] + height / 2)


def boxes(placed: Placed) -> list[tuple[int, float, float, float, float]]:
    """(token, left, top, right, bottom) in pixels for every token that leaves ink, by token."""
    starts = np.concatenate([[0], np.cumsum([sum(counts) for counts in placed.counts])[:-1]])
    order = np.argsort(placed.tokens, kind="stable")
    tokens, first = np.unique(placed.tokens[order], return_index=True)
    low = np.minimum.reduceat(np.minimum.reduceat(placed.points, starts)[order], first)
    high = np.maximum.reduceat(np.maximum.reduceat(placed.points, starts)[order], first)
    return [(token, *a, *b) for token, a, b in zip(tokens.tolist(), low.tolist(), high.tolist(), strict=True)]


# ---- ink -------------------------------------------------------------------------------------------------------------


def fill(placed: Placed, weight: float = 0.0) -> np.ndarray:
    """Smooth-edged ink 255 on paper 0, uint8 (H, W). weight: pixels by which strokes get thicker."""
    import cv2

    fine = SUPERSAMPLING
    canvas = np.zeros((placed.height * fine, placed.width * fine), np.uint8)
    outwards = fine * weight / 2 - OVERFILL
    corners = placed.points * fine + placed.normals * outwards
    # thicker strokes have longer corners; none may reach into the margins
    low, high = placed.margin * fine + OVERFILL, (placed.width, placed.height)
    corners = np.clip(corners, low, np.array(high, np.float32) * fine - low)
    corners = np.rint((corners - 0.5) * 64).astype(np.int32)  # a pixel's position is its centre
    start = 0
    for counts in placed.counts:  # a sign at a time: two that overlap must not cut holes into each other
        polygons = []
        for count in counts:
            polygons.append(corners[start : start + count])
            start += count
        cv2.fillPoly(canvas, polygons, 255, cv2.LINE_8, 6)
    return cv2.resize(canvas, (placed.width, placed.height), interpolation=cv2.INTER_AREA)
