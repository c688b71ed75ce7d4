"""Pen strokes as programs have them: lists, arrays, JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.errors import DataError

EXPECTED = "expected strokes [[[x, y], [x, y], …], …]"


def as_strokes(value: Any) -> list[np.ndarray]:
    """Strokes as arrays float64 (n, 2), x to the right and y down.

    value: a sequence of strokes, each a sequence of points (x, y, …), an array (n, 2 or more), or {"x": […], "y": […]};
    or {"strokes": …} around all of them. What a point has beside x and y (time, pressure) is left out.
    Raises DataError for anything else.
    """
    if isinstance(value, dict):
        value = value.get("strokes")
    if value is None or isinstance(value, (str, bytes)):
        raise DataError(EXPECTED)
    try:
        strokes = [_stroke(stroke) for stroke in value]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise DataError(EXPECTED) from None
    if not strokes:
        raise DataError(f"no strokes; {EXPECTED}")
    if not all(np.isfinite(stroke).all() for stroke in strokes):
        raise DataError("a coordinate that is not a finite number")
    return strokes


def _stroke(stroke: Any) -> np.ndarray:
    if isinstance(stroke, dict):
        return np.stack([np.asarray(stroke[name], np.float64) for name in "xy"], axis=1)
    if len(stroke) and isinstance(stroke[0], dict):
        return np.array([[point["x"], point["y"]] for point in stroke], np.float64)
    points = np.array([tuple(point)[:2] for point in stroke], np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(points.shape)
    return points
