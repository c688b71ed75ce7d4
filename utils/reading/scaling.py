"""What reading at several scales needs with torch and without it alike; see models/ensemble.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from utils.errors import ConfigError

S = TypeVar("S", bound=tuple)  # a state of a decoder: a NamedTuple of dictionaries of arrays or tensors

SCALES = (0.25, 4.0)  # least and largest


def shrunk_length(length: np.ndarray | int, ratio: float) -> np.ndarray:
    """Pixels along a side of `length` pixels that becomes `ratio` times as long; at least 1."""
    return np.maximum(np.floor(np.asarray(length) * ratio), 1).astype(int)


def shrinking(length: int, ratio: float) -> np.ndarray:
    """What takes `length` pixels along a side to fewer: (n, length) float32, with n = shrunk_length(length, ratio).

    ratio: below 1. A triangle, twice as wide as a new pixel, is put over each of them; paper (0) lies beyond the ends.
    So what becomes of an image does not depend on the padding that stands beside it in a batch.
    """
    reach = int(np.ceil(1 / ratio)) + 1
    centers = (np.arange(shrunk_length(length, ratio)) + 0.5) / ratio
    distances = np.abs(np.arange(-reach, length + reach) + 0.5 - centers[:, None]) * ratio
    weights = np.maximum(1 - distances, 0)
    return (weights / weights.sum(1, keepdims=True))[:, reach:-reach].astype(np.float32)


def shrunk_padding(padding: np.ndarray, ratio: float) -> np.ndarray:
    """The padding of a batch that becomes `ratio` times as large: (B, H, W) bool -> (B, h, w)."""
    is_image = ~padding
    heights, widths = (shrunk_length(is_image.any(side).sum(1), ratio)[:, None] for side in (2, 1))
    is_row, is_column = (
        np.arange(shrunk_length(size, ratio)) < length
        for size, length in zip(padding.shape[1:], (heights, widths), strict=True)
    )
    return ~(is_row[:, :, None] & is_column[:, None])


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Scales that an image is read at, largest first. Raises ConfigError."""
    low, high = SCALES
    if not scales or len(set(scales)) < len(scales) or not all(low <= scale <= high for scale in scales):
        raise ConfigError(f"expected different scales from {low:g} to {high:g}, got {', '.join(map(str, scales))}")
    return tuple(sorted(map(float, scales), reverse=True))


def largest_and_ratios(scales: Sequence[float]) -> tuple[float, list[float]]:
    """The size that images are given in, and what the others are as a share of it. Raises ConfigError."""
    largest, *others = check_scales(scales)
    return largest, [scale / largest for scale in others]


def joined(states: Sequence[S]) -> S:
    """One state that holds the states of all scales, so that search selects rows and images of all at once."""
    together = [{} for _ in states[0]]
    for index, state in enumerate(states):
        for part, arrays in zip(together, state, strict=True):
            part |= {f"{index}:{name}": array for name, array in arrays.items()}
    return type(states[0])(*together)


def parted(state: S) -> list[S]:
    """What joined() joined."""
    states: dict[str, S] = {}
    for part, arrays in enumerate(state):
        for key, array in arrays.items():
            index, _, name = key.partition(":")
            states.setdefault(index, type(state)(*({} for _ in state)))[part][name] = array
    return list(states.values())
