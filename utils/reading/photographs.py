"""Any image a person has -> clean ink, as training saw it: two-valued, of the usual size and thickness, level.

An image that was drawn like a training image stays as it is. In any other one the paper's light is evened out,
printed lines are taken away, and ink is told from paper; it is turned level and brought to the usual size and pen.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np

from utils.errors import DataError
from utils.reading.components import Pieces, pieces_of, stroke_width, symbol_height
from utils.reading.frames import find_ring, levels_of, remove_frames
from utils.reading.images import CLEAN_SPREAD, LEAST_CONTRAST, MARGIN, find_ink, shrink_by
from utils.reading.paper_lines import remove_lines

# What training saw. CROHME's rule draws traces 28 px high on average, with a pen of 3 px: then the connected pieces of
# ink (those at least a quarter as high as the high ones) have this mean height, give or take 12 %. SAMPLE comes close.
# A network that learnt from images of another size needs another number here.
SYMBOL_HEIGHT = 34.0
PEN, PENS = 3.5, (2.2, 4.5)
# A two-valued image whose ink is within these sizes and thicknesses is taken for one that was drawn for training.
DRAWN_HEIGHTS, DRAWN_PENS = (12.0, 120.0), (2.0, 5.0)

# Cleaning works on an image of at most this side; where symbols then are small, their part is looked at again.
WORK_SIDE = 1600
# Of the usual size: what else the writing may be, in the order in which it is tried.
SIZES = (1.0, 0.8, 1.25)
LARGEST_SIDE = 2500  # pixels that ink is enlarged to, at most
# A sheet on a desk: its share of the image, and by how many grey levels it is brighter.
SHEET_AREA, SHEET_STANDS_OUT = (0.15, 0.95), 25
# Noise differs from place to place: it is measured in tiles of about this side. No image has less than GRAIN grey
# levels of it: they are whole numbers, and JPEG rounds more. Ink stands out by so many times the noise, in real images
# by 15 and more; what is darkest on empty paper does so by 8 at most.
NOISE_TILE, GRAIN, INK_TO_NOISE = 100, 1.8, 9
LEAST_SYMBOL = 4  # pixels: smaller pieces are grain, where there are no larger ones
# Degrees: the spread of how people hold a camera, and what is turned back: less is not sure, more was meant so.
USUAL_SKEW = 10.0
SKEWS = (3.0, 25.0)
MAX_BARS = 30  # so many of the longest straight pieces say how far a page is turned


class CleanInk(NamedTuple):
    """Ink as the network was trained on it, and where it was.

    image: uint8 (H, W), ink 255 on paper 0.   to_given: (3, 3), takes its pixels (x, y, 1) to the given image.
    """

    image: np.ndarray
    to_given: np.ndarray

    @classmethod
    def of_drawn(cls, image: np.ndarray, name: str = "image") -> CleanInk:
        """An image that needs no cleaning, only the usual polarity and margin. Raises DataError."""
        ink, top, left = find_ink(image, name)
        return cls(ink, _shift(left, top))

    def crop(self, top: int, bottom: int) -> CleanInk:
        """The ink of these rows alone, with the usual margin."""
        rows = self.image[top:bottom]
        columns = np.flatnonzero((rows > 127).any(axis=0))
        left, right = columns[0], columns[-1] + 1
        image = np.pad(rows[:, left:right], MARGIN)
        return CleanInk(image, self.to_given @ _shift(left - MARGIN, top - MARGIN))


def clean(image: np.ndarray, name: str = "image") -> list[CleanInk]:
    """Find the ink of an image, uint8 (H, W): as clean_photograph does, unless it was drawn as training images are."""
    return [CleanInk.of_drawn(image, name)] if is_drawn(image) else clean_photograph(image, name)


def clean_photograph(image: np.ndarray, name: str = "image") -> list[CleanInk]:
    """Find the ink of an image, uint8 (H, W). Raises DataError, which begins with `name`, where there is none.

    Size and skew of writing can only be guessed: the likeliest guess comes first, then others. The network's own score
    can tell which one is read best.
    """
    paper, top, left = remove_frames(image)
    paper, to_given = cut_out_sheet(paper)
    to_given = _shift(left, top) @ to_given
    page = Page.of(paper, to_given, name)
    if page.shrink > 1 and page.height < SYMBOL_HEIGHT:  # small writing on a large paper: there is more to see
        left, top, right, bottom = page.surroundings()
        if (right - left) * (bottom - top) < 0.8 * paper.size:
            with suppress(DataError):
                page = Page.of(paper[top:bottom, left:right], to_given @ _shift(left, top), name)
    skew = page.skew()
    return [page.draw(angle, size) for angle in dict.fromkeys((skew, 0.0)) for size in SIZES]


def cut_out_sheet(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of paper that lies in the image with all four corners, seen from above; else the image.

    Returns uint8 (H', W') and (3, 3), which takes its pixels to those of the image.
    """
    whole = image, np.eye(3)
    if min(image.shape) < 200:
        return whole
    shrink = max(image.shape) / 400
    small = shrink_by(image, shrink)
    # Ink and shadows of pens must not cut the sheet into pieces.
    small = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, bright = cv2.threshold(small, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea, default=None)
    if outline is None or not SHEET_AREA[0] < cv2.contourArea(outline) / small.size < SHEET_AREA[1]:
        return whole
    hull = cv2.convexHull(outline)
    corners = cv2.approxPolyDP(hull, 0.03 * cv2.arcLength(hull, True), True)[:, 0].astype(np.float32)
    inside = np.zeros_like(small)
    cv2.fillConvexPoly(inside, hull, 1)
    edge = 3
    is_whole = corners.min() >= edge and (corners < np.array(small.shape[::-1]) - edge).all()
    is_sheet = len(corners) == 4 and cv2.contourArea(outline) > 0.93 * cv2.contourArea(corners)
    if not (is_whole and is_sheet):
        return whole
    # A desk is darker than paper everywhere, a shadow or a blackboard's frame only somewhere.
    if np.percentile(small[inside == 1], 20) - np.percentile(small[inside == 0], 80) < SHEET_STANDS_OUT:
        return whole
    # Upper left, upper right, lower right, lower left.
    corners = corners[np.argsort(corners[:, 1])]
    corners = np.concatenate([corners[:2][np.argsort(corners[:2, 0])], corners[2:][np.argsort(-corners[2:, 0])]])
    finer = min(1.0, 2 * WORK_SIDE / max(image.shape))
    large = image if finer == 1 else shrink_by(image, 1 / finer)
    corners = (corners + 0.5) * (shrink * finer) - 0.5
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = (int(sides[[0, 2]].mean()), int(sides[[1, 3]].mean()))
    # A little less than the sheet, so that nothing of the desk is left.
    cut = 0.012 * max(width, height)
    flat = np.array([[-cut, -cut], [width + cut, -cut], [width + cut, height + cut], [-cut, height + cut]], np.float32)
    to_flat = cv2.getPerspectiveTransform(corners.astype(np.float32), flat)
    sheet = cv2.warpPerspective(large, to_flat, (width, height), flags=cv2.INTER_LINEAR)
    return sheet, np.diag([1 / finer, 1 / finer, 1.0]) @ np.linalg.inv(to_flat)


def is_drawn(image: np.ndarray) -> bool:
    """True for an image like those of the training set: two-valued, with strokes and symbols of the usual size."""
    levels = levels_of(image)
    if len(levels) != 2:
        return False
    image, _, _ = remove_frames(image)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    if np.ptp(border):
        return False
    ink = (image != border[0]).astype(np.uint8)
    low, high = DRAWN_PENS
    if not low <= stroke_width(ink) <= high:
        return False
    height = symbol_height(pieces_of(ink))
    return DRAWN_HEIGHTS[0] <= height <= DRAWN_HEIGHTS[1]


# ---- a page ----------------------------------------------------------------------------------------------------------


class Page:
    """What was found on an image of paper: how dark each pixel is, and which are ink."""

    def __init__(self, contrast: np.ndarray, noise: np.ndarray, to_given: np.ndarray, shrink: float, name: str):
        """contrast, noise: (H, W), see contrast_of().   to_given: (3, 3).   shrink: of the image it was found in."""
        self.shrink, self.to_given, self.name = shrink, to_given, name
        self.contrast, self.line_angles = remove_lines(contrast, float(np.median(noise)))
        self.ink, self.level = find_strokes(self.contrast, noise)
        ring = find_ring(self.ink)
        if ring is not None:
            ring = cv2.dilate(ring, np.ones((5, 5), np.uint8))
            self.contrast, self.ink = (
                np.where(ring, np.float32(0), self.contrast),
                np.where(ring, np.uint8(0), self.ink),
            )
        if not self.ink.any():
            raise DataError(f"{name}: has no ink, all of it looks like paper")
        self.pieces = pieces_of(self.ink)
        self.height = symbol_height(self.pieces)

    @classmethod
    def of(cls, image: np.ndarray, to_given: np.ndarray, name: str) -> Page:
        """Find the ink of uint8 (H, W). Raises DataError where there is none."""
        shrink = max(1.0, max(image.shape) / WORK_SIDE)
        small = image
        if shrink > 1:
            small = shrink_by(image, shrink)
        scale = np.diag([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0], 1.0])
        return cls(*contrast_of(small), to_given @ scale, shrink, name)

    def surroundings(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, in pixels of the image, of the ink and some paper."""
        rows, columns = np.flatnonzero(self.ink.any(axis=1)), np.flatnonzero(self.ink.any(axis=0))
        paper = 2 * self.height
        low = np.array([columns[0] - paper, rows[0] - paper]).clip(0)
        high = np.array([columns[-1] + paper, rows[-1] + paper])
        return (*map(int, low * self.shrink), *map(int, high * self.shrink))

    def skew(self) -> float:
        """How far the writing is turned, in degrees clockwise; 0 where that is not sure, or little."""
        if self.line_angles:
            return float(np.median(self.line_angles))
        cues = skew_cues(self.pieces, self.height)
        weights = [1 / USUAL_SKEW**2] + [1 / spread**2 for _, spread in cues]
        skew = sum(weight * angle for weight, (angle, _) in zip(weights[1:], cues, strict=True)) / sum(weights)
        return skew if SKEWS[0] <= abs(skew) <= SKEWS[1] else 0.0

    def draw(self, skew: float, size: float = 1.0) -> CleanInk:
        """The ink as training saw it, turned back by `skew` degrees, `size` times the usual size."""
        rows, columns = np.flatnonzero(self.ink.any(axis=1)), np.flatnonzero(self.ink.any(axis=0))
        top, bottom = max(rows[0] - 4, 0), min(rows[-1] + 5, self.ink.shape[0])
        left, right = max(columns[0] - 4, 0), min(columns[-1] + 5, self.ink.shape[1])
        # Only what was found, with the soft edges of its strokes.
        near = cv2.dilate(self.ink[top:bottom, left:right], np.ones((5, 5), np.uint8))
        contrast = self.contrast[top:bottom, left:right] * near
        scale = min(size * SYMBOL_HEIGHT / self.height, LARGEST_SIDE / max(contrast.shape))
        flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        scaled = cv2.resize(contrast, None, fx=scale, fy=scale, interpolation=flags)
        height, width = scaled.shape
        to_page = _shift(left, top) @ np.diag([contrast.shape[1] / width, contrast.shape[0] / height, 1.0])
        if skew:
            turn = np.eye(3)
            turn[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), skew, 1.0)
            corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
            corners = (turn @ corners)[:2]
            low, high = np.floor(corners.min(axis=1)), np.ceil(corners.max(axis=1))
            turn = _shift(*-low) @ turn
            scaled = cv2.warpAffine(scaled, turn[:2], tuple((high - low).astype(int)), flags=cv2.INTER_CUBIC)
            to_page = to_page @ np.linalg.inv(turn)
        ink = self._draw(np.pad(scaled, 2))
        is_ink = ink > 127
        rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
        if not len(rows):
            raise DataError(f"{self.name}: has no ink, all of it looks like paper")
        ink = np.pad(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], MARGIN)
        to_page = to_page @ _shift(columns[0] - 2 - MARGIN, rows[0] - 2 - MARGIN)
        return CleanInk(ink, self.to_given @ to_page)

    def _draw(self, contrast: np.ndarray) -> np.ndarray:
        """Ink is what is more than half as dark as the ink around it; uint8 (H, W), with soft edges."""
        sure = (contrast > 0.5 * self.level).astype(np.float32)
        weight, around = (_blur_widely(one) for one in (sure, sure * contrast))
        share = contrast * (weight + 1e-3) / (around + 1e-3 * self.level)
        # At twice the size, so that strokes can change by less than a pixel.
        share = cv2.resize(share, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        ink = (share > 0.5).astype(np.uint8)
        return cv2.resize(_usual_pen(ink, 2) * np.uint8(255), contrast.shape[::-1], interpolation=cv2.INTER_AREA)


def _blur_widely(values: np.ndarray) -> np.ndarray:
    """The mean of (H, W) around each pixel, about a symbol far."""
    height, width = values.shape
    small = cv2.resize(values, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), SYMBOL_HEIGHT / 4), (width, height))


def _usual_pen(ink: np.ndarray, finer: int) -> np.ndarray:
    """Strokes that are too thick or too thin for the network, drawn with the usual pen.   ink: uint8 (H, W), 0 or 1.

    finer: pixels of `ink` for each pixel that the network sees.
    """
    width = stroke_width(ink) / finer
    low, high = PENS
    if low <= width <= high:
        return ink
    if width < low:
        outside = cv2.distanceTransform(1 - ink, cv2.DIST_L2, 5)
        return (outside < finer * (low - width) / 2 + 0.5).astype(np.uint8)
    inside = cv2.distanceTransform(np.pad(ink, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    # Each stroke loses the same share of its own width, and no more than the usual one: thin ones never vanish.
    side = 2 * round(finer * width) + 1
    own = cv2.dilate(inside, np.ones((side, side), np.uint8))
    lost = np.minimum((1 - PEN / width) * own, finer * (width - PEN) / 2)
    return (inside > lost).astype(np.uint8)


def contrast_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much darker than the paper around it each pixel is, about 0 on paper and at most 1, and how noisy that is.

    Returns (H, W) float32 each; the second one is the standard deviation on paper. Light ink on dark paper is turned
    over first.
    """
    if min(image.shape) < 3:  # nobody writes that small
        return np.zeros(image.shape, np.float32), np.ones(image.shape, np.float32)
    if not has_dark_ink(image):
        image = 255 - image
    # The paper: what is left when everything thinner than the window is filled with the light beside it. Found in a
    # smaller image: light changes slowly.
    shrink = max(1.0, max(image.shape) / 500)
    small = image
    if shrink > 1:
        small = shrink_by(image, shrink)
    side = int(np.clip(min(small.shape) // 4, 15, 61)) | 1
    # Beyond its edges the light goes on as it was going: a slope stays a slope. Grain and ink are mirrored.
    small = small.astype(np.float32)
    light = cv2.GaussianBlur(small, (0, 0), side / 4)
    around = np.pad(light, side, mode="reflect", reflect_type="odd") + np.pad(small - light, side, mode="reflect")
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    paper = cv2.medianBlur(cv2.morphologyEx(around, cv2.MORPH_CLOSE, window), 5)[side:-side, side:-side]
    paper = cv2.resize(paper, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    contrast = 1 - (image + 1.0) / (paper + 1.0)
    contrast -= np.median(contrast)
    return contrast, np.maximum(_noise_of(contrast), GRAIN / (paper + 1.0))


def _noise_of(contrast: np.ndarray) -> np.ndarray:
    """The standard deviation of paper around each pixel, (H, W), from what is lighter than it: there is no ink."""
    rows, columns = (max(1, round(side / NOISE_TILE)) for side in contrast.shape)
    noise = np.zeros((rows, columns), np.float32)
    for row, band in enumerate(np.array_split(contrast, rows)):
        for column, tile in enumerate(np.array_split(band, columns, axis=1)):
            lighter = tile[tile < 0]
            noise[row, column] = 1.4826 * np.median(-lighter) if lighter.size > 0.05 * tile.size else 0
    return cv2.resize(noise, contrast.shape[::-1], interpolation=cv2.INTER_LINEAR)


def has_dark_ink(image: np.ndarray) -> bool:
    """Strokes are few and sharp, so they are the long tail of the differences from the local mean."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    low, paper, high = np.percentile(border, (5, 50, 95), method="nearest")
    if high - low <= CLEAN_SPREAD:
        return bool(image.mean() < paper)
    side = int(np.clip(min(image.shape) // 4, 31, 101)) | 1
    difference = image.astype(np.float32)
    difference -= cv2.blur(difference, (side, side))
    return bool((difference**3).mean() < 0)


def find_strokes(contrast: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """Tell ink from paper: uint8 (H, W) of 0 and 1, and how dark ink is.   noise: (H, W), see contrast_of()."""
    nothing = np.zeros(contrast.shape, np.uint8), 0.0
    least = np.maximum(5 * noise, LEAST_CONTRAST / 255)
    sure = contrast[contrast > least]
    if not sure.size:
        return nothing
    level = float(np.percentile(sure, 85))
    ink = (contrast > np.maximum(0.35 * level, np.minimum(4 * noise, 0.5 * level))).astype(np.uint8)
    pieces = pieces_of(ink)
    # Each piece of ink is dark somewhere.
    is_dark = np.zeros(len(pieces.areas) + 1, bool)
    is_dark[pieces.labels[(ink > 0) & (contrast > np.maximum(0.55 * level, least))]] = True
    is_ink = is_dark[1:] & ~_is_blot(pieces)
    # Specks: far smaller than a dot of the pen.
    pen = stroke_width(_only(pieces, is_ink))
    is_ink &= (pieces.areas >= max(0.4 * pen**2, 2)) & (pieces.sizes.max(axis=1) >= 0.6 * pen)
    if not is_ink.any() or pieces.sizes[is_ink].max() < LEAST_SYMBOL:
        return nothing
    found = _only(pieces, is_ink) > 0
    if np.median(contrast[found] / noise[found]) < INK_TO_NOISE:
        return nothing
    return _only(pieces, is_ink & _is_writing(pieces, is_ink)), level


def _is_writing(pieces: Pieces, is_ink: np.ndarray) -> np.ndarray:
    """(n,): not the dots and dashes that lie far from any symbol, nor what reaches in from the edge alone."""
    largest = pieces.sizes.max(axis=1)
    usual = np.average(largest[is_ink], weights=largest[is_ink].astype(float) ** 2)
    is_symbol = is_ink & (largest > 0.3 * usual) & ~_at_edge(pieces)
    if not is_symbol.any():
        return is_ink
    side = 2 * round(1.2 * usual) + 1
    beside = cv2.dilate(_only(pieces, is_symbol), np.ones((side, side), np.uint8))
    is_beside = np.bincount(pieces.labels[beside > 0], minlength=len(largest) + 1)[1:] > 0
    return is_symbol | is_beside


def _at_edge(pieces: Pieces) -> np.ndarray:
    """(n,): pieces that touch the edge of the image."""
    return (pieces.corners == 0).any(axis=1) | (pieces.corners + pieces.sizes == pieces.labels.shape[::-1]).any(axis=1)


def _only(pieces: Pieces, is_chosen: np.ndarray) -> np.ndarray:
    """Some pieces, uint8 (H, W) of 0 and 1.   is_chosen: (n,)."""
    return np.concatenate([[False], is_chosen]).astype(np.uint8)[pieces.labels]


def _is_blot(pieces: Pieces) -> np.ndarray:
    """(n,): pieces at the edge of the image that no pen drew: a thumb, the desk, the edge of a deep shadow."""
    at_edge = _at_edge(pieces)
    if not at_edge.any() or at_edge.all():
        return np.zeros(len(pieces.areas), bool)
    pen = stroke_width(_only(pieces, ~at_edge))
    thickness = np.zeros(len(pieces.areas) + 1, np.float32)
    inside = cv2.distanceTransform(_only(pieces, at_edge), cv2.DIST_L2, 5)
    np.maximum.at(thickness, pieces.labels[inside > 0], 2 * inside[inside > 0])
    return at_edge & (thickness[1:] > 4 * max(pen, 1))


def skew_cues(pieces: Pieces, height: float) -> list[tuple[float, float]]:
    """What tells how far writing is turned: (angle, standard deviation), in degrees clockwise.

    Standard deviations were measured on CROHME's training images, which nobody turned.
    """
    cues = []
    # Long straight pieces: fraction bars, minus signs. They rise a little, by 2 degrees.
    angles, lengths = [], []
    widths, heights = pieces.sizes.T
    may_be_bar = np.flatnonzero((widths >= 0.4 * height) & (heights <= 0.7 * widths))
    for i in may_be_bar[np.argsort(-widths[may_be_bar])][:MAX_BARS]:
        (left, top), (width, tall) = pieces.corners[i], pieces.sizes[i]
        y, x = np.nonzero(pieces.labels[top : top + tall, left : left + width] == i + 1)
        values, vectors = np.linalg.eigh(np.cov(np.stack([x, y]).astype(float)))
        long, thin = np.sqrt(12 * np.maximum(values[::-1], 1e-6))
        angle = (np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) + 90) % 180 - 90
        if long > 0.5 * height and thin < 0.17 * long and abs(angle) < 32:
            angles.append(angle + 2)
            lengths.append(long)
    if angles:
        cues.append((float(np.average(angles, weights=lengths)), 5.0 if sum(lengths) < 3 * height else 3.5))
    # The line that symbols stand on: the median slope between any two (Theil and Sen), the farther the weightier.
    x, y = pieces.centres[pieces.sizes[:, 1] > 0.4 * height].T
    if 3 <= len(x) <= 200:
        one, other = np.triu_indices(len(x), 1)
        across, down = x[other] - x[one], y[other] - y[one]
        far = np.abs(across) > 0.7 * height
        if far.any():
            slopes, weights = down[far] / across[far], np.abs(across[far])
            order = np.argsort(slopes)
            half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
            angle = float(np.degrees(np.arctan(slopes[order][half])))
            span = np.ptp(x) / height
            cues.append((angle, float(np.interp(span, [2, 3, 5, 8, 12], [20, 11, 6, 4.2, 3]))))
    return cues


def _shift(right: float, down: float) -> np.ndarray:
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], np.float64)
