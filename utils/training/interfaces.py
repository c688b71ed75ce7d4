"""What training and reading ask of data and networks: utils/ imports neither dataset/ nor models/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch


class Batch(Protocol):
    """Images that are worked on together."""

    def __len__(self) -> int: ...

    def to(self: AnyBatch, device: torch.device) -> AnyBatch: ...

    def split(self: AnyBatch) -> tuple[AnyBatch, AnyBatch]:
        """Two halves, for a batch of at least two images."""


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class LabeledBatch(Batch, Protocol):
    """Images and their labels; see dataset/loading/batch.py."""

    indices: Sequence[int]  # positions in the images that the loader was given
    names: Sequence[str]
    labels: torch.Tensor  # (B, L) ids without start and end, padded with 0
    lengths: torch.Tensor  # (B,)
    pixels: int  # of the images
    padded_pixels: int  # of the batch

    def images(self, domain: str) -> torch.Tensor:
        """(B, 1, H, W) float in 0..1."""

    def padding(self, domain: str) -> torch.Tensor:
        """(B, H, W) bool."""

    def references(self) -> list[list[int]]:
        """The labels as lists of ids."""


class Loader(Protocol):
    """Batches of a split; None where a process of several has no image in a step."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[LabeledBatch | None]: ...


class TrainingLoader(Loader, Protocol):
    """Batches to learn from, other ones in every epoch; see dataset/loading/loaders.py."""

    max_pixels: int | None  # the budget of a batch, where there is one
    fetched_ahead: int  # batches that are drawn before they are needed
    oversize: int  # images of this epoch that are larger than the budget

    def set_epoch(self, epoch: int, state: Mapping[str, Any] | None = None, progress: float = 0.0) -> None:
        """Plan an epoch, or what is left of it.   state: of state_dict().   progress: of the stage, 0 to 1."""

    def state_dict(self, batches_done: int) -> dict[str, Any]: ...

    def counts(self, step: int) -> np.ndarray:
        """(processes, 2): tokens and images of a step in each process."""

    def set_max_pixels(self, max_pixels: int) -> None:
        """Another budget for the batches to come."""


class OpenedData(Protocol):
    """A data set whose splits are open."""

    def describe(self) -> str: ...

    def counts(self) -> dict[str, int]:
        """Images of each split."""

    def text(self, ids: Sequence[int]) -> str:
        """A label as LaTeX."""

    def uncleaned(self, split: str) -> int:
        """Photographs of a split that were not cleaned, where those of the training split were."""


class Explanation(Protocol):
    """Probability and place of each token of a reading; see models/recognizer.py."""

    confidences: torch.Tensor  # (L,)
    attention: torch.Tensor  # (L, h, w)
