"""How many of each symbol an image holds, predicted from its features: Li et al. (CAN), ECCV 2022, section 3.2."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.special_tokens import PAD


class _Counter(nn.Module):
    """One receptive field: channel attention, then a map per symbol whose sum is the count."""

    def __init__(self, channels: int, vocabulary_size: int, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.squeeze = nn.Linear(width, max(width // 16, 4))
        self.excite = nn.Linear(max(width // 16, 4), width)
        self.symbols = nn.Conv2d(width, vocabulary_size, 1)
        nn.init.constant_(self.symbols.bias, -5.0)  # begins near one of each symbol, not half a symbol per position

    def forward(self, features: Tensor, is_valid: Tensor) -> Tensor:
        maps = self.norm(self.conv(features)) * is_valid
        mean = maps.sum((2, 3)) / is_valid.sum((2, 3))
        weight = self.excite(self.squeeze(mean).relu()).sigmoid()
        maps = self.symbols(maps * weight[..., None, None])
        return (maps.float().sigmoid() * is_valid).sum((2, 3))


class CountingHead(nn.Module):
    """Two counters, with receptive fields of 3x3 and 5x5 feature positions; the count is their mean."""

    def __init__(self, channels: int, vocabulary_size: int, width: int = 512):
        super().__init__()
        self.counters = nn.ModuleList(_Counter(channels, vocabulary_size, width, kernel) for kernel in (3, 5))

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        """features: (B, C, h, w), zero in the padding, padding: (B, h, w).   Returns counts (B, V), fp32."""
        is_valid = (~padding)[:, None].float()
        return torch.stack([counter(features, is_valid) for counter in self.counters]).mean(0)


def true_counts(labels: Tensor, vocabulary_size: int, uncounted: Sequence[int] = ()) -> Tensor:
    """How often each id occurs in labels (B, L): (B, V) float.   Padding, and the ids in `uncounted`, count zero."""
    counts = torch.zeros(len(labels), vocabulary_size, device=labels.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=counts.dtype))
    for token in (PAD, *uncounted):  # one by one: a list of indices would make the CPU wait for a GPU
        counts[:, token] = 0
    return counts
