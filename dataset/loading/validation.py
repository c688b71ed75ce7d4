"""Which images of a training split validate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from utils.draws import GOLDEN, mix64


class HeldOut(NamedTuple):
    """What decides which labels of `train` validate, where a data set has no split `validation` of its own.

    The defaults are those of the configuration.
    """

    share: float = 0.05
    seed: int = 0


def split_validation(label_hash: np.ndarray, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train and of validation, each (n,) int64 and rising. All images of one label fall on the same side.

    label_hash: (N,) uint64, of the images' labels, see ImageStore.   held_out: its share is met on average.
    Whether a label validates depends on its text and the seed alone, so it stays where it is when data or
    tokens are added. No side is empty where there are two labels or more.
    """
    with np.errstate(over="ignore"):
        mixed = mix64(label_hash + np.uint64(held_out.seed % 2**64) * GOLDEN)
    is_validation = mixed / 2.0**64 < held_out.share
    if held_out.share > 0 and len(mixed) and mixed.min() < mixed.max():
        is_validation |= mixed == mixed.min()
        is_validation &= mixed != mixed.max()
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
