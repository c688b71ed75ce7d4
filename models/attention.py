"""Attention with coverage: it takes into account what it has attended to before."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.positions import image_positions

aten = torch.ops.aten

MAX_MAPS = 2**24  # numbers that the widest maps of coverage may hold at a time: 64 MiB in fp32


class ImageAttention(nn.Module):
    """What both kinds of attention have: keys that tell the content of a position and where it is."""

    def __init__(self, channels: int, attention: int, kernel: int):
        super().__init__()
        self.key = nn.Linear(channels, attention)
        self.kernel = kernel  # side of the squares of past attention

    def keys(self, features: Tensor, padding: Tensor) -> Tensor:
        """What does not change from step to step.   features: (B, hw, C), padding: (B, h, w).   Returns (B, hw, A)."""
        keys = self.key(features)
        return keys + image_positions(padding, keys.shape[-1]).flatten(1, 2).to(keys.dtype)

    def all_steps(self, keys: Tensor, hidden: Tensor, past: dict[str, Tensor], padding: Tensor) -> Tensor:
        """The attention of all steps, each of which knows those before it; see forward().

        hidden: (R, L, D).   past: of the first step.   Returns (R, L, h, w), fp32.
        """
        steps = []
        for query in zip(*(each.unbind(1) for each in self.queries(keys, hidden)), strict=True):
            weights, past = self(keys, query, past, padding)
            steps.append(weights)
        return torch.stack(steps, 1)


class CoverageAttention(ImageAttention):
    """Additive attention with coverage: Zhang et al. (WAP), Pattern Recognition 2017, section 3.3.

    score = v . tanh(key of the position + query + convolution of the sum of past attention around the position)
    """

    def __init__(self, channels: int, query: int, attention: int, kernel: int):
        super().__init__(channels, attention, kernel)
        self.query = nn.Linear(query, attention, bias=False)
        self.coverage = nn.Linear(kernel * kernel, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)

    def start(self, padding: Tensor) -> dict[str, Tensor]:
        """What later steps must know of earlier ones, before the first: (B, h, w) fp32 each."""
        return {"coverage": torch.zeros(padding.shape, device=padding.device)}

    def queries(self, keys: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        """What the steps ask, which does not depend on earlier ones.   hidden: (R, L, D).   Returns (R, L, …) each."""
        return (self.query(hidden),)

    def forward(
        self, keys: Tensor, query: tuple[Tensor, ...], past: dict[str, Tensor], padding: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One attention step.

        keys: (B, hw, A).   query: queries() of this step, (R, …) each.   past: (R, h, w) each.   padding: (B, h, w).
        Returns attention weights (R, h, w), fp32, and the past of the next step.
        """
        coverage = past["coverage"]
        covered = self.coverage(surroundings(coverage, self.kernel)).view(len(keys), -1, *keys.shape[1:])
        energy = covered + (keys[:, None] + query[0].view(len(keys), -1, 1, keys.shape[2]))  # (B, K, hw, A)
        weights = attention_weights(self.score(energy.tanh_())[..., 0], padding)
        return weights, {"coverage": coverage + weights}


class LocationAttention(ImageAttention):
    """Dot-product attention that also knows where it has been: location-aware attention, Chorowski et al., 2015.

    score = key of the position . query / sqrt(A) + features of past attention around the position . second query

    The features are a convolution, with ReLU, of two maps: the sum of past attention (coverage), and the attention of
    the step before. So the second query can ask for what lies to the right of the last symbol, or above it. All that
    a step does not owe to earlier ones is one matrix product for all steps, and no step has a tanh for each position.
    """

    def __init__(self, channels: int, query: int, attention: int, kernel: int, location: int):
        """location: features of past attention."""
        super().__init__(channels, attention, kernel)
        self.query = nn.Linear(query, attention + location)
        self.location = nn.Linear(2 * kernel * kernel, location)

    def start(self, padding: Tensor) -> dict[str, Tensor]:
        """See CoverageAttention.start()."""
        nothing = torch.zeros(padding.shape, device=padding.device)
        return {"coverage": nothing, "last": nothing}

    def queries(self, keys: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        """The scores of the keys (R, L, hw), and the queries of the location features (R, L, location)."""
        of_keys, of_location = self.query(hidden).split([keys.shape[2], self.location.out_features], -1)
        # All rows of an image share its keys: (B, K*L, A) x (B, A, hw)
        scores = of_keys.reshape(len(keys), -1, keys.shape[2]) @ keys.mT * keys.shape[2] ** -0.5
        return scores.view(*of_keys.shape[:2], -1), of_location

    def forward(
        self, keys: Tensor, query: tuple[Tensor, ...], past: dict[str, Tensor], padding: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See CoverageAttention.forward()."""
        scores, of_location = query
        maps = torch.stack([past["coverage"], past["last"]], 1)
        kernels = self.location.weight.view(-1, 2, self.kernel, self.kernel)
        location = F.conv2d(maps, kernels, self.location.bias, padding=self.kernel // 2).relu_().flatten(2)
        scores = scores + (of_location[:, None] @ location)[:, 0]
        weights = attention_weights(scores.view(len(keys), -1, keys.shape[1]), padding)
        return weights, {"coverage": past["coverage"] + weights, "last": weights}

    def all_steps(self, keys: Tensor, hidden: Tensor, past: dict[str, Tensor], padding: Tensor) -> Tensor:
        """See ImageAttention.all_steps(). No gradient flows into past attention: a step learns what to make of it, and
        not what it should have been, which the loss of each step says. So the backward pass goes through no step but
        its own.

        past: (R, h, w) zeros.
        """
        scores, of_location = (each.float() for each in self.queries(keys, hidden))
        steps = _LocationSteps.apply if torch.is_grad_enabled() else location_steps
        with torch.autocast(keys.device.type, enabled=False):
            return steps(scores, of_location, self.location.weight, self.location.bias, padding, self.kernel)


def location_steps(
    scores: Tensor,
    of_location: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: Tensor,
    kernel: int,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """The attention of all steps: LocationAttention.all_steps().

    scores: (R, L, hw).   of_location: (R, L, F).   weight (F, 2 x kernel x kernel) and bias (F,) of the features.
    padding: (B, h, w), R being a multiple of B.   kept: takes the features of each step, (R, F, hw), for the backward
    pass.   Returns (R, L, h, w).

    The convolution is linear, so that of coverage is the sum of those of the attention of each step; it is added up.
    """
    rows, length = scores.shape[:2]
    height, width = padding.shape[1:]
    outside = padding.flatten(1).repeat_interleave(rows // len(padding), 0)
    scores = scores.masked_fill(outside[:, None], float("-inf"))
    # Of coverage and then of the last attention: (2F, 1, kernel, kernel)
    kernels = weight.view(len(weight), 2, kernel, kernel).transpose(0, 1).flatten(0, 1)[:, None]
    last = scores.new_zeros(rows, 1, height, width)
    of_coverage = bias[:, None].repeat(rows, 1, height * width)
    weights = scores.new_empty(rows, length, height, width)
    for step in range(length):
        of_last_step = F.conv2d(last, kernels, padding=kernel // 2).flatten(2)
        of_coverage += of_last_step[:, : len(weight)]
        features = (of_coverage + of_last_step[:, len(weight) :]).relu_()
        energy = torch.baddbmm(scores[:, step, None], of_location[:, step, None], features)
        torch.softmax(energy[:, 0], -1, out=weights[:, step].flatten(1))
        last = weights[:, step, None].contiguous()
        if kept is not None:
            kept.append(features)
    return weights


class _LocationSteps(torch.autograd.Function):
    """location_steps() with its gradient, written out.

    That of the kernels is a matrix product over cut-out squares: the convolution's own takes half of the time with
    AVX-512, and four times as long without.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, of_location: Tensor, weight: Tensor, bias: Tensor, padding: Tensor, kernel: int
    ) -> Tensor:
        kept: list[Tensor] = []
        weights = location_steps(scores, of_location, weight, bias, padding, kernel, kept)
        ctx.save_for_backward(weights, of_location, weight, *kept)
        ctx.kernel = kernel
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        weights, of_location, weight, *kept = ctx.saved_tensors
        rows, length = weights.shape[:2]
        count = len(weight)
        of_scores = aten._softmax_backward_data(gradient.flatten(2), weights.flatten(2), -1, weights.dtype)
        of_query = torch.empty_like(of_location)
        # What coverage makes of a step's attention, all later steps see.
        of_features = weights.new_zeros(rows, 2 * count, of_scores.shape[2])
        of_kernels = weight.new_zeros(rows, 2 * count, weight.shape[1] // 2)
        for step in reversed(range(length)):
            features = kept[step]
            of_energy = of_scores[:, step, None]
            of_query[:, step] = (features @ of_energy.mT)[..., 0]
            of_step = aten.threshold_backward(of_location[:, step, :, None] * of_energy, features, 0)
            of_features[:, :count] += of_step
            of_features[:, count:] = of_step
            if step > 0:  # before the first step there is no attention
                of_kernels.baddbmm_(of_features, surroundings(weights[:, step - 1], ctx.kernel))
        of_weight = of_kernels.sum(0).view(2, count, -1).transpose(0, 1).reshape(weight.shape)
        return of_scores, of_query, of_weight, of_features[:, :count].sum((0, 2)), None, None


def surroundings(maps: Tensor, kernel: int) -> Tensor:
    """The squares around all positions: maps (R, h, w) -> (R, hw, kernel x kernel).

    A convolution from one channel as one matrix product over cut-out squares takes half the time of conv2d on a CPU, or
    less, where there is a gradient; without one, both take the same.
    """
    squares = F.pad(maps, (kernel // 2,) * 4).unfold(1, kernel, 1).unfold(2, kernel, 1)  # (R, h, w, k, k)
    # Laid out as rows of positions, which are copied in longer runs than squares are.
    return squares.permute(0, 3, 4, 1, 2).reshape(len(maps), kernel * kernel, -1).mT


def attention_weights(scores: Tensor, padding: Tensor) -> Tensor:
    """Softmax over an image's positions: scores (B, K, hw), padding (B, h, w) -> (B x K, h, w), fp32."""
    scores = scores.float().masked_fill(padding.flatten(1)[:, None], float("-inf"))
    return scores.softmax(-1).view(-1, *padding.shape[1:])


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
