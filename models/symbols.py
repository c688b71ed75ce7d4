"""The map of symbols: for each feature position, which symbols have their middle there.

It learns from boxes alone, so it gives the encoder a dense signal that does not pass through the decoder. Where a
decoder takes its logits into account (`symbols` of the gru decoder), reading uses it; else only training does.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SymbolMap(nn.Module):
    """A 1x1 convolution from features to one logit per symbol and feature position."""

    def __init__(self, channels: int, vocabulary_size: int):
        super().__init__()
        self.output = nn.Conv2d(channels, vocabulary_size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, C, h, w).   Returns logits (B, V, h, w)."""
        return self.of_vectors(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """The same for features side by side: (…, C).   Returns logits (…, V).

        The map is linear: of the mean of features under attention, it gives the mean of the logits under attention.
        """
        return F.linear(vectors, self.output.weight.flatten(1), self.output.bias)


def symbol_targets(labels: Tensor, boxes: Tensor, padding: Tensor, stride: int, vocabulary_size: int) -> Tensor:
    """Where each symbol has its middle: (B, V, h, w) float, 1 or 0.

    labels: (B, L).   boxes: (B, L, 4) left, top, right, bottom in pixels, NaN where a token has no ink or its place is
    not known.   padding: (B, h, w) of the features.   stride: pixels per feature position.

    Positive are the positions whose centers lie in the central half of a token's box, both in width and in height, and
    the one that holds the center of the box; within the image only.
    """
    left, top, right, bottom = boxes.nan_to_num(nan=-1e6).unbind(-1)
    rows = _central_half(top, bottom, padding.shape[1], stride)
    columns = _central_half(left, right, padding.shape[2], stride)
    masks = rows[..., :, None] & columns[..., None, :] & ~padding[:, None]  # (B, L, h, w)
    targets = torch.zeros(len(labels), vocabulary_size, *padding.shape[1:], device=labels.device)
    return targets.scatter_reduce_(1, labels[:, :, None, None].expand_as(masks), masks.float(), "amax")


def _central_half(low: Tensor, high: Tensor, length: int, stride: int) -> Tensor:
    """low, high: (B, L) in pixels.   Returns (B, L, length) bool: the positions along one side."""
    positions = torch.arange(length, device=low.device)
    center, quarter = ((low + high) / 2)[..., None], ((high - low) / 4)[..., None]
    return (((positions + 0.5) * stride - center).abs() <= quarter) | (positions == (center / stride).floor())
