"""From images to batches: what one step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dataset.sampler import Shapes


@dataclass(frozen=True)
class Batch:
    """Images of one step, padded to the largest of them or to a shape that the sampler has chosen.

    An image kind that the stage does not use is None.

    labels (B, L) int64 vocabulary ids without start and end, padded with 0; lengths (B,) int64 tokens.
    ink and standard (B, 1, H, W) uint8, ink 255 on paper 0; their paddings (B, H, W) bool, True outside the image.
    indices: places in the images that the loader was given.
    tokens: to be predicted, ends included.   pixels, padded_pixels: what the images hold, and what the batch costs.
    boxes (B, L, 4) float32 left, top, right, bottom of each token's ink, in pixels of the ink (of the standard image
    where there is none), NaN where it has no ink or is not known; None where no loss asks for them.
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    labels: torch.Tensor
    lengths: torch.Tensor
    ink: torch.Tensor | None
    ink_padding: torch.Tensor | None
    standard: torch.Tensor | None
    standard_padding: torch.Tensor | None
    tokens: int
    pixels: int
    padded_pixels: int
    boxes: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def images(self, domain: str) -> torch.Tensor:
        """(B, 1, H, W) float in 0..1 of one domain, "standard" or "handwritten"."""
        images = self.standard if domain == "standard" else self.ink
        return images.float() / 255

    def padding(self, domain: str) -> torch.Tensor:
        """(B, H, W) bool of one domain."""
        return self.standard_padding if domain == "standard" else self.ink_padding

    def references(self) -> list[list[int]]:
        """The labels as lists of ids."""
        return [row[:length] for row, length in zip(self.labels.tolist(), self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self) -> tuple[Batch, Batch]:
        """Two halves, each padded to its own largest image and longest label."""
        middle = len(self) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def _map(self, change) -> Batch:
        names = ("labels", "lengths", "ink", "ink_padding", "standard", "standard_padding", "boxes")
        return replace(self, **{name: change(tensor) for name in names if (tensor := getattr(self, name)) is not None})

    def _part(self, rows: slice) -> Batch:
        lengths = self.lengths[rows]
        parts: dict[str, torch.Tensor] = {}
        pixels = padded = 0
        for kind in ("ink", "standard"):
            images, padding = getattr(self, kind), getattr(self, f"{kind}_padding")
            if images is None:
                continue
            images, is_image = images[rows], ~padding[rows]
            height, width = int(is_image.any(2).sum(1).max()), int(is_image.any(1).sum(1).max())
            parts[kind] = images[:, :, :height, :width]
            parts[f"{kind}_padding"] = ~is_image[:, :height, :width]
            pixels += int(is_image.sum())
            padded += len(lengths) * height * width
        longest = max(int(lengths.max()), 1)
        return replace(
            self,
            indices=self.indices[rows],
            names=self.names[rows],
            labels=self.labels[rows, :longest],
            lengths=lengths,
            tokens=int(lengths.sum()) + len(lengths),
            boxes=None if self.boxes is None else self.boxes[rows, :longest],
            pixels=pixels,
            padded_pixels=padded,
            **parts,
        )


def stack(images: Sequence[np.ndarray], shape: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (H, W) uint8 -> (B, 1, H, W) uint8, zero-padded below and to the right, and the padding (B, H, W).

    shape: height and width that hold all the images; default: those of the largest.
    """
    height, width = shape or (max(image.shape[side] for image in images) for side in (0, 1))
    stacked = np.zeros((len(images), 1, height, width), np.uint8)
    padding = np.ones((len(images), height, width), bool)
    for i, image in enumerate(images):
        stacked[i, 0, : image.shape[0], : image.shape[1]] = image
        padding[i, : image.shape[0], : image.shape[1]] = False
    return torch.from_numpy(stacked), torch.from_numpy(padding)


def blank_batch(count: int, height: int, width: int, tokens: int, kind: str) -> Batch:
    """A batch of such sizes, to measure with.   kind: "standard", "ink", "synthetic" or "pairs"."""
    image, label = np.zeros((height, width), np.uint8), np.full(tokens, 3, np.int32)
    ink, standard = image if kind != "standard" else None, image if kind in ("standard", "pairs") else None
    boxes = np.tile(np.float32([0, 0, width, height]), (tokens, 1))
    return collate([LoadedItem(index, "blank", label, ink, standard, boxes) for index in range(count)])


@dataclass(frozen=True)
class LoadedItem:
    """One image, or the pair of one label, on its way into a batch.

    shapes: to pad the batch to: of its images, and of their partners in pairs. None: of the largest.
    """

    index: int
    name: str
    label: np.ndarray
    ink: np.ndarray | None
    standard: np.ndarray | None
    boxes: np.ndarray | None = None
    shapes: Shapes | None = None


def collate(items: Sequence[LoadedItem]) -> Batch | None:
    """Items -> Batch; nothing where there are none, which happens to a process that has no image in a step."""
    if not items:
        return None
    lengths = [len(item.label) for item in items]
    labels = np.zeros((len(items), max(*lengths, 1)), np.int64)
    for row, item in zip(labels, items, strict=True):
        row[: len(item.label)] = item.label
    parts: dict[str, torch.Tensor | None] = {
        "ink": None,
        "ink_padding": None,
        "standard": None,
        "standard_padding": None,
    }
    pixels = padded = 0
    kinds = [kind for kind in ("ink", "standard") if getattr(items[0], kind) is not None]
    for kind, shape in zip(kinds, items[0].shapes or len(kinds) * (None,), strict=True):
        images = [getattr(item, kind) for item in items]
        parts[kind], parts[f"{kind}_padding"] = stack(images, shape)
        pixels += sum(image.size for image in images)
        padded += parts[kind].numel()
    if items[0].boxes is not None:
        boxes = np.full((*labels.shape, 4), np.nan, np.float32)
        for row, item in zip(boxes, items, strict=True):
            row[: len(item.boxes)] = item.boxes
        parts["boxes"] = torch.from_numpy(boxes)
    return Batch(
        indices=tuple(item.index for item in items),
        names=tuple(item.name for item in items),
        labels=torch.from_numpy(labels),
        lengths=torch.tensor(lengths),
        tokens=sum(lengths) + len(items),
        pixels=pixels,
        padded_pixels=padded,
        **parts,
    )
