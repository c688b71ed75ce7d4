"""The ink of a split, as the network will see it: scaled, kept within limits, distorted differently in every epoch.

Where an image's strokes are known, they are distorted too, and drawn again, before the image is.
"""

from __future__ import annotations

import numpy as np

from dataset.images.augmentation import AS_WRITTEN, Augmentation, StrokeAugmentation, augment, boxes_after, sizes_after
from dataset.images.exchange import Exchange
from dataset.images.scaling import FULL_SIZE, Scaling
from dataset.images.source import ImageSource
from dataset.images.store import ImageStore
from dataset.images.strokes import Strokes, StrokeStore, boxes_of, draw, vary
from utils.reading.images import resize


class HandwrittenImages(ImageSource):
    """Some images of a store. Deterministic in (seed, epoch, index), for any number of workers."""

    def __init__(
        self,
        store: ImageStore,
        indices: np.ndarray,
        scaling: Scaling = FULL_SIZE,
        augmentation: Augmentation | None = None,
        strokes: StrokeStore | None = None,
        stroke_augmentation: StrokeAugmentation = AS_WRITTEN,
        exchange: Exchange | None = None,
    ):
        """indices: (N,) indices in the store. No image is left out, however large.   strokes: of the same split.

        exchange: of symbols, where strokes are known.
        """
        self.store, self.indices, self.augmentation = store, np.asarray(indices), augmentation
        self.strokes, self.stroke_augmentation, self.exchange = strokes, stroke_augmentation, exchange
        self.scaling = scaling
        self.scales, self._sizes = scaling.scaled(store.sizes[self.indices])  # (N,), (N, 2)
        self.lengths = store.lengths[self.indices]
        self._last: tuple = (None, None)  # whose strokes were asked for last, and what they are

    def part(self, chosen: np.ndarray) -> HandwrittenImages:
        """Some of these images.   chosen: (N,) bool."""
        ways = self.augmentation, self.strokes, self.stroke_augmentation, self.exchange
        return HandwrittenImages(self.store, self.indices[chosen], self.scaling, *ways)

    def __len__(self) -> int:
        return len(self.indices)

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every image in this epoch."""
        if self.augmentation is None:
            return self._sizes
        return sizes_after(self._sizes, seed, epoch, self.augmentation)

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        is_drawn = self.exchange is not None or self.stroke_augmentation != AS_WRITTEN
        varied = self._varied(index, seed, epoch) if is_drawn else None
        if varied is None:
            image = self.store.image(int(self.indices[index]))
        else:
            strokes, traces, pen = varied
            image = draw(traces, strokes.size, pen)
        if self.scales[index] != 1:
            image = resize(image, float(self.scales[index]))
        if self.augmentation is None:
            return image
        return augment(image, index, seed, epoch, self.augmentation)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `image`; NaN where not known."""
        varied = self._varied(index, seed, epoch)
        if varied is None:
            return np.full((self.lengths[index], 4), np.nan, np.float32)
        strokes, traces, pen = varied
        size = self._sizes[index]
        boxes = boxes_of(strokes, traces, pen, int(self.lengths[index]))
        boxes *= np.tile(size / strokes.size, 2)[::-1].astype(np.float32)
        return boxes if self.augmentation is None else boxes_after(boxes, size, index, seed, epoch, self.augmentation)

    def _varied(self, index: int, seed: int, epoch: int) -> tuple[Strokes, list[np.ndarray], int] | None:
        """An image's strokes, the traces as this epoch has them, and the pen; nothing where they are not known.

        Kept until the next is asked for: `boxes` comes after `image`.
        """
        if self._last[0] != (index, seed, epoch):
            strokes = self._written(index)
            if strokes and self.exchange:
                written = self.store.tokens(int(self.indices[index]))
                strokes = self.exchange.strokes(strokes, written, index, seed, epoch)
            varied = strokes and (strokes, *vary(strokes, index, seed, epoch, self.stroke_augmentation))
            self._last = (index, seed, epoch), varied
        return self._last[1]

    def _written(self, index: int) -> Strokes | None:
        """The strokes of an image as they were written, where they are known."""
        if self.strokes is None:
            return None
        number = int(self.indices[index])  # in the store
        return self.strokes.find(self.store.name(number), self.store.sizes[number])

    def label(self, index: int) -> np.ndarray:
        written = self.store.tokens(int(self.indices[index]))
        strokes = self._written(index) if self.exchange else None
        return self.exchange.label(written, strokes, index) if strokes else written

    def label_hash(self) -> np.ndarray:
        """(N,) uint64, equal for equal labels, as they were written."""
        return self.store.label_hash[self.indices]

    def name(self, index: int) -> str:
        return self.store.name(int(self.indices[index]))
