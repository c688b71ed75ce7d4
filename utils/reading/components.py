"""Connected pieces of ink: how many, how large, how thick. Symbols are one or a few of them each."""

from typing import NamedTuple

import cv2
import numpy as np


class Pieces(NamedTuple):
    """Connected pieces of ink.   labels: (H, W), 0 on paper.   The rest: (n,), or (n, 2) x and y, of piece i + 1."""

    labels: np.ndarray
    corners: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    centres: np.ndarray


def pieces_of(ink: np.ndarray) -> Pieces:
    """ink: uint8 (H, W), not 0 where there is ink."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(ink, connectivity=8)
    return Pieces(labels, stats[1:, :2], stats[1:, 2:4], stats[1:, 4], centres[1:])


def stroke_width(ink: np.ndarray) -> float:
    """Mean width of strokes, uint8 (H, W) of 0 and 1: their area over half their outline."""
    area = int(np.count_nonzero(ink))
    padded = np.pad(ink, 1)
    outline = area - int(np.count_nonzero(cv2.erode(padded, np.ones((3, 3), np.uint8))))
    return 2 * area / max(outline, 1)


def symbol_height(pieces: Pieces) -> float:
    """The mean height of symbols; flat pieces (bars, dots) do not count, but the widest one limits it (see inkml)."""
    heights = pieces.sizes[:, 1].astype(float)
    if not len(heights):
        return 0.0
    tall = heights >= 0.25 * np.percentile(heights, 90)
    return max(float(heights[tall].mean()), float(pieces.sizes.max()) / 40)
