"""What a decoder takes and returns, so that training and search need not know which one they have."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.special_tokens import END, PAD, START


class Encoded(NamedTuple):
    """What a decoder is given of images."""

    features: Tensor  # (B, C, h, w)
    padding: Tensor  # (B, h, w)
    counts: Tensor | None  # (B, V)

    def select(self, images: Tensor) -> "Encoded":
        """Some of the images, by their indices (B',)."""
        return Encoded(*(None if part is None else part[images] for part in self))


class DecoderOutput(NamedTuple):
    """What a decoder returns for every position of given token sequences."""

    logits: Tensor  # (R, L, V)
    context: Tensor  # (R, L, D) context vectors: the features of the image, weighted by attention
    attention: Tensor  # (R, L, h, w) fp32; the weights of each token sum to 1, and are 0 in the padding


class DecoderState(NamedTuple):
    """What a decoder carries from one step to the next.

    The beams of one image share its keys and values, which are neither copied nor reordered.
    """

    image: dict[str, Tensor]  # (B, …) each: what does not change while an image is read
    past: dict[str, Tensor]  # (R, …) each: what depends on the tokens so far

    def select(self, rows: Tensor) -> "DecoderState":
        """Rows to continue with, (R',) indices; they stay image-major, and may repeat or leave out rows."""
        return DecoderState(self.image, {name: tensor.index_select(0, rows) for name, tensor in self.past.items()})

    def select_images(self, images: Tensor) -> "DecoderState":
        """Images to continue with, (B',) indices, each with all of its rows."""
        size = next(iter(self.image.values())).shape[0]
        chosen = {name: tensor.index_select(0, images) for name, tensor in self.image.items()}
        past = {
            name: tensor.unflatten(0, (size, -1)).index_select(0, images).flatten(0, 1)
            for name, tensor in self.past.items()
        }
        return DecoderState(chosen, past)


class Decoder(Protocol):
    """What training with teacher forcing (a call) and search (start and step) ask of a decoder.

    features: (B, C, h, w).   padding: (B, h, w).   counts: (B, V), of each symbol in the image, where the model has a
    counting head.

    Its last layer, to the logits, is called `output` (Muon leaves it to AdamW); `symbols`, where there is one, is a
    SymbolMap. An nn.GRU or nn.LSTM must stay in training mode, as in GRUDecoder.train(): cuDNN computes gradients in
    no other, and a frozen decoder hands gradients on to the encoder.
    """

    directions: int  # 1: reads from left to right; 2: also from right to left, where END starts and START ends

    def __call__(
        self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None
    ) -> DecoderOutput:
        """All positions of given sequences, in one pass.   tokens: (R, L), each beginning with a start."""
        ...

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        """The state before the first token, one row per image."""
        ...

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        """One more token in every row.   tokens: (R,).   Returns logits (R, V), state, attention (R, h, w)."""
        ...


class BothWays:
    """Two decoders, from left to right and back, called as one that has both directions; for training."""

    def __init__(self, forwards: Decoder, backwards: Decoder):
        self.decoders = forwards, backwards

    def __call__(
        self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None
    ) -> DecoderOutput:
        """See Decoder.   tokens: (2B, L), of each image first those of `forwards`, then those of `backwards`."""
        outputs = [decoder(features, padding, tokens[first::2], counts) for first, decoder in enumerate(self.decoders)]
        return DecoderOutput(*(torch.stack(both, 1).flatten(0, 1) for both in zip(*outputs, strict=True)))


class TeacherForcing(NamedTuple):
    """Labels as inputs and targets of a decoder.   K reading directions per label."""

    inputs: Tensor  # (R, L+1) start, then the tokens
    targets: Tensor  # (R, L+1) the tokens, then the end
    label_indices: Tensor  # (R, L+1) index of each target in its label; -1 for the end and the padding


def teacher_forcing(labels: Tensor, lengths: Tensor, directions: int) -> TeacherForcing:
    """Put start and end around labels; the second direction reads them backwards, from END to START.

    labels: (B, L) ids without start and end, padded with 0.   lengths: (B,).
    """
    size, length = labels.shape
    positions = torch.arange(length + 1, device=labels.device).expand(size, directions, -1)
    count = lengths[:, None, None]
    is_backwards = torch.arange(directions, device=labels.device)[:, None] == 1
    indices = torch.where(is_backwards, count - 1 - positions, positions)
    indices = indices.masked_fill(positions >= count, -1)

    padded = F.pad(labels, (0, 1))[:, None].expand(-1, directions, -1)
    targets = padded.gather(2, indices.clamp(min=0)).masked_fill(indices < 0, PAD)
    ends = torch.where(is_backwards, START, END)
    targets = torch.where(positions == count, ends, targets)
    starts = (START + END - ends).expand(size, -1, -1)
    inputs = torch.cat([starts, targets[:, :, :-1]], dim=2)
    # After its end a shorter label would have that end as an input: padding instead.
    inputs = inputs.masked_fill(positions > count, PAD)
    return TeacherForcing(inputs.flatten(0, 1), targets.flatten(0, 1), indices.flatten(0, 1))


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
