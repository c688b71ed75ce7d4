"""The encoder: DenseNet-B (Huang et al., CVPR 2017, section 3), made so that padding never changes a picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class DenseLayer(nn.Module):
    """1x1 to 4 x growth channels, 3x3 to growth channels, each with BN-ReLU: what a layer adds to what came before."""

    def __init__(self, channels: int, growth: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(growth)
        self.dropout = dropout

    def forward(self, picture: Tensor, *features: Tensor) -> Tensor:
        """picture: (B, 1, h, w), 0 in the padding.   features: (B, …, h, w), C in all.   Returns (B, growth, h, w)."""
        # In place, since BatchNorm's backward pass needs its input alone: masking then costs no memory.
        bottleneck = self.norm1(self.conv1(torch.cat(features, dim=1))).mul_(picture).relu_()
        new = self.norm2(self.conv2(bottleneck)).relu_()
        return F.dropout(new, self.dropout, self.training)


@contextmanager
def still_statistics(layer: nn.Module) -> Iterator[None]:
    """BatchNorm's running averages stay: a pass that is computed again has counted already."""
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _contexts(layer: nn.Module):
    """Around the first computation of a layer, and around the second."""
    return nullcontext(), still_statistics(layer)


class Transition(nn.Module):
    """1x1-BN-ReLU to fewer channels, then the mean of 2x2 cells."""

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

    Normalised after each convolution, as the recognisers of this field do (DWAP, CAN, CoMER), not before it, as in the
    paper: that would normalise and keep the growing concatenation once more in every layer, half of all activations.

    layers: of each block.   growth: channels a layer adds.   compression: share of channels that a transition keeps.
    dropout: of what each layer adds and each transition keeps.   stem: channels of the first convolution (2 x growth).
    recompute: keep only what each layer adds, and compute the rest again in the backward pass: Pleiss et al., 2017.
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
            self.blocks.append(nn.ModuleList(DenseLayer(channels + i * growth, growth, dropout) for i in range(depth)))
            channels += depth * growth
        self.norm = nn.BatchNorm2d(channels)
        self.channels = channels
        self.stride = 2 ** (len(layers) + 1)
        self.recompute = recompute
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al., ICCV 2015

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ink into a grid of features.

        images: (B, 1, H, W) float in 0..1, ink is 1.   padding: (B, H, W) bool, True outside the picture.
        Returns features (B, C, h, w), zero in the padding, and their padding (B, h, w), with h = ceil(H / stride).

        A picture counts as filled up with paper to whole cells. Beyond them everything is zeroed before each 3x3
        convolution, which is what that convolution finds beyond the edge of a picture that is alone. Pooling windows
        (2x2) never reach over a cell's edge, so nothing else needs a mask.
        """
        images = images.masked_fill(padding[:, None], 0)
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        padding = padding[:, :: self.stride, :: self.stride]
        picture = (~padding)[:, None].to(images.dtype)

        features = self.stem_norm(self.stem(images)).relu_()
        features = F.max_pool2d(features, 2)
        for block, dense_layers in enumerate(self.blocks):
            if block > 0:
                features = self.transitions[block - 1](features)
            cells = 2 ** (len(self.blocks) - 1 - block)  # cells of this block along the side of a final cell
            inside = picture.repeat_interleave(cells, 2).repeat_interleave(cells, 3) if cells > 1 else picture
            added = [features]
            for layer in dense_layers:
                if self.recompute and layer.training:
                    contexts = partial(_contexts, layer)
                    new = checkpoint(layer, inside, *added, use_reentrant=False, context_fn=contexts)
                else:
                    new = layer(inside, *added)
                added.append(new)
            features = torch.cat(added, dim=1)
        return self.norm(features).mul_(picture), padding
