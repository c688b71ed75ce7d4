"""Several lines of writing in one image: a recognizer reads one formula, so each line is read by itself.

Lines are bands of rows with ink, farther apart than the parts of one formula are. A gap above or below a bar that is as
wide as what lies beyond it belongs to a fraction; what has no symbol in it (dots, bars) belongs to its neighbor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.reading.components import Pieces, pieces_of, symbol_height

# Rows without ink between two lines, and the larger gaps that a fraction's bar bridges, in heights of a symbol. Of
# CROHME's 9,821 images, each of one formula, 10 are cut; of two of them one above the other, 97 % are where 1.2 heights
# lie between.
MIN_GAP, MAX_BAR_GAP = 0.9, 4.0
LEAST_SYMBOL = 0.45  # of the usual height: smaller pieces are no symbols
# A bar: how much wider than a symbol, and than it is high; the share of what lies beyond it that it must cover.
BAR_WIDTH, BAR_RATIO, BAR_COVERS = 1.2, 5.0, 0.7


@dataclass
class _Band:
    """Rows with ink: top, bottom (excluded), and the indices of its pieces."""

    top: int
    bottom: int
    pieces: np.ndarray


def find_text_lines(image: np.ndarray) -> list[tuple[int, int]]:
    """First row, and last row + 1, of each line of writing, from top to bottom.

    image: uint8 (H, W), ink 255 on paper 0, level.
    """
    ink = (image > 127).astype(np.uint8)
    pieces = pieces_of(ink)
    height = symbol_height(pieces)
    lines: list[_Band] = []
    for band in _bands(ink, pieces):
        if lines and not _is_gap_between_lines(lines[-1], band, pieces, height):
            last = lines[-1]
            lines[-1] = _Band(last.top, band.bottom, np.concatenate([last.pieces, band.pieces]))
        else:
            lines.append(band)
    return [(line.top, line.bottom) for line in lines]


def _bands(ink: np.ndarray, pieces: Pieces) -> list[_Band]:
    """Runs of rows with ink, from top to bottom."""
    is_ink = np.concatenate([[False], ink.any(axis=1), [False]])
    edges = np.flatnonzero(is_ink[1:] != is_ink[:-1]).reshape(-1, 2)
    tops = pieces.corners[:, 1]
    return [_Band(int(a), int(b), np.flatnonzero((tops >= a) & (tops < b))) for a, b in edges]


def _is_gap_between_lines(above: _Band, below: _Band, pieces: Pieces, height: float) -> bool:
    """Whether two lines end and begin here.   height: of a symbol, in pixels."""
    gap = below.top - above.bottom
    if gap < MIN_GAP * height:
        return False
    if not all((pieces.sizes[band.pieces, 1] >= LEAST_SYMBOL * height).any() for band in (above, below)):
        return False
    is_bridged = any(
        _has_bar(near, beyond, edge, pieces, height)
        for near, beyond, edge in ((above, below, above.bottom), (below, above, below.top))
    )
    return not is_bridged or gap > MAX_BAR_GAP * height


def _has_bar(band: _Band, beyond: _Band, edge: int, pieces: Pieces, height: float) -> bool:
    """Whether a bar at this edge of a band is as wide as what lies beyond it, as the bar of a fraction is."""
    (lefts, tops), (widths, heights) = pieces.corners[band.pieces].T, pieces.sizes[band.pieces].T
    is_bar = (widths >= BAR_WIDTH * height) & (widths >= BAR_RATIO * heights)
    is_bar &= np.minimum(abs(tops - edge), abs(tops + heights - edge)) <= 0.5 * height
    left = pieces.corners[beyond.pieces, 0]
    right = left + pieces.sizes[beyond.pieces, 0]
    covered = np.minimum(lefts + widths, right.max()) - np.maximum(lefts, left.min())
    return bool((is_bar & (covered >= BAR_COVERS * (right.max() - left.min()))).any())
