"""Frames: lines along or near the edges of an image, that a screenshot, a scanner or a table leaves around a formula.

Two kinds. What reaches the image's own edge is cropped: its rows or columns differ from the paper as wholes, and end
abruptly. What runs around the ink at some distance from the edge, or has round corners, is erased: one piece of ink,
straight along at least three sides of its bounding box. Bars, brackets, roots and letters such as E stay: they leave no
ink of its own inside, or lie close to it.
"""

import cv2
import numpy as np

MAX_FRAMES = 6  # one inside another
# The least side of an image, in pixels, that frames are looked for in; the largest share of a side that a frame takes.
MIN_SIDE, MAX_THICKNESS = 16, 0.25
# The share of a row that differs from the paper; the grey levels by which it does, unless the image is two-valued.
COVERED, MIN_CONTRAST = 0.95, 24
# Within so many pixels after its last row a frame is over, and the paper is there again, up to this share.
SOFT_EDGE, PAPER_AGAIN = 3, 0.25
# One side alone may be a bar over a formula. A frame is longer than the ink, at both ends by this share of the
# image's side, and farther from it than half of the ink's height.
LONGER, FARTHER = 0.06, 0.5
LEAST_INK = 4  # pixels: the larger side of a piece of ink that is no speck
# Of a frame at a distance: its share of the image's sides, how much of a side is straight, and how straight.
RING_SHARE, RING_COVERED, STRAIGHT = 0.6, 0.9, 0.03
THIN = 0.25  # of an image's area: more than that along its border is no frame


def levels_of(image: np.ndarray) -> np.ndarray:
    """The different values of uint8 (H, W), in order. np.bincount would first make 8 bytes of each pixel."""
    return np.flatnonzero(cv2.calcHist([image], [0], None, [256], [0, 256])) if image.size else np.empty(0, int)


def remove_frames(image: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Take frames away from uint8 (H, W), of any polarity.

    Returns uint8 (H', W'), and the row and the column of the given image at which it begins. An image without a
    frame is returned as it is.
    """
    top = left = 0
    for _ in range(MAX_FRAMES):
        if min(image.shape) < MIN_SIDE:
            break
        box = _inside_of_edges(image)
        if box is not None:
            image, top, left = image[box[0] : box[1], box[2] : box[3]], top + box[0], left + box[2]
            continue
        paper = _paper_level(image)
        ink = _ink_on(image, paper)
        border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        # What covers the border is a frame with round corners, or the paper of a small image whose middle is ink.
        ring = find_ring(ink, max_area=1.0 if border.mean() < 0.5 else THIN)
        if ring is None:
            break
        image = np.where(cv2.dilate(ring, np.ones((3, 3), np.uint8)) > 0, np.uint8(paper), image)
    return image, top, left


def find_ring(ink: np.ndarray, max_area: float = 1.0) -> np.ndarray | None:
    """The frame that runs around other ink: uint8 (H, W) of 0 and 1; None where there is none.

    ink: the same.   max_area: the largest share of the image that a frame has.
    """
    height, width = ink.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    large = (stats[1:, 2] >= RING_SHARE * width) & (stats[1:, 3] >= RING_SHARE * height)
    large &= stats[1:, 4] <= max_area * ink.size
    for piece in np.flatnonzero(large) + 1:
        left, top, wide, high = stats[piece, :4]
        if min(wide, high) < MIN_SIDE or count < 3:
            continue
        own = labels[top : top + high, left : left + wide] == piece
        reach = max(3, round(STRAIGHT * min(wide, high)))
        sides = [own[:reach].any(0), own[-reach:].any(0), own[:, :reach].any(1), own[:, -reach:].any(1)]
        if sum(side.mean() >= RING_COVERED for side in sides) < 3:
            continue
        thickness = _thickness(own)
        band = reach + 2 * thickness
        inside = labels[top + band : top + high - band, left + band : left + wide - band]
        others = stats[np.setdiff1d(inside, (0, piece))]
        if not len(others) or others[:, 2:4].max() < LEAST_INK:
            continue
        ring = np.zeros_like(ink)
        view = ring[top : top + high, left : left + wide]
        view[own] = 1
        view[band:-band, band:-band] = 0  # ink that crosses the frame
        return ring
    return None


def _thickness(own: np.ndarray) -> int:
    """The thickness of a frame's lines: how far into its bounding box it goes, on the side where it is thinnest."""
    depths = [own.argmin(0), own[::-1].argmin(0), own.argmin(1), own[:, ::-1].argmin(1)]
    return max(1, int(min(np.median(depth) for depth in depths)))


def _paper_level(image: np.ndarray) -> int:
    height, width = image.shape
    middle = image[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    return int(np.percentile(middle, 50, method="nearest"))


def _ink_on(image: np.ndarray, paper: int) -> np.ndarray:
    """uint8 (H, W) of 0 and 1: what differs from the paper by more than half of what differs most."""
    difference = cv2.absdiff(image, np.full_like(image, paper))
    return (difference > 0.5 * float(difference.max())).astype(np.uint8)


def _inside_of_edges(image: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of what a frame along the image's own edges encloses; None where there is none."""
    paper = _paper_level(image)
    difference = image.astype(np.int16) - paper
    is_two_valued = len(levels_of(image)) <= 2
    least = 1 if is_two_valued else MIN_CONTRAST
    sides = (difference, difference[::-1], difference.T, difference.T[::-1])  # top, bottom, left, right
    top, bottom, left, right = thickness = [_frame_rows(side, least) for side in sides]
    if not any(thickness):
        return None
    height, width = image.shape
    inner = image[top : height - bottom, left : width - right]
    if min(inner.shape) < MIN_SIDE // 2 or not 0 < (ink := _ink_on(inner, paper)).mean() < 0.5:
        return None
    if not ((top or bottom) and (left or right)):
        top, bottom, left, right = _only_far_ones(ink, thickness)
        if not (top or bottom or left or right):
            return None
    elif not _has_own_ink(ink, (top, bottom, left, right)):
        return None
    return top, height - bottom, left, width - right


def _frame_rows(difference: np.ndarray, least: int) -> int:
    """How many of the first rows of int16 (H, W), differences from the paper, belong to a frame."""
    level = float(np.median(difference[0]))
    if abs(level) < least:
        return 0
    rows = difference[: int(MAX_THICKNESS * len(difference)) + SOFT_EDGE + 1] * np.sign(level)
    is_covered = (rows >= 0.5 * abs(level)).mean(axis=1) >= COVERED
    count = int(is_covered.argmin())  # 0 where all are covered, too
    after = rows[count + SOFT_EDGE - 1 : count + SOFT_EDGE]
    if not count or not after.size or np.median(after) > PAPER_AGAIN * abs(level):
        return 0
    is_soft = np.median(rows[count : count + SOFT_EDGE], axis=1) > 0  # of its blurred edge
    count += int(np.cumprod(is_soft).sum())
    return count


def _has_own_ink(ink: np.ndarray, thickness: tuple[int, int, int, int]) -> bool:
    """Whether there is ink that does not touch the frame."""
    height, width = ink.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    left, top, wide, high, _ = stats[1:].T
    gaps = (top, height - top - high, left, width - left - wide)
    touches = np.any([(gap == 0) & (rows > 0) for gap, rows in zip(gaps, thickness, strict=True)], axis=0)
    return bool((~touches & (np.maximum(wide, high) >= LEAST_INK)).any())


def _only_far_ones(ink: np.ndarray, thickness: list[int]) -> list[int]:
    """Thickness of lone or opposite sides; 0 where it may be a bar: no longer than the ink, or near it."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    height, width = ink.shape
    gaps = (rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1])
    tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    kept = []
    for side, count in enumerate(thickness):
        along = gaps[2:] if side < 2 else gaps[:2]
        length, across = (width, tall) if side < 2 else (height, wide)
        is_far = min(along) >= LONGER * length and gaps[side] >= FARTHER * min(across, tall)
        kept.append(count if is_far else 0)
    return kept
