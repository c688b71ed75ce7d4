"""Distortions of ink, other ones in every epoch: of images, and of pen strokes before they are drawn.

Every draw is a pure function of (seed, epoch, index), so an image looks the same with any number of workers, in any
order. All that moves ink (scale, stretch, shear, rotation, perspective, smooth distortion) is composed into one map and
sampled once: each resampling blurs. The canvas grows with what is moved, so no ink is cut off, and its size is known
without drawing: samplers plan batches with `sizes_after`. Nothing is flipped: a mirrored formula says something else.

OpenCV and NumPy only: torchvision would have to import, and to fit the installed torch, wherever images are read.
`python prepare.py --dataset NAME --sheet sheet.png` draws a sheet of examples.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.draws import uniform

# Pixels between the control points of the smooth distortion: a little less than the height of an ordinary symbol.
SPACING = 24
# A thinned stroke keeps at least this share of its darkness where it was no wider than what is taken away.
LEAST_INK = 0.3


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the distortions of images; all neutral by default. Raises ValueError that names a bad one."""

    scale: tuple[float, float] = (1, 1)  # factor of both sides; drawn with even odds for half and double
    stretch: tuple[float, float] = (1, 1)  # factor of the width alone
    rotation: float = 0  # at most so many degrees, either way
    shear: float = 0  # slant: at most this share of the height, either way
    perspective: float = 0  # each corner moves by at most this share of the sides
    distortion: float = 0  # control points, SPACING pixels apart, move by at most so many pixels
    thickness: float = 0  # share of images whose strokes are thickened or thinned, by up to a pixel
    contrast: float = 0  # ink loses at most this share of its darkness
    blur: float = 0  # sigma of a Gaussian, at most so many pixels
    cut_outs: int = 0  # at most so many squares of paper over the ink
    cut_out_size: int = 8  # pixels, at most; small against a symbol, or the label is no longer true

    def __post_init__(self):
        for name, value in vars(self).items():
            if name in ("scale", "stretch"):
                _check_factors(name, value)
            elif not 0 <= value <= _LARGEST.get(name, math.inf):
                raise ValueError(f"{name}: expected a number from 0 to {_LARGEST.get(name, 'anything')}, got {value}")

    @property
    def moves_ink(self) -> bool:
        """Whether anything but the grey levels changes."""
        factors = {*self.scale, *self.stretch}
        return factors != {1} or any([self.rotation, self.shear, self.perspective, self.distortion])


# Beyond these ink folds over, or is not to be read any more.
_LARGEST = {"rotation": 45, "shear": 1, "perspective": 0.2, "distortion": SPACING / 3, "thickness": 1, "contrast": 0.9}


def _check_factors(name: str, value: tuple[float, float]) -> None:
    low, high = value
    if not 0 < low <= high < math.inf:
        raise ValueError(f"{name}: expected two positive factors, the smaller first, got {list(value)}")


# -------------------------------------------------------------------------------------------------------------- draws

# Which draws of an image are whose. Control points and cut-outs take as many as they need, from their first one on.
SCALE, STRETCH, ROTATION, SHEAR, PERSPECTIVE, GEOMETRY = 0, 1, 2, 3, slice(4, 12), 12
THICKNESS, AMOUNT, CONTRAST, BLUR, CUT_OUTS, APPEARANCE = 0, 1, 2, 3, 4, 5
FIRST_OF_CUT_OUTS, FIRST_OF_STROKES, FIRST_OF_CONTROL_POINTS = 100, 1_000, 1_000_000


def _factor(draws: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    low, high = bounds
    return low * (high / low) ** draws


# ----------------------------------------------------------------------------------------------------------- geometry


def sizes_after(sizes: np.ndarray, seed: int, epoch: int, settings: Augmentation) -> np.ndarray:
    """Height and width of every image after `augment`, without drawing it: (N, 2) int32, given those before."""
    after = np.empty((len(sizes), 2), np.int32)
    for start in range(0, len(sizes), 8192):  # so many at once stay in the processor's cache
        indices = np.arange(start, min(start + 8192, len(sizes)))
        after[indices, ::-1] = _canvas(_corners(sizes[indices], indices, seed, epoch, settings), settings)
    return after


def _corners(sizes: np.ndarray, indices: np.ndarray, seed: int, epoch: int, settings: Augmentation) -> np.ndarray:
    """Where the corners of images go: (N, 4, 2), x and y in pixels, clockwise from the left top, around a centre."""
    draws = uniform(seed, epoch, indices, GEOMETRY)
    swing = 2 * draws - 1  # -1 .. 1
    scale = _factor(draws[:, SCALE], settings.scale)
    height = sizes[:, 0] * scale
    width = sizes[:, 1] * scale * _factor(draws[:, STRETCH], settings.stretch)
    y = height[:, None] * [-0.5, -0.5, 0.5, 0.5]
    x = width[:, None] * [-0.5, 0.5, 0.5, -0.5] - settings.shear * swing[:, SHEAR, None] * y
    angle = np.radians(settings.rotation) * swing[:, ROTATION, None]
    corners = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=2)
    sides = np.stack([width, height], axis=1)[:, None]
    return corners + settings.perspective * sides * swing[:, PERSPECTIVE].reshape(-1, 4, 2)


def _canvas(corners: np.ndarray, settings: Augmentation) -> np.ndarray:
    """The size that holds the corners, and what the smooth distortion moves beyond them: (N, 2) int32, width first."""
    extent = corners.max(axis=1) - corners.min(axis=1)
    room = 2 * math.ceil(settings.distortion)
    # The last digits of a sum depend on the processor; a size must not.
    return np.maximum(np.ceil(extent - 1e-4), 1).astype(np.int32) + room


def _move(image: np.ndarray, index: int, seed: int, epoch: int, settings: Augmentation) -> np.ndarray:
    """Scale, stretch, shear, rotate, tilt and distort an image in one resampling."""
    source, corners, canvas = _place(image.shape, index, seed, epoch, settings)
    # From the canvas back to the image, first at control points only: they carry perspective and distortion alike.
    back = cv2.getPerspectiveTransform(corners, source)
    columns, rows = (_spline(int(side)) for side in canvas)
    points = np.ones((rows.shape[1], columns.shape[1], 3))
    points[..., 0] = (np.arange(columns.shape[1]) - 1) * SPACING
    points[..., 1] = (np.arange(rows.shape[1])[:, None] - 1) * SPACING
    if settings.distortion:
        draws = uniform(seed, epoch, np.array([index]), points[..., :2].size, FIRST_OF_CONTROL_POINTS)
        points[..., :2] += settings.distortion * (2 * draws - 1).reshape(points[..., :2].shape)
    points = points @ back.T
    maps = points[..., :2] / points[..., 2:] - 0.5  # -0.5: a pixel's position is its centre
    maps = [rows @ maps[..., axis].astype(np.float32) @ columns.T for axis in (0, 1)]
    return cv2.remap(image, *maps, cv2.INTER_LINEAR)


def _place(
    size: Sequence[int], index: int, seed: int, epoch: int, settings: Augmentation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image's corners, where they go, both float32 (4, 2) clockwise from the left top, and the canvas's size."""
    height, width = size
    corners = _corners(np.array([[height, width]]), np.array([index]), seed, epoch, settings)
    canvas = _canvas(corners, settings)[0]
    corners = corners[0] + canvas / 2 - (corners[0].min(axis=0) + corners[0].max(axis=0)) / 2
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return source, corners.astype(np.float32), canvas


def boxes_after(
    boxes: np.ndarray, size: Sequence[int], index: int, seed: int, epoch: int, settings: Augmentation
) -> np.ndarray:
    """Where `augment` moves what lies in boxes: float32 (N, 4), left, top, right, bottom in pixels. NaN stays NaN.

    size: height and width of the image before. The smooth distortion is left out: it moves ink by `distortion` pixels
    at most, and mostly by a third of that.
    """
    if not settings.moves_ink or not len(boxes):
        return boxes
    source, corners, _ = _place(size, index, seed, epoch, settings)
    points = np.ones((len(boxes), 4, 3))
    points[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = points @ cv2.getPerspectiveTransform(source, corners).T
    points = points[..., :2] / points[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)


def _spline(length: int) -> np.ndarray:
    """How pixels follow control points: (length, points) float32, the uniform cubic B-spline; point 1 lies at pixel 0.

    Rows sum to one and have no negative weight, so no pixel moves further than its control points.
    """
    spline = _long_spline(1 << (length - 1).bit_length())  # a shorter one is its beginning
    return spline[:length, : int((length - 0.5) // SPACING) + 4]


@functools.cache
def _long_spline(length: int) -> np.ndarray:
    point, t = np.divmod((np.arange(length) + 0.5) / SPACING, 1)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    spline = np.zeros((length, int(point[-1]) + 4), np.float32)
    np.put_along_axis(spline, point.astype(int)[:, None] + np.arange(4), weights / 6, axis=1)
    return spline


# ----------------------------------------------------------------------------------------------------------- images


def augment(image: np.ndarray, index: int, seed: int, epoch: int, settings: Augmentation) -> np.ndarray:
    """Distort one image: uint8 (H, W) to uint8 of the size that `sizes_after` tells for this index.

    image: ink 255 on paper 0; it is left as it is, and may be returned itself where nothing changes.
    """
    draws = uniform(seed, epoch, np.array([index]), APPEARANCE, GEOMETRY)[0]
    if draws[THICKNESS] < settings.thickness:
        image = _thicken(image, 2 * draws[AMOUNT] - 1)
    if settings.moves_ink:
        image = _move(image, index, seed, epoch, settings)
    if settings.blur * draws[BLUR] > 0.2:  # below, nothing would be seen
        image = cv2.GaussianBlur(image, (0, 0), settings.blur * draws[BLUR])
    if settings.contrast:
        image = cv2.convertScaleAbs(image, alpha=1 - settings.contrast * draws[CONTRAST])
    if settings.cut_outs:
        squares = uniform(seed, epoch, np.array([index]), 3 * settings.cut_outs, FIRST_OF_CUT_OUTS).reshape(-1, 3)
        image = _cut_out(image, squares[: round(settings.cut_outs * draws[CUT_OUTS])], settings.cut_out_size)
    return image


def _thicken(image: np.ndarray, amount: float) -> np.ndarray:
    """Add a pixel to all strokes, or take one off. amount: from -1, thinner, to 1, thicker; between, a mixture."""
    square = np.ones((2, 2), np.uint8)
    if amount > 0:
        return cv2.addWeighted(image, 1 - amount, cv2.dilate(image, square), amount, 0)
    share = -amount * (1 - LEAST_INK)
    return cv2.addWeighted(image, 1 - share, cv2.erode(image, square), share, 0)


def _cut_out(image: np.ndarray, squares: np.ndarray, size: int) -> np.ndarray:
    """Lay squares of paper over an image. squares: (count, 3) draws of row, column and side."""
    image = image.copy()
    for row, column, side in squares:
        side = math.ceil(size * (1 + side) / 2)
        top, left = int(row * image.shape[0]) - side // 2, int(column * image.shape[1]) - side // 2
        image[max(top, 0) : top + side, max(left, 0) : left + side] = 0
    return image


# ------------------------------------------------------------------------------------------------------------ strokes


@dataclass(frozen=True, kw_only=True)
class StrokeAugmentation:
    """Ranges of the distortions of pen strokes; all neutral by default. Raises ValueError that names a bad one.

    Lengths are in pixels of the image, where an ordinary stroke is 28 high.
    """

    pen: tuple[int, int] = (3, 3)  # width of the strokes, both ends included
    jitter: float = 0  # the hand's tremble: points along a stroke move by at most so many pixels
    shift: float = 0  # each symbol moves by at most so many pixels, in x and in y
    scale: tuple[float, float] = (1, 1)  # factor of each symbol, about its centre
    stretch: tuple[float, float] = (1, 1)  # factor of each symbol's width against its height
    slant: float = 0  # of each symbol: at most this share of its height, either way
    rotation: float = 0  # of each symbol, degrees, either way
    smoothing: float = 0  # sigma of a Gaussian along the stroke, at most so many points
    exchange: float = 0  # share of the symbols that become others of their token; see dataset/images/exchange.py

    def __post_init__(self):
        if not 1 <= self.pen[0] <= self.pen[1]:
            raise ValueError(f"pen: expected two widths of at least 1 pixel, the smaller first, got {list(self.pen)}")
        _check_factors("scale", self.scale)
        _check_factors("stretch", self.stretch)
        for name in ("jitter", "shift", "slant", "rotation", "smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not 0 <= self.exchange <= 1:
            raise ValueError(f"exchange: expected a share, 0 to 1, got {self.exchange}")


AS_WRITTEN = StrokeAugmentation()


def pen_width(index: int, seed: int, epoch: int, settings: StrokeAugmentation) -> int:
    """The width of the pen, in pixels, for this ink in this epoch."""
    thin, thick = settings.pen
    return thin + int((thick - thin + 1) * uniform(seed, epoch, np.array([index]), 1, FIRST_OF_STROKES)[0, 0])


def augment_traces(
    traces: Sequence[np.ndarray],
    symbols: Sequence[Sequence[int]],
    index: int,
    seed: int,
    epoch: int,
    settings: StrokeAugmentation,
) -> list[np.ndarray]:
    """Distort pen strokes: symbols move, grow, slant and turn, strokes are smoothed and tremble.

    traces: each (points, 2), in pixels (`inkml.pixel_traces`).   symbols: the traces of each symbol; a trace that
    belongs to none stays in its place. Returns traces with as many points each; the given ones are left as they are.
    """
    counts = [len(trace) for trace in traces]
    ends = np.cumsum(counts)
    starts = ends - counts
    knots = int(ends[-1]) // JITTER_POINTS + 2  # of the tremble, along all strokes
    count = 2 + 6 * len(symbols)
    draws = uniform(seed, epoch, np.array([index]), count + 2 * knots, FIRST_OF_STROKES)[0]  # the first is the pen's

    points = np.concatenate(traces, dtype=np.float64)
    owners, low, high = symbol_extents(points, starts, symbols)
    draw = draws[2:count].reshape(-1, 6)
    # A large symbol changes by no more pixels than an ordinary one: a root must still hold its ink.
    share = np.minimum(1, ORDINARY / np.maximum((high - low).max(axis=1), 1))
    # Of each symbol, and of what belongs to none (the last row): its middle and its move, and the rows of a matrix.
    places, turns = np.zeros((len(symbols) + 1, 2, 2)), np.tile(np.eye(2), (len(symbols) + 1, 1, 1))
    places[:-1, 0] = (low + high) / 2
    places[:-1, 1] = settings.shift * (2 * draw[:, :2] - 1)
    turns[:-1] = _turns(draw[:, 2:], share, settings)
    places, turns = np.repeat(places[owners], counts, axis=0), np.repeat(turns[owners], counts, axis=0)
    points = np.einsum("nij,nj->ni", turns, points - places[:, 0]) + places.sum(axis=1)

    if settings.smoothing:
        points = _smooth(points, starts, ends, settings.smoothing * draws[1])
    if settings.jitter:
        tremble = settings.jitter * (2 * draws[count:].reshape(2, knots) - 1)
        at = np.arange(ends[-1]) / JITTER_POINTS
        points += np.stack([np.interp(at, np.arange(knots), each) for each in tremble], axis=1)
    return np.split(points, ends[:-1])


def _turns(draws: np.ndarray, share: np.ndarray, settings: StrokeAugmentation) -> np.ndarray:
    """What symbols are multiplied by, about their middles: scale and stretch, then slant, then rotation. (S, 2, 2).

    draws: (S, 4) in 0..1.   share: (S,) of each distortion that a symbol takes.
    """
    growth, stretch = _factor(draws[:, 0], settings.scale) ** share, _factor(draws[:, 1], settings.stretch) ** share
    slant = settings.slant * (2 * draws[:, 2] - 1) * share
    angle = np.radians(settings.rotation) * (2 * draws[:, 3] - 1) * share
    across, along = growth / np.sqrt(stretch), growth * np.sqrt(stretch)
    slanted = np.array([[along, -slant * across], [np.zeros_like(across), across]])
    rotated = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.einsum("ijs,jks->sik", rotated, slanted)


def symbol_extents(
    points: np.ndarray, starts: np.ndarray, symbols: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The symbol of each trace (-1: of none), and each symbol's least and greatest x and y, (symbols, 2) both.

    points: (points, 2), of traces that begin at `starts`.   A symbol without traces has no extent: both are 0.
    """
    owners = np.full(len(starts), -1)
    for symbol, members in enumerate(symbols):
        owners[list(members)] = symbol
    order = np.argsort(owners, kind="stable")
    present, first = np.unique(owners[order], return_index=True)
    extents = np.zeros((2, len(symbols) + 1, 2))  # the last is of what belongs to none
    for extent, least in zip(extents, (np.minimum, np.maximum), strict=True):
        extent[present] = least.reduceat(least.reduceat(points, starts)[order], first)
    return owners, extents[0, :-1], extents[1, :-1]


# The height, in pixels, of an ordinary symbol.
ORDINARY = 28
# Points of a stroke from one draw of the tremble to the next; between them it is linear, or it would be mere noise.
JITTER_POINTS = 4


def _smooth(points: np.ndarray, starts: np.ndarray, ends: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian along each stroke. Its ends stay where they are: that is where strokes meet.

    points: (points, 2), of strokes from `starts` to `ends`. All are filtered at once, each between copies of its ends.
    """
    if sigma < 0.2:
        return points
    room = math.ceil(4 * sigma) + 1  # further than the filter reaches
    counts = ends - starts + 2 * room
    padded_ends = np.cumsum(counts)
    source = np.arange(padded_ends[-1]) - np.repeat(padded_ends - counts + room - starts, counts)
    source = np.clip(source, np.repeat(starts, counts), np.repeat(ends - 1, counts))
    rows = np.ascontiguousarray(points[source].T)  # x and y, each filtered for itself
    smooth = cv2.GaussianBlur(rows, (0, 1), sigmaX=sigma, sigmaY=1, borderType=cv2.BORDER_REPLICATE).T
    inside = np.arange(ends[-1]) + room * (2 * np.repeat(np.arange(len(starts)), ends - starts) + 1)
    smooth = smooth[inside]
    edges = np.concatenate([starts, ends - 1])
    smooth[edges] = points[edges]
    return smooth
