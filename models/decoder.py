"""What every decoder gives and takes, so that teaching and search need not know which one they have."""

from typing import NamedTuple

import torch
from torch import Tensor

PAD, START, END = 0, 1, 2


class Decoded(NamedTuple):
    """What a decoder says at every position of formulas that it is shown.   R = B x K rows, picture-major."""

    logits: Tensor  # (R, L, V)
    glimpses: Tensor  # (R, L, D) what it saw of the picture at each position
    attention: Tensor  # (R, L, h, w) where it looked; each position sums to 1


class State(NamedTuple):
    """What a decoder carries from one step to the next.

    Beams of one picture share the picture's keys and values: these are neither copied nor reordered.
    """

    picture: dict[str, Tensor]  # (B, …) each: what does not change while a picture is read
    past: dict[str, Tensor]  # (R, …) each: what depends on the tokens so far

    def select(self, rows: Tensor) -> "State":
        """Rows to go on with, (R',) indices; they stay picture-major, and may repeat or leave out rows."""
        return State(self.picture, {name: tensor.index_select(0, rows) for name, tensor in self.past.items()})

    def select_pictures(self, pictures: Tensor) -> "State":
        """Pictures to go on with, (B',) indices, each with all of its rows."""
        size = next(iter(self.picture.values())).shape[0]
        chosen = {name: tensor.index_select(0, pictures) for name, tensor in self.picture.items()}
        past = {
            name: tensor.unflatten(0, (size, -1)).index_select(0, pictures).flatten(0, 1)
            for name, tensor in self.past.items()
        }
        return State(chosen, past)


class Framed(NamedTuple):
    """Labels as a decoder is taught them.   K reading directions per label."""

    inputs: Tensor  # (B*K, L+1) start, then the tokens
    targets: Tensor  # (B*K, L+1) the tokens, then the end
    places: Tensor  # (B*K, L+1) where in the label each target stands; -1 for the end and the padding


def frame(labels: Tensor, lengths: Tensor, directions: int) -> Framed:
    """Put start and end around labels; the second direction reads them backwards, from END to START.

    labels: (B, L) ids without start and end, padded with 0.   lengths: (B,).
    """
    size, length = labels.shape
    positions = torch.arange(length + 1, device=labels.device).expand(size, directions, -1)
    count = lengths[:, None, None]
    backwards = torch.arange(directions, device=labels.device)[:, None] == 1
    places = torch.where(backwards, count - 1 - positions, positions)
    places = places.masked_fill(positions >= count, -1)

    padded = torch.nn.functional.pad(labels, (0, 1))[:, None].expand(-1, directions, -1)
    targets = padded.gather(2, places.clamp(min=0)).masked_fill(places < 0, PAD)
    ends = torch.where(backwards, START, END)
    targets = torch.where(positions == count, ends, targets)
    starts = (START + END - ends).expand(size, -1, -1)
    inputs = torch.cat([starts, targets[:, :, :-1]], dim=2)
    # Where a shorter label has ended, its own end would be shown next: padding instead, which nothing looks at.
    inputs = inputs.masked_fill(positions > count, PAD)
    return Framed(inputs.flatten(0, 1), targets.flatten(0, 1), places.flatten(0, 1))


def replace_at_random(tokens: Tensor, share: float, vocabulary_size: int) -> Tensor:
    """tokens (R, L), a share of them replaced by random other ones, drawn from torch's generator.

    Starts, ends and padding stay, and are never put in.
    """
    ordinary = vocabulary_size - (END + 1)
    if ordinary < 2:
        return tokens
    is_replaced = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens > END)
    shift = torch.randint(1, ordinary, tokens.shape, device=tokens.device)
    return torch.where(is_replaced, (tokens - END - 1 + shift) % ordinary + END + 1, tokens)
