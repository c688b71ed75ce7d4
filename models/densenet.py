"""The encoder: DenseNet-B (Huang et al., CVPR 2017, section 3), in which padding never changes an image's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

aten = torch.ops.aten


class Kept(NamedTuple):
    """What the backward pass of a dense layer needs beside the block's map; the first three can be computed again.

    squeezed, bottleneck: (B, Q, h, w), Q = bottleneck x growth, before and after BN-ReLU.
    expanded: (B, growth, h, w), before BN-ReLU.
    mean1, scale1, mean2, scale2: mean and 1 / deviation of squeezed and of expanded in this batch; empty in eval mode.
    """

    squeezed: Tensor | None
    bottleneck: Tensor | None
    expanded: Tensor | None
    mean1: Tensor
    scale1: Tensor
    mean2: Tensor
    scale2: Tensor


class DenseLayer(nn.Module):
    """1x1 to Q = bottleneck x growth channels, 3x3 to growth channels, each with BN-ReLU, to be added to the input.

    expand() says what a layer computes. For training, compute() gives the same and gradients() its backward pass: both
    are written out, and called outside of autograd. Layers are many and narrow, and on a GPU it may take longer to
    start a kernel than to run it, so few are started. ReLU, mask and dropout together need one in the backward pass,
    where a gradient passes if the result is above zero, and no memory.
    """

    def __init__(self, channels: int, growth: int, dropout: float, bottleneck: int = 4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, bottleneck * growth, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(growth)
        self.dropout = dropout

    @property
    def dropped(self) -> float:
        """See _dropped()."""
        return _dropped(self)

    def squeeze(self, rows: Tensor, size: Sequence[int], weight: Tensor | None = None) -> Tensor:
        """The 1x1 convolution as a matrix product.   rows: (B*h*w, C), size: B, h, w.   Returns (B, Q, h, w).

        weight: in the type of the rows, where it is there already.
        """
        weight = self.conv1.weight.to(rows.dtype) if weight is None else weight
        return (rows @ weight.flatten(1).T).view(*size, -1).permute(0, 3, 1, 2)

    def expand(self, squeezed: Tensor, is_valid: Tensor) -> Tensor:
        """BN-ReLU, 3x3, BN-ReLU, dropout.

        squeezed: (B, Q, h, w), is_valid: (B, 1, h, w), 0 in padding.   Returns (B, growth, h, w).
        """
        bottleneck = self.norm1(squeezed).mul_(is_valid).relu_()
        new = self.norm2(self.conv2(bottleneck)).relu_()
        return new * _random_mask(new, self.dropped) / (1 - self.dropped) if self.dropped else new

    def compute(self, rows: Tensor, weights: Sequence[Tensor], is_valid: Tensor, zero: Tensor, out: Tensor) -> Kept:
        """squeeze() and expand() for training.

        rows: (B*h*w, C).   weights: of both convolutions, in the type of the rows.   is_valid: see expand.
        zero: (), one for all layers.   out: (B, growth, h, w), to be filled with the result.
        """
        squeezed = self.squeeze(rows, _size(is_valid), weights[0])
        normalized, *statistics1 = _normalize(self.norm1, squeezed)
        bottleneck = normalized.mul_(is_valid).relu_()
        expanded = F.conv2d(bottleneck, weights[1], padding=1)
        normalized, *statistics2 = _normalize(self.norm2, expanded)
        if self.dropped:
            is_kept = _random_mask(normalized, self.dropped)
            torch.addcmul(zero, normalized.relu_(), is_kept, value=1 / (1 - self.dropped), out=out)
        else:
            torch.clamp_min(normalized, 0, out=out)
        return Kept(squeezed, bottleneck, expanded, *statistics1, *statistics2)

    def compute_again(self, kept: Kept, rows: Tensor, weights: Sequence[Tensor], is_valid: Tensor) -> Kept:
        """What compute() kept, where only its statistics are there. BatchNorm's running averages are left alone."""
        squeezed = self.squeeze(rows, _size(is_valid), weights[0])
        bottleneck = _normalize(self.norm1, squeezed, with_averages=False)[0].mul_(is_valid).relu_()
        return kept._replace(
            squeezed=squeezed, bottleneck=bottleneck, expanded=F.conv2d(bottleneck, weights[1], padding=1)
        )

    def gradients(
        self, of_out: Tensor, out: Tensor, kept: Kept, weight: Tensor, is_needed: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients of squeezed, and of norm1's, conv2's and norm2's parameters, where they are needed.

        of_out: (B, growth, h, w), of the result `out`.   weight: of the second convolution.
        is_needed: of norm1.weight, norm1.bias, conv2.weight, norm2.weight, norm2.bias.
        """
        of_normalized = aten.threshold_backward(of_out, out, 0)
        if self.dropped:
            of_normalized.mul_(1 / (1 - self.dropped))
        of_expanded, *of_norm2 = _normalize_backward(
            self.norm2, of_normalized, kept.expanded, (kept.mean2, kept.scale2), is_needed[3:]
        )
        ones = [1, 1]  # stride, padding, dilation
        of_bottleneck, of_weight, _ = aten.convolution_backward(
            of_expanded, kept.bottleneck, weight, None, ones, ones, ones, False, [0, 0], 1, [True, is_needed[2], False]
        )
        of_normalized = aten.threshold_backward(of_bottleneck, kept.bottleneck, 0)
        of_squeezed, *of_norm1 = _normalize_backward(
            self.norm1, of_normalized, kept.squeezed, (kept.mean1, kept.scale1), is_needed[:2]
        )
        return of_squeezed, [*of_norm1, of_weight, *of_norm2]


def _dropped(layer: DenseLayer | Transition) -> float:
    """The share of the output that dropout sets to zero at present: in 256ths, see _random_mask()."""
    return round(256 * layer.dropout) / 256 if layer.training else 0.0


def _random_mask(maps: Tensor, dropped: float) -> Tensor:
    """0 for a random share `dropped`, in 256ths, 1 for the rest; as the maps, which have no gaps.

    On a CPU one random byte decides for each, which takes a tenth of the time of bernoulli_(). Bytes are compared
    in place: what compares into bool, or converts from it, is not vectorized.
    """
    mask = torch.empty_like(maps, requires_grad=False)
    if not maps.is_cpu:
        return mask.bernoulli_(1 - dropped)
    eights = torch.empty(-(-maps.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    random_bytes = eights.view(torch.uint8)[: maps.numel()].as_strided(maps.shape, maps.stride())
    return mask.copy_(random_bytes.ge_(round(256 * dropped)))


def _normalize(norm: nn.BatchNorm2d, features: Tensor, with_averages: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm: its result, and the mean and 1 / deviation of this batch.   with_averages: count it in those."""
    averages = (norm.running_mean, norm.running_var) if with_averages else (None, None)
    return torch.native_batch_norm(features, norm.weight, norm.bias, *averages, norm.training, norm.momentum, norm.eps)


def _normalize_backward(
    norm: nn.BatchNorm2d,
    gradient: Tensor,
    features: Tensor,
    statistics: tuple[Tensor, Tensor],
    is_needed: Sequence[bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of BatchNorm's input, weight and bias."""
    averages = (norm.running_mean, norm.running_var)
    return aten.native_batch_norm_backward(
        gradient, features, norm.weight, *averages, *statistics, norm.training, norm.eps, [True, *is_needed]
    )


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
        parameters = list(self.parameters())
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (features, *parameters)):
            return _DenseBlockFunction.apply(features, is_valid.to(features.dtype), self, *parameters)

        def fill(index: int, rows: Tensor, out: Tensor) -> None:
            out.copy_(self[index].expand(self[index].squeeze(rows, _size(features)), is_valid))

        return self.side_by_side(features, fill)

    def side_by_side(self, features: Tensor, fill: Callable[[int, Tensor, Tensor], None]) -> Tensor:
        """features, followed by the output of each layer.

        fill(index, rows, out): compute the layer of this index from rows (B*h*w, c) into out (B, growth, h, w).
        """
        channels = features.shape[1]
        width = channels + sum(layer.conv2.out_channels for layer in self)
        maps = features.new_empty(*_size(features), width).permute(0, 3, 1, 2)
        maps[:, :channels] = features
        for index, layer in enumerate(self):
            end = channels + layer.conv2.out_channels
            fill(index, _rows(maps)[:, :channels], maps[:, channels:end])
            channels = end
        return maps


def _size(maps: Tensor) -> tuple[int, int, int]:
    """B, h and w of (B, C, h, w)."""
    return len(maps), *maps.shape[2:]


def _rows(maps: Tensor) -> Tensor:
    """(B, C, h, w), channels last, as (B*h*w, C): a view."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _in_type(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """The same in another type. Copies, where they are needed, are made all at once."""
    others = [tensor for tensor in tensors if tensor is not None and tensor.dtype != dtype]
    if not others:
        return list(tensors)
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in others]
    torch._foreach_copy_(copies, others)
    converted = iter(copies)
    return [tensor if tensor is None or tensor.dtype == dtype else next(converted) for tensor in tensors]


class _DenseBlockFunction(torch.autograd.Function):
    """DenseBlock.forward with a gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, is_valid: Tensor, block: DenseBlock, *parameters: Tensor) -> Tensor:
        kept: list[Kept] = []
        weights = [weight for layer in block for weight in (layer.conv1.weight, layer.conv2.weight)]
        weights, zero = _in_type(weights, features.dtype), features.new_zeros(())

        def fill(index: int, rows: Tensor, out: Tensor) -> None:
            kept.append(block[index].compute(rows, weights[2 * index : 2 * index + 2], is_valid, zero, out))

        with torch.autocast(features.device.type, enabled=False):  # everything has the type of the features
            maps = block.side_by_side(features, fill)
        norms = [norm for layer in block for norm in (layer.norm1, layer.norm2)]
        if norms[0].training:
            torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)
        if block.recompute and block.training:
            kept = [layer._replace(squeezed=None, bottleneck=None, expanded=None) for layer in kept]
        ctx.block, ctx.is_training = block, block.training
        ctx.save_for_backward(maps, is_valid, *weights, *(tensor for layer in kept for tensor in layer))
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        block, is_needed = ctx.block, ctx.needs_input_grad[3:]
        assert block.training == ctx.is_training, "the mode of a dense block was changed before its backward pass"
        maps, is_valid, *saved = ctx.saved_tensors
        weights, saved = saved[: 2 * len(block)], saved[2 * len(block) :]
        # One map for the gradients of all layers: each adds to those of the channels that it has read.
        of_maps = gradient.clone(memory_format=torch.channels_last)
        channels, of_parameters = maps.shape[1], []
        for index in reversed(range(len(block))):
            layer, (weight1, weight2) = block[index], weights[2 * index : 2 * index + 2]
            kept = Kept(*saved[len(Kept._fields) * index :][: len(Kept._fields)])
            end, channels = channels, channels - layer.conv2.out_channels
            inputs, of_inputs = _rows(maps)[:, :channels], _rows(of_maps)[:, :channels]
            if kept.squeezed is None:
                kept = layer.compute_again(kept, inputs, (weight1, weight2), is_valid)
            needed = is_needed[6 * index : 6 * index + 6]  # conv1, norm1 twice, conv2, norm2 twice
            of_squeezed, of_own = layer.gradients(
                of_maps[:, channels:end], maps[:, channels:end], kept, weight2, needed[1:]
            )
            of_squeezed = _rows(of_squeezed)
            of_inputs.addmm_(of_squeezed, weight1.flatten(1))
            of_weight1 = (of_squeezed.T @ inputs).view_as(weight1) if needed[0] else None
            of_parameters[:0] = [of_weight1, *of_own]
        return of_maps[:, :channels], None, None, *_in_type(of_parameters, block[0].conv1.weight.dtype)


class Transition(nn.Module):
    """1x1-BN-ReLU to fewer channels, then the mean of 2x2 positions."""

    def __init__(self, channels: int, channels_out: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        # As a matrix product: conv2d takes small batches on a CPU apart by channels first.
        reduced = (_rows(features) @ self.conv.weight.flatten(1).T).view(*_size(features), -1).permute(0, 3, 1, 2)
        features = self.norm(reduced).relu_()
        dropped = _dropped(self)
        if not dropped:
            return F.avg_pool2d(features, 2)
        return F.avg_pool2d(features * _random_mask(features, dropped), 2) / (1 - dropped)


class DenseNet(nn.Module):
    """DenseNet-B. Each block after the first halves the grid: two blocks end at stride 8, three at stride 16.

    Normalized after each convolution, as the recognizers of this field do (DWAP, CAN, CoMER), not before it, as in the
    paper, which would normalize and keep the growing concatenation once more in every layer: half of all activations.

    layers: of each block.   growth: channels a layer adds.   compression: share of channels that a transition keeps.
    bottleneck: channels between the convolutions of a layer, as a multiple of growth; the paper has 4.
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
        bottleneck: int = 4,
    ):  # more than 7 parameters: each but `stem` is a key of the configuration
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
            dense = (DenseLayer(channels + i * growth, growth, dropout, bottleneck) for i in range(depth))
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
            is_valid = F.interpolate(is_image, scale_factor=scale) if scale > 1 else is_image
            features = dense(features, is_valid)
        features = self.norm(features)
        return features.mul_(is_image.to(features.dtype)), padding
