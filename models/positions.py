"""Sinusoidal positions (Vaswani et al., 2017, section 3.5), along a sequence and over an image."""

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """positions: any shape, float.   Returns (…, width): sines, then cosines, of wavelengths 2 pi to 20,000 pi."""
    frequencies = torch.arange((width + 1) // 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[..., None] * torch.exp(frequencies * (-2 * math.log(10_000) / width))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]


def image_positions(padding: Tensor, width: int) -> Tensor:
    """Of feature positions, (B, h, w, width): the first half of the channels tells the row, the second the column.

    padding: (B, h, w).   Rows and columns run up to 2 pi at the image's own last position, so that padding changes
    nothing: Carion et al. (DETR), 2020; Zhao and Gao (CoMER), 2022.
    """
    is_valid = (~padding).float()
    rows, columns = is_valid.cumsum(1), is_valid.cumsum(2)
    rows = rows / rows.amax(1, keepdim=True).clamp(min=1) * (2 * math.pi)
    columns = columns / columns.amax(2, keepdim=True).clamp(min=1) * (2 * math.pi)
    return torch.cat([sinusoids(rows, width // 2), sinusoids(columns, width - width // 2)], dim=-1)
