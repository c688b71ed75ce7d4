"""Images of any sizes -> batches of like size for a network, and results in the order of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Images in a batch: their number, and padded pixels. A CPU gains less from large batches than it loses to padding.
MAX_IMAGES, MAX_PIXELS = 32, {"cpu": 120_000, "cuda": 2_000_000}
WIDTH_STEP = 64  # pixels: images whose widths fall into the same step are ordered by their heights


@dataclass(frozen=True)
class ImageBatch:
    """Some images, padded to the largest of them: arrays, or, after to(device), tensors.

    indices: their places among all.   images: (B, 1, H, W) float, ink 1 on paper 0.   padding: (B, H, W) bool, True
    outside the image.
    """

    indices: tuple[int, ...]
    images: Any
    padding: Any

    @classmethod
    def of(cls, indices: Sequence[int], images: Sequence[np.ndarray]) -> ImageBatch:
        """images: uint8 (H, W), ink 255 on paper 0."""
        height, width = (max(image.shape[side] for image in images) for side in (0, 1))
        padded = np.zeros((len(images), 1, height, width), np.float32)
        padding = np.ones((len(images), height, width), bool)
        for row, is_padding, image in zip(padded, padding, images, strict=True):
            rows, columns = map(slice, image.shape)
            row[0, rows, columns] = image / np.float32(255)
            is_padding[rows, columns] = False
        return cls(tuple(indices), padded, padding)

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> ImageBatch:
        import torch

        images, padding = (torch.as_tensor(part).to(device) for part in (self.images, self.padding))
        return ImageBatch(self.indices, images, padding)

    def split(self) -> tuple[ImageBatch, ImageBatch]:
        """Two halves, each padded to its own largest image."""
        middle = len(self) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> ImageBatch:
        is_image = ~self.padding[rows]
        height, width = int(is_image.any(2).sum(1).max()), int(is_image.any(1).sum(1).max())
        return ImageBatch(self.indices[rows], self.images[rows, :, :height, :width], ~is_image[:, :height, :width])


def in_batches(
    images: Sequence[np.ndarray],
    work: Callable[[ImageBatch], Sequence[T]],
    device: torch.device | None,
    max_images: int | None = None,
    on_failure: Callable[[int, Exception], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[T | None]:
    """What work(batch) gives for each image, in the order of the images; those of like size are worked on together.

    images: uint8 (H, W).   device: of torch, which gets tensors; None: work is given arrays, and torch is not needed.
    on_failure(index, error): called for an image at which work failed, whose result is None; where it is not given, the
    error is raised.   on_batch(images): called after each batch with how many it had.
    """
    kind = "cpu" if device is None else device.type
    batches = _Batches(images, max_images or MAX_IMAGES, MAX_PIXELS.get(kind, MAX_PIXELS["cuda"]))
    fail = None if on_failure is None else lambda batch, error: on_failure(batch.indices[0], error)
    results: list[T | None] = [None] * len(images)
    if device is None:
        done = _each_batch(batches, work, fail)
    else:
        from utils.training.inference import each_batch

        done = each_batch(batches, work, device, on_failure=fail)
    for batch, found in done:
        for index, result in zip(batch.indices, found, strict=True):
            results[index] = result
        if on_batch is not None:
            on_batch(len(batch.indices))
    return results


def _each_batch(
    batches: _Batches,
    work: Callable[[ImageBatch], Sequence[T]],
    on_failure: Callable[[ImageBatch, Exception], None] | None,
) -> Iterator[tuple[ImageBatch, Sequence[T]]]:
    """Yield (batch, work(batch)), as each_batch() of utils/training/inference.py does, but without torch."""
    for whole in batches:
        parts = [whole]
        while parts:
            batch, result = parts.pop(), None
            try:
                result = work(batch)
            except (RuntimeError, ValueError, OSError, MemoryError) as error:
                if on_failure is None:
                    raise
                if len(batch) > 1:
                    parts += reversed(batch.split())
                else:
                    on_failure(batch, error)
            if result is not None:
                yield batch, result


class _Batches:
    """Made one at a time, when they are asked for."""

    def __init__(self, images: Sequence[np.ndarray], max_images: int, max_pixels: int):
        self.images, self.groups = images, []
        height = width = 0
        sizes = [image.shape for image in images]
        for index in sorted(range(len(sizes)), key=lambda index: (sizes[index][1] // WIDTH_STEP, sizes[index])):
            height, width = max(height, sizes[index][0]), max(width, sizes[index][1])
            count = len(self.groups[-1]) + 1 if self.groups else 0
            if not count or count > max_images or count * height * width > max_pixels:
                self.groups.append([])
                height, width = sizes[index]
            self.groups[-1].append(index)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[ImageBatch]:
        for group in self.groups:
            yield ImageBatch.of(group, [self.images[index] for index in group])
