"""The ink of a split, as the network will see it: scaled, kept within limits, distorted anew in every epoch."""

from __future__ import annotations

import numpy as np

from dataset.augment import Augmentation, augment, sizes_after
from dataset.store import ImageStore
from utils.pictures import resize


class HandwrittenImages:
    """Some pictures of a store. Deterministic in (seed, epoch, index), for any number of workers."""

    def __init__(
        self,
        store: ImageStore,
        indices: np.ndarray,
        scale: float = 1.0,
        max_height: int = 1 << 30,
        max_width: int = 1 << 30,
        augmentation: Augmentation | None = None,
    ):
        """scale: of every picture; a picture that is then still larger than the limits is scaled down to them.

        indices: (N,) places in the store. No picture is left out, however large.
        """
        self.store, self.indices, self.augmentation = store, np.asarray(indices), augmentation
        self.limits = (scale, max_height, max_width)
        sizes = store.sizes[self.indices].astype(np.float64)
        limits = np.array([[max_height, max_width]])
        self.scales = np.minimum(scale, (limits / np.maximum(sizes, 1)).min(axis=1))  # (N,)
        self._sizes = np.maximum(np.rint(sizes * self.scales[:, None]), 1).astype(np.int32)
        self.lengths = store.lengths[self.indices]

    def part(self, chosen: np.ndarray) -> HandwrittenImages:
        """Some of these pictures.   chosen: (N,) bool."""
        return HandwrittenImages(self.store, self.indices[chosen], *self.limits, self.augmentation)

    def __len__(self) -> int:
        return len(self.indices)

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every picture in this epoch."""
        if self.augmentation is None:
            return self._sizes
        return sizes_after(self._sizes, seed, epoch, self.augmentation)

    def picture(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        picture = self.store.picture(int(self.indices[index]))
        if self.scales[index] != 1:
            picture = resize(picture, float(self.scales[index]))
        if self.augmentation is None:
            return picture
        return augment(picture, index, seed, epoch, self.augmentation)

    def label(self, index: int) -> np.ndarray:
        return self.store.tokens(int(self.indices[index]))

    def label_hash(self) -> np.ndarray:
        """(N,) uint64, equal for equal labels."""
        return self.store.label_hash[self.indices]

    def name(self, index: int) -> str:
        return self.store.name(int(self.indices[index]))
