"""How large images may be: one factor for all of them, and limits to which larger ones are scaled down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaling:
    """scale: of every image.   max_height, max_width: pixels; an image that would be larger is scaled down to them."""

    scale: float = 1.0
    max_height: int = 1 << 30
    max_width: int = 1 << 30

    @property
    def limits(self) -> np.ndarray:
        """(2,) int64: height and width."""
        return np.array([self.max_height, self.max_width])

    def scaled(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factors (n,) of images of full sizes (n, 2), and their scaled sizes, (n, 2) int32."""
        factors = np.minimum(self.scale, (self.limits / np.maximum(sizes, 1)).min(axis=1))
        return factors, np.maximum(np.rint(sizes * factors[:, None]), 1).astype(np.int32)


FULL_SIZE = Scaling()
