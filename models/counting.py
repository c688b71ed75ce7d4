"""How many of each symbol a picture holds, told without reading it: Li et al. (CAN), ECCV 2022, section 3.2."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Counter(nn.Module):
    """Features at one reach, weighed by channel attention, to a map per symbol whose sum is the count."""

    def __init__(self, channels: int, vocabulary_size: int, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.squeeze = nn.Linear(width, max(width // 16, 4))
        self.excite = nn.Linear(max(width // 16, 4), width)
        self.symbols = nn.Conv2d(width, vocabulary_size, 1)
        nn.init.constant_(self.symbols.bias, -5.0)  # begins near one of each symbol, not half a symbol in every cell

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        maps = self.norm(self.conv(features)) * inside
        mean = maps.sum((2, 3)) / inside.sum((2, 3))
        weight = self.excite(self.squeeze(mean).relu()).sigmoid()
        maps = self.symbols(maps * weight[..., None, None])
        return (maps.float().sigmoid() * inside).sum((2, 3))


class CountingHead(nn.Module):
    """Two counters, one looking 3x3 cells wide, one 5x5; the count is their mean."""

    def __init__(self, channels: int, vocabulary_size: int, width: int = 512):
        super().__init__()
        self.counters = nn.ModuleList(_Counter(channels, vocabulary_size, width, kernel) for kernel in (3, 5))

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        """features: (B, C, h, w), zero in the padding, padding: (B, h, w).   Returns counts (B, V), fp32."""
        inside = (~padding)[:, None].float()
        return torch.stack([counter(features, inside) for counter in self.counters]).mean(0)


def true_counts(labels: Tensor, vocabulary_size: int, uncounted: Sequence[int] = ()) -> Tensor:
    """How often each id occurs in labels (B, L): (B, V) float.   Padding, and the ids in `uncounted`, count zero."""
    counts = torch.zeros(len(labels), vocabulary_size, device=labels.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=counts.dtype))
    counts[:, [0, *uncounted]] = 0
    return counts


def counting_loss(counts: Tensor, labels: Tensor, uncounted: Sequence[int] = ()) -> Tensor:
    """Smooth L1 between counts (B, V) and the true ones of labels (B, L), padded with 0.

    uncounted: ids without ink of their own (braces, `^`, `_`), which the paper leaves out of counting.
    """
    return F.smooth_l1_loss(counts, true_counts(labels, counts.shape[1], uncounted))
