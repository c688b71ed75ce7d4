"""Attention with coverage: it takes into account what it has attended to before."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.positions import image_positions

MAX_MAPS = 2**24  # numbers that the widest maps of coverage may hold at a time: 64 MiB in fp32


class CoverageAttention(nn.Module):
    """Additive attention with coverage: Zhang et al. (WAP), Pattern Recognition 2017, section 3.3.

    score = v . tanh(key of the position + query + convolution of the sum of past attention around the position)
    """

    def __init__(self, channels: int, query: int, attention: int, kernel: int):
        super().__init__()
        self.key = nn.Linear(channels, attention)
        self.query = nn.Linear(query, attention, bias=False)
        self.coverage = nn.Linear(kernel * kernel, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.kernel = kernel

    def keys(self, features: Tensor, padding: Tensor) -> Tensor:
        """What does not change from step to step.   features: (B, hw, C), padding: (B, h, w).   Returns (B, hw, A)."""
        keys = self.key(features)
        return keys + image_positions(padding, keys.shape[-1]).flatten(1, 2).to(keys.dtype)

    def forward(self, keys: Tensor, query: Tensor, coverage: Tensor, padding: Tensor) -> Tensor:
        """One attention step.

        keys: (B, hw, A), query: (R, A) projected, coverage: (R, h, w) fp32, padding: (B, h, w).
        Returns attention weights (R, h, w), fp32.
        """
        rows, height, width = coverage.shape
        reach = self.kernel // 2
        # The convolution as one matrix product over cut-out squares: twice as fast on a CPU as conv2d from 1 channel.
        squares = F.pad(coverage, (reach,) * 4).unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)
        covered = self.coverage(squares.reshape(rows, height * width, -1)).view(len(keys), -1, *keys.shape[1:])
        energy = covered + (keys[:, None] + query.view(len(keys), -1, 1, keys.shape[2]))  # (B, K, hw, A)
        scores = self.score(energy.tanh_()).float().flatten(2)
        scores = scores.masked_fill(padding.flatten(1)[:, None], float("-inf"))
        return scores.softmax(-1).view(rows, height, width)


class MaskedBatchNorm(nn.Module):
    """BatchNorm over the feature positions inside the images alone, in fp32."""

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))
        self.momentum, self.epsilon = momentum, epsilon

    def forward(self, maps: Tensor, is_valid: Tensor) -> Tensor:
        """maps: (B, n, C, hw), is_valid: (B, 1, 1, hw) float."""
        maps = maps.float()
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            count = is_valid.sum() * maps.shape[1]
            mean = (maps * is_valid).sum((0, 1, 3)) / count
            variance = ((maps - mean[:, None]).square() * is_valid).sum((0, 1, 3)) / count
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_variance.lerp_(variance, self.momentum)
        scale = self.weight * (variance + self.epsilon).rsqrt()
        return maps * scale[:, None] + (self.bias - mean * scale)[:, None]


class CoverageRefinement(nn.Module):
    """How much past attention lowers the scores of each position: Zhao and Gao (CoMER), ECCV 2022, section 3.3.

    The sums of past attention of a layer and of the one below it, through a small convolution; the result is subtracted
    from the scores.
    """

    def __init__(self, heads: int, channels: int = 32, kernel: int = 5):
        super().__init__()
        self.conv = nn.Conv2d(2 * heads, channels, kernel, padding=kernel // 2)
        self.project = nn.Conv2d(channels, heads, 1, bias=False)
        self.norm = MaskedBatchNorm(heads)

    def forward(self, coverage: Tensor, padding: Tensor) -> Tensor:
        """coverage: (R, L, 2 x heads, hw), zero in the padding, padding: (B, h, w).   Returns (R, L, heads, hw)."""
        rows, length = coverage.shape[:2]
        coverage = coverage.flatten(0, 1).unflatten(2, padding.shape[1:])
        parts = coverage.split(max(1, MAX_MAPS // (self.conv.out_channels * padding[0].numel())))
        if len(parts) == 1 or not torch.is_grad_enabled():
            maps = [self._maps(part) for part in parts]
        else:  # the wide maps between the convolutions are recomputed in the backward pass, part by part
            maps = [checkpoint(self._maps, part, use_reentrant=False) for part in parts]
        maps = torch.cat(maps)
        is_valid = (~padding).flatten(1)[:, None, None].float()
        maps = self.norm(maps.flatten(2).unflatten(0, (len(padding), -1)), is_valid)
        return maps.view(rows, length, *maps.shape[2:])

    def _maps(self, coverage: Tensor) -> Tensor:
        """coverage: (n, 2 x heads, h, w).   Returns (n, heads, h, w)."""
        return self.project(self.conv(coverage).relu_())
