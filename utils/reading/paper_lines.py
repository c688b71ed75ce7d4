"""Ruled and squared paper: find its printed lines and take them away, without the ink that crosses them.

A printed line is long, straight, thin, even, and reaches from one edge of the image to the other; a fraction bar
begins and ends on the paper.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Lines are looked for in an image of at most this side.
HOUGH_SIDE = 900
STEEPEST = 30.0  # degrees from level, or from upright
PARALLEL = 3.0  # degrees that perspective turns one line against the next
# How much of the image's width a line must cross; where many lines are known, those that cut a corner are looked for.
CROSSES, CUTS = 0.4, 0.06
# How far a line may stray from straight, to either side: at least so many pixels, and a share of the smaller side.
LEAST_STRAY, STRAY_SHARE = 5, 0.02
# The share of its way on which a line must be seen, in all, and near each of its ends (END of the way).
SEEN, SEEN_AT_END, END = 0.75, 0.5, 0.12
# A line is as dark as its median, up to this factor, but where ink crosses it. There, on so large a share of its way,
# it keeps within so many pixels of a slightly bent curve. Writing that happens to lie in a line does not.
EVEN, SEEN_EVEN, STRAIGHT = 1.7, 0.5, 1.5
# Thickest line: pixels, and share of the image's smaller side.
THICKEST, THICKEST_SHARE = 7, 0.025
# Fewer lines than this, and not fainter than this share of the ink: they may be bars of an image cut out narrowly.
MANY, FAINT = 3, 0.7
MAX_LINES = 200
MAX_MISSES = 150  # in a row; candidates come with most pixels first, and noise has thousands of them


class Line(NamedTuple):
    """A printed line of the image.   columns: (n,).   rows: (n,) of its middle.   profile: (2 * stray + 1,)."""

    columns: np.ndarray
    rows: np.ndarray
    profile: np.ndarray  # contrast across it, from -stray to stray
    angle: float  # degrees, clockwise

    @property
    def level(self) -> float:
        """How dark it is."""
        return _peak(self.profile)


def remove_lines(contrast: np.ndarray, noise: float) -> tuple[np.ndarray, list[float]]:
    """Take printed lines out of an image.

    contrast: (H, W) float32, about 0 on paper and at most 1 in ink.   noise: its standard deviation on paper.
    Returns it without lines, and the angles of those that were nearly level, in degrees, clockwise.
    """
    angles: list[float] = []
    for is_upright in (False, True):
        image = np.ascontiguousarray(contrast.T) if is_upright else contrast.copy()
        lines = _find_lines(image, noise)
        if lines:
            contrast = np.ascontiguousarray(image.T) if is_upright else image
            angles += [line.angle for line in lines] if not is_upright else []
    return contrast, angles


def _find_lines(contrast: np.ndarray, noise: float) -> list[Line]:
    """Find nearly level lines, and take them out of `contrast` in place where they are not ink."""
    before = contrast.copy()
    lines: list[Line] = []
    _take_lines(contrast, noise, lines, (-STEEPEST, STEEPEST), CROSSES)
    if len(lines) >= MANY:
        angles = [line.angle for line in lines]
        _take_lines(contrast, noise, lines, (min(angles) - PARALLEL, max(angles) + PARALLEL), CUTS)
    if len(lines) < MANY:
        ink = contrast[contrast > max(6 * noise, 0.1)]
        level = float(np.percentile(ink, 75)) if ink.size else 0.0
        if any(line.level > FAINT * level for line in lines):
            contrast[:] = before
            return []
    return lines


def _take_lines(
    contrast: np.ndarray, noise: float, lines: list[Line], angles: tuple[float, float], crosses: float
) -> None:
    """Take lines out of `contrast` and add them to `lines`.   angles: between which they are looked for, in degrees."""
    width = contrast.shape[1]
    near = _stray(contrast) / 3
    misses = 0
    tried = np.full((1, 2), np.inf)  # rows where lines begin and end
    for slope, start in _candidates(contrast > max(2 * noise, 0.04), angles, crosses):
        ends = (start, start + slope * width)
        if (np.abs(tried - ends) < near).all(axis=1).any():  # voted for twice
            continue
        tried = np.concatenate([tried, [ends]])
        line = _follow(contrast, slope, start, noise, crosses)
        misses = misses + 1 if line is None else 0
        if misses == MAX_MISSES:
            break
        if line is not None:
            _take_out(contrast, line)
            # What is left of a line at its edges may be found once more.
            if not any(_is_same(line, other) for other in lines):
                lines.append(line)
            if len(lines) == MAX_LINES:
                break


def _stray(contrast: np.ndarray) -> int:
    return max(LEAST_STRAY, round(STRAY_SHARE * min(contrast.shape)))


def _is_same(line: Line, other: Line) -> bool:
    _, here, there = np.intersect1d(line.columns, other.columns, assume_unique=True, return_indices=True)
    return len(here) > 0 and np.median(np.abs(line.rows[here] - other.rows[there])) < len(line.profile) // 2


def _candidates(mask: np.ndarray, angles: tuple[float, float], crosses: float) -> list[tuple[float, float]]:
    """Slope (rows per column) and start (row at column 0) of lines that may be there, those with most pixels first."""
    height, width = mask.shape
    shrink = max(1, -(-max(height, width) // HOUGH_SIDE))
    small = mask.astype(np.uint8)
    if shrink > 1:
        small = cv2.dilate(small, np.ones((shrink, 1), np.uint8), anchor=(0, shrink - 1))[::shrink, ::shrink]
        small = np.ascontiguousarray(small)
    # Its own angle is that of what stands upright on a line, in radians.
    low, high = (np.pi / 2 + np.radians(angle) for angle in angles)
    votes = max(int(crosses * small.shape[1]), 12)
    found = cv2.HoughLines(small, 1, np.radians(0.25), votes, min_theta=low, max_theta=high)
    if found is None:
        return []
    rho, theta = found.reshape(-1, found.shape[-1])[: 20 * MAX_LINES, :2].T
    return list(zip((-np.cos(theta) / np.sin(theta)).tolist(), (shrink * rho / np.sin(theta)).tolist(), strict=True))


def _follow(contrast: np.ndarray, slope: float, start: float, noise: float, crosses: float) -> Line | None:
    """The printed line near a straight one of this slope and start; None where there is none."""
    height, width = contrast.shape
    stray = _stray(contrast)
    rows = start + slope * np.arange(width)
    columns = np.flatnonzero((rows >= stray) & (rows < height - stray - 0.5))
    if len(columns) < max(24, crosses * width):
        return None
    straight = np.rint(rows[columns]).astype(int)
    offsets = np.arange(-stray, stray + 1)[:, None]
    smooth = cv2.blur(contrast[straight + offsets, columns], (15, 1))  # (2 * stray + 1, n)
    darkest = smooth.max(axis=0)
    level = float(np.median(darkest))
    if np.mean(darkest > max(1.5 * noise, 0.03)) < SEEN:
        return None
    # The way of the line: the darkest row, near the straight line rather than far from it; ink does not attract it.
    ways = (np.minimum(smooth, EVEN * level) - 0.1 * level / stray * np.abs(offsets)).argmax(axis=0) - stray
    is_even = (darkest > level / EVEN) & (darkest < EVEN * level)
    found = _fit(columns, straight + ways, is_even)
    if found is None:
        return None
    rows = np.clip(np.rint(found).astype(int), stray, height - stray - 1)
    band = contrast[rows + offsets, columns]
    profile = np.median(band[:, is_even], axis=1)
    profile = np.maximum(profile - min(profile[0], profile[-1]), 0)
    peak = _peak(profile)
    if peak < max(noise, 0.03) or peak < profile.max():
        return None
    if np.count_nonzero(profile > peak / 2) > max(THICKEST, THICKEST_SHARE * min(height, width)):
        return None
    middle = cv2.blur(band[stray - 1 : stray + 2].max(axis=0)[None], (9, 1))[0]
    seen = middle > 0.5 * peak
    ends = max(4, round(END * len(seen)))
    if seen.mean() < SEEN or min(seen[:ends].mean(), seen[-ends:].mean()) < SEEN_AT_END:
        return None
    return Line(columns, rows, profile, float(np.degrees(np.arctan(slope))))


def _fit(columns: np.ndarray, rows: np.ndarray, is_even: np.ndarray) -> np.ndarray | None:
    """The rows (n,) of a slightly bent line through most of the even places; None where they are on no such line."""
    chosen = is_even
    for reach in (4 * STRAIGHT, 2 * STRAIGHT, STRAIGHT):
        if chosen.sum() < max(12, SEEN_EVEN * len(rows)):
            return None
        bent = np.polynomial.Polynomial.fit(columns[chosen], rows[chosen], 2)(columns)
        chosen = is_even & (np.abs(rows - bent) <= reach)
    return bent if chosen.sum() >= SEEN_EVEN * len(rows) else None


def _peak(profile: np.ndarray) -> float:
    middle = len(profile) // 2
    return float(profile[middle - 1 : middle + 2].max())


def _take_out(contrast: np.ndarray, line: Line) -> None:
    """Undo the line: ink and line dim the light one after the other, so the line's share is divided away."""
    stray = len(line.profile) // 2
    offsets = np.arange(-stray, stray + 1)[:, None]
    places = (line.rows + offsets, line.columns)
    band = contrast[places]
    touched = np.flatnonzero(line.profile > 0.1 * line.level)
    low, high = touched[0], touched[-1]
    # Ink above and below goes on in between, however dark the line is.
    above, below = band[max(low - 1, 0)], band[min(high + 1, 2 * stray)]
    through = np.minimum(above, below)
    share = np.minimum(line.profile[low : high + 1], 0.9)[:, None]
    # The line is not equally dark everywhere: what is left of it must not look like ink.
    rest = 1 - (1 - band[low : high + 1]) / (1 - share)
    rest = np.where(rest < share, 0, rest)
    band[low : high + 1] = np.maximum(rest, np.minimum(through, band[low : high + 1]))
    contrast[places] = band
