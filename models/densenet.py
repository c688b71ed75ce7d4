"""The encoder: DenseNet-B (Huang et al., CVPR 2017, section 3), in which padding never changes an image's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseLayer(nn.Module):
    """1x1 to 4 x growth channels, 3x3 to growth channels, each with BN-ReLU, to be added to the input."""

    def __init__(self, channels: int, growth: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(growth)
        self.dropout = dropout

    def squeeze(self, rows: Tensor, size: Sequence[int]) -> Tensor:
        """The 1x1 convolution as a matrix product.   rows: (B*h*w, C), size: B, h, w.   Returns (B, 4 growth, h, w)."""
        weight = self.conv1.weight.flatten(1).to(rows.dtype)
        return (rows @ weight.T).view(*size, -1).permute(0, 3, 1, 2)

    def expand(self, squeezed: Tensor, is_valid: Tensor) -> Tensor:
        """BN-ReLU, 3x3, BN-ReLU, dropout.

        squeezed: (B, 4 growth, h, w), is_valid: (B, 1, h, w).   Returns (B, growth, h, w).
        """
        # In place, since BatchNorm's backward pass needs its input alone: masking then costs no memory.
        bottleneck = self.norm1(squeezed).mul_(is_valid).relu_()
        new = self.norm2(self.conv2(bottleneck)).relu_()
        return F.dropout(new, self.dropout, self.training)

    def own_parameters(self) -> list[nn.Parameter]:
        """The parameters that expand() uses."""
        return [*self.norm1.parameters(), *self.conv2.parameters(), *self.norm2.parameters()]


class DenseBlock(nn.ModuleList):
    """Dense layers, the input of each being the outputs of all before it.

    The outputs are written side by side into one map, channels last; each layer reads the beginning of its rows. So
    nothing is concatenated, which would need memory that grows with the square of the number of layers. The backward
    pass sums the gradients of all layers in one map as well. After Pleiss et al., Memory-Efficient Implementation of
    DenseNets, 2017, who also concatenate, but into shared memory.

    recompute: keep only that map, and compute the layers again in the backward pass.
    """

    def __init__(self, layers: Iterable[DenseLayer], recompute: bool = False):
        super().__init__(layers)
        self.recompute = recompute

    def forward(self, features: Tensor, is_valid: Tensor) -> Tensor:
        """features: (B, C, h, w), is_valid: (B, 1, h, w), 0 in padding.   Returns (B, C + layers x growth, h, w)."""
        parameters = [layer.conv1.weight for layer in self] + [p for layer in self for p in layer.own_parameters()]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (features, *parameters)):
            return _DenseBlockFunction.apply(features, is_valid, self, *parameters)
        return self.side_by_side(features, lambda layer, rows, size: layer.expand(layer.squeeze(rows, size), is_valid))

    def side_by_side(self, features: Tensor, add: Callable[[DenseLayer, Tensor, Sequence[int]], Tensor]) -> Tensor:
        """features, followed by the output of each layer: add(layer, rows (B*h*w, c), (B, h, w)) -> (B, …, h, w)."""
        size, channels = (len(features), *features.shape[2:]), features.shape[1]
        width = channels + sum(layer.conv2.out_channels for layer in self)
        rows = features.new_empty(*size, width)
        rows[..., :channels] = features.permute(0, 2, 3, 1)
        for layer in self:
            new = add(layer, rows.view(-1, width)[:, :channels], size)
            rows[..., channels : channels + new.shape[1]] = new.permute(0, 2, 3, 1)
            channels += new.shape[1]
        return rows.permute(0, 3, 1, 2)


class _DenseBlockFunction(torch.autograd.Function):
    """DenseBlock.forward with a gradient: by autograd within a layer, by hand across layers."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, is_valid: Tensor, block: DenseBlock, *parameters: Tensor) -> Tensor:
        ctx.kept = kept = []  # per layer: input and output in autograd's graph, or a random state to recompute them
        recompute = block.recompute and block.training
        device = features.device.type
        ctx.autocast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}

        def add(layer: DenseLayer, rows: Tensor, size: Sequence[int]) -> Tensor:
            squeezed = layer.squeeze(rows, size)
            if recompute:
                kept.append(_random_state(squeezed.device))
                return layer.expand(squeezed, is_valid)
            with torch.enable_grad():
                squeezed.requires_grad_()
                new = layer.expand(squeezed, is_valid)
            kept.append((squeezed, new))
            return new.detach()

        maps = block.side_by_side(features, add)
        ctx.save_for_backward(maps, is_valid)
        ctx.block, ctx.recompute = block, recompute
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        maps, is_valid = ctx.saved_tensors
        size, channels = (len(maps), *maps.shape[2:]), maps.shape[1]
        inputs = maps.permute(0, 2, 3, 1).flatten(0, 2)
        rows = gradient.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).flatten(0, 2)
        of_weights, of_own = [], []
        for layer in reversed(ctx.block):
            ends, own = ctx.kept.pop(), layer.own_parameters()
            channels -= layer.conv2.out_channels
            if ctx.recompute:
                with _as_before(layer, ends, maps.device), torch.autocast(maps.device.type, **ctx.autocast):
                    squeezed = layer.squeeze(inputs[:, :channels], size)
                    with torch.enable_grad():
                        ends = squeezed.requires_grad_(), layer.expand(squeezed, is_valid)
            trained = [parameter for parameter in own if parameter.requires_grad]
            of_output = rows[:, channels : channels + layer.conv2.out_channels].view(*size, -1).permute(0, 3, 1, 2)
            of_squeezed, *found = torch.autograd.grad(ends[1], [ends[0], *trained], of_output.to(ends[1].dtype))
            del ends
            of_squeezed = of_squeezed.permute(0, 2, 3, 1).flatten(0, 2).to(rows.dtype)
            weight = layer.conv1.weight
            rows[:, :channels].addmm_(of_squeezed, weight.flatten(1).to(rows.dtype))
            if weight.requires_grad:
                of_weight = (of_squeezed.T @ inputs[:, :channels]).to(weight.dtype).view_as(weight)
            of_weights.append(of_weight if weight.requires_grad else None)
            found = iter(found)
            of_own[:0] = [next(found) if parameter.requires_grad else None for parameter in own]
        of_features = rows[:, :channels].view(*size, -1).permute(0, 3, 1, 2)
        return of_features, None, None, *reversed(of_weights), *of_own


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _as_before(layer: DenseLayer, random_state: Tensor, device: torch.device) -> Iterator[None]:
    """Repeat the random numbers of dropout; leave BatchNorm's running averages, which have counted this pass."""
    norms = (layer.norm1, layer.norm2)
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(random_state, device)
        else:
            torch.set_rng_state(random_state)
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, kept, strict=True):
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)


class Transition(nn.Module):
    """1x1-BN-ReLU to fewer channels, then the mean of 2x2 positions."""

    def __init__(self, channels: int, channels_out: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(self.conv(features)).relu_()
        return F.avg_pool2d(F.dropout(features, self.dropout, self.training), 2)


class DenseNet(nn.Module):
    """DenseNet-B. Each block after the first halves the grid: two blocks end at stride 8, three at stride 16.

    Normalized after each convolution, as the recognizers of this field do (DWAP, CAN, CoMER), not before it, as in the
    paper, which would normalize and keep the growing concatenation once more in every layer: half of all activations.

    layers: of each block.   growth: channels a layer adds.   compression: share of channels that a transition keeps.
    dropout: of what each layer adds and each transition keeps.   stem: channels of the first convolution (2 x growth).
    recompute: keep only the output of each layer, and compute the rest again in the backward pass: Pleiss et al., 2017.
    """

    def __init__(
        self,
        layers: Sequence[int] = (16, 16, 16),
        growth: int = 24,
        compression: float = 0.5,
        dropout: float = 0.2,
        stem: int | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        channels = 2 * growth if stem is None else stem
        self.stem = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for block, depth in enumerate(layers):
            if block > 0:
                channels_out = int(channels * compression)
                self.transitions.append(Transition(channels, channels_out, dropout))
                channels = channels_out
            dense = (DenseLayer(channels + i * growth, growth, dropout) for i in range(depth))
            self.blocks.append(DenseBlock(dense, recompute))
            channels += depth * growth
        self.norm = nn.BatchNorm2d(channels)
        self.channels = channels
        self.stride = 2 ** (len(layers) + 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al., ICCV 2015

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ink into a grid of features.

        images: (B, 1, H, W) float in 0..1, ink is 1.   padding: (B, H, W) bool, True outside the image.
        Returns features (B, C, h, w), zero in the padding, and their padding (B, h, w), with h = ceil(H / stride).

        An image counts as filled up with paper to a multiple of the stride. Beyond that everything is zeroed before
        each 3x3 convolution: the same zeros as beyond the edge of an image without padding. Pooling windows (2x2) never
        reach across the border of a feature position, so nothing else needs a mask.
        """
        images = images.masked_fill(padding[:, None], 0)
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        padding = padding[:, :: self.stride, :: self.stride]
        is_image = (~padding)[:, None].to(images.dtype)

        features = self.stem_norm(self.stem(images)).relu_()
        features = F.max_pool2d(features, 2)
        for block, dense in enumerate(self.blocks):
            if block > 0:
                features = self.transitions[block - 1](features)
            scale = 2 ** (len(self.blocks) - 1 - block)  # positions of this block along the side of a final one
            is_valid = is_image.repeat_interleave(scale, 2).repeat_interleave(scale, 3) if scale > 1 else is_image
            features = dense(features, is_valid)
        return self.norm(features).mul_(is_image), padding
