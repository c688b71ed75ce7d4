"""Which images of a training split validate."""

from __future__ import annotations

import numpy as np

from dataset.images.store import ImageStore
from utils.draws import GOLDEN, mix64


def split_validation(store: ImageStore, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train and of validation, each (n,) int64 and rising. All images of one label fall on the same side.

    fraction: the share of labels that validates, met on average. Whether a label validates depends on its text and the
    seed alone, so it stays where it is when data or tokens are added. No side is empty where there are two labels or
    more.
    """
    with np.errstate(over="ignore"):
        mixed = mix64(store.label_hash + np.uint64(seed % 2**64) * GOLDEN)
    is_validation = mixed / 2.0**64 < fraction
    if fraction > 0 and len(mixed) and mixed.min() < mixed.max():
        is_validation |= mixed == mixed.min()
        is_validation &= mixed != mixed.max()
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
