"""Several sources of images in one stage, in shares that change while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dataset.images.source import ImageSource


def between(first: float, last: float, passed: float) -> float:
    """On the straight line from `first`, where nothing has passed, to `last`, where all has."""
    return first + (last - first) * min(max(passed, 0.0), 1.0)


class Mixture(ImageSource):
    """Images of several sources, shown as if they were of one kind.

    Indices count through the sources in their order; `chosen` says which of them an epoch shows. Deterministic in
    (seed, epoch, index), and in the progress where that is told.
    """

    def __init__(self, sources: Sequence[ImageSource], counts: Callable[[float], Sequence[int]], epochs: int):
        """counts: from the fraction of the stage that has passed, 0 to 1, to the images of each source to show.

        epochs: of the stage: without `set_progress`, its first epoch begins at 0 and its last one at 1.
        """
        self.sources, self.counts, self.epochs = tuple(sources), counts, epochs
        self.lengths = np.concatenate([source.lengths for source in sources])
        self.progress: float | None = None
        self._first = np.cumsum([0, *map(len, sources)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def set_progress(self, progress: float | None) -> None:
        """What fraction of the stage has passed when the next epoch begins; None: as its number says."""
        self.progress = progress

    def chosen(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of this epoch, rising: of each source as many as it has to show, or all it has, at random."""
        passed = epoch / max(self.epochs - 1, 1) if self.progress is None else self.progress
        parts = []
        for number, (source, count) in enumerate(zip(self.sources, self.counts(passed), strict=True)):
            random = np.random.default_rng([seed, epoch, number])
            parts.append(self._first[number] + np.sort(random.permutation(len(source))[: max(count, 0)]))
        return np.concatenate(parts)

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every image in this epoch."""
        return np.concatenate([source.sizes(seed, epoch) for source in self.sources])

    def prepare(self, indices: Sequence[int], seed: int, epoch: int) -> None:
        indices = np.asarray(indices)
        numbers = np.searchsorted(self._first, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            self.sources[number].prepare(indices[numbers == number] - self._first[number], seed, epoch)

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        source, place = self._find(index)
        return source.image(place, seed, epoch)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `image`; NaN where not known."""
        source, place = self._find(index)
        return source.boxes(place, seed, epoch)

    def label(self, index: int) -> np.ndarray:
        source, place = self._find(index)
        return source.label(place)

    def name(self, index: int) -> str:
        source, place = self._find(index)
        return source.name(place)

    def _find(self, index: int) -> tuple[ImageSource, int]:
        index = range(len(self))[index]  # an IndexError where there is no such image, and -1 is the last
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.sources[number], index - int(self._first[number])


class Again(ImageSource):
    """The same images once more, distorted in other ways: for an epoch that shows them several times."""

    def __init__(self, source: ImageSource, number: int):
        """number: which time of several this is; 0: as they are without this class."""
        self.source, self.number, self.lengths = source, number, source.lengths

    def __len__(self) -> int:
        return len(self.source)

    def _seed(self, seed: int) -> int:
        return seed + 1_000_003 * self.number

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        return self.source.sizes(self._seed(seed), epoch)

    def prepare(self, indices: Sequence[int], seed: int, epoch: int) -> None:
        self.source.prepare(indices, self._seed(seed), epoch)

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        return self.source.image(index, self._seed(seed), epoch)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        return self.source.boxes(index, self._seed(seed), epoch)

    def label(self, index: int) -> np.ndarray:
        return self.source.label(index)

    def name(self, index: int) -> str:
        return self.source.name(index)
