"""Standard images among the ink of a stage, so that a decoder does not forget what it has no ink for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.images.handwritten import HandwrittenImages
from dataset.images.standard import StandardImages


class Replay:
    """Ink, and beside it standard images that are shown as if they were ink: so many more for each picture of ink.

    Follows the protocol of its two sides. Index i < len(ink) is ink, the others are standard images; `chosen` says
    which of them an epoch shows. Deterministic in (seed, epoch, index).
    """

    def __init__(self, ink: HandwrittenImages, standard: StandardImages, shares: Sequence[float]):
        """shares: for each epoch, standard images shown as a share of the pictures of ink; the last one stays."""
        self.ink, self.standard, self.shares, self.progress = ink, standard, tuple(shares), None
        self.lengths = np.concatenate([ink.lengths, standard.lengths])

    def __len__(self) -> int:
        return len(self.ink) + len(self.standard)

    def set_progress(self, progress: float) -> None:
        """How far the stage is, 0 to 1: the share is then that of its time, whatever the number of its epochs."""
        self.progress = progress

    def chosen(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of this epoch, rising: all ink, and standard images by chance."""
        share = self.shares[min(epoch, len(self.shares) - 1)]
        if self.progress is not None:
            share = np.interp(self.progress, np.linspace(0, 1, len(self.shares)), self.shares)
        count = min(round(share * len(self.ink)), len(self.standard))
        places = np.random.default_rng([seed, epoch, len(self.ink)]).permutation(len(self.standard))[:count]
        return np.concatenate([np.arange(len(self.ink)), len(self.ink) + np.sort(places)])

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every picture in this epoch."""
        return np.concatenate([self.ink.sizes(seed, epoch), self.standard.sizes(seed, epoch)])

    def picture(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        side, place = self._find(index)
        return side.picture(place, seed, epoch)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `picture`; NaN where not known."""
        side, place = self._find(index)
        return side.boxes(place, seed, epoch)

    def label(self, index: int) -> np.ndarray:
        side, place = self._find(index)
        return side.label(place)

    def name(self, index: int) -> str:
        side, place = self._find(index)
        return side.name(place)

    def _find(self, index: int) -> tuple[HandwrittenImages | StandardImages, int]:
        first = len(self.ink)
        return (self.ink, index) if index < first else (self.standard, index - first)
