"""What training asks of a source of images, whatever it draws: handwriting, standard images, synthetic ink, or several.

    class Blanks(ImageSource):      # says how many, how large, what is in them; all else has a default

Deterministic in (seed, epoch, index): an image is the same whichever process asks for it, and in any order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class ImageSource(Protocol):
    """N images with their labels. `loading.Items` draws them, samplers ask for sizes and lengths alone.

    lengths: (N,) int32, tokens a label.
    """

    lengths: np.ndarray

    @abstractmethod
    def __len__(self) -> int:
        """N, whatever an epoch shows of them."""

    @abstractmethod
    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every image in this epoch, without drawing it."""

    @abstractmethod
    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""

    @abstractmethod
    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of the image; NaN where not known."""

    @abstractmethod
    def label(self, index: int) -> np.ndarray:
        """int32 vocabulary ids, without `<sos>` and `<eos>`."""

    @abstractmethod
    def name(self, index: int) -> str:
        """How people are told which image is meant."""

    def chosen(self, seed: int, epoch: int) -> np.ndarray:
        """The indices that an epoch shows, rising: all of them, where a source does not say otherwise."""
        return np.arange(len(self))

    def set_progress(self, progress: float | None) -> None:
        """What fraction of the stage has passed when the next epoch begins. Most sources are always the same."""

    def prepare(self, indices: Sequence[int], seed: int, epoch: int) -> None:
        """Find at once what drawing these images needs. Only faster: they are the same without it."""

    def partner(self, index: int, seed: int, epoch: int) -> np.ndarray | None:
        """The standard image of the same label, uint8 (H, W), where images come in pairs."""
        return None

    def partner_sizes(self, seed: int, epoch: int) -> np.ndarray | None:
        """(N, 2) height and width of the partners, where images come in pairs."""
        return None
