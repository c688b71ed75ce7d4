"""Reading with several networks, or at several scales, at once: log-probabilities of each next token are averaged.

An ensemble that decodes together (Sutskever et al., NeurIPS 2014, section 3.6), also over the sizes of an image
(multi-scale test-time augmentation): what is wrong with one network or scale is rarely wrong with all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.decoders.interface import Decoder, DecoderOutput, DecoderState, Encoded
from utils.reading.scaling import joined, parted, shrinking, shrunk_padding


@dataclass(frozen=True)
class EnsembleFeatures:
    """What stands for the features of images: what each member of an ensemble encoded.

    A member is a network at a scale: the scales of the first network, largest first, then those of the next one.
    Search does with it what it does with features: it counts images, and takes some of them.
    """

    encoded: tuple[Encoded, ...]

    def __len__(self) -> int:
        return len(self.encoded[0].features)

    def __getitem__(self, images: Tensor) -> EnsembleFeatures:
        return EnsembleFeatures(tuple(one.select(images) for one in self.encoded))

    @property
    def device(self) -> torch.device:
        return self.encoded[0].features.device


class EnsembleDecoder:
    """A Decoder (see models/decoders/interface.py) that takes EnsembleFeatures, and decodes all members in step.

    Its logits are means of log-probabilities; context and attention are those of the first member.
    """

    def __init__(self, decoders: Sequence[Decoder]):
        """decoders: one for each member. Raises ValueError where they read in different directions."""
        self.decoders = tuple(decoders)
        self.directions = decoders[0].directions
        if any(decoder.directions != self.directions for decoder in decoders):
            raise ValueError("networks that read together must have as many directions each")

    def __call__(
        self, features: EnsembleFeatures, padding: Tensor, tokens: Tensor, counts: Tensor | None = None
    ) -> DecoderOutput:
        """See Decoder. What the members need of padding and counts, features holds."""
        members = zip(self.decoders, features.encoded, strict=True)
        outputs = [decoder(one.features, one.padding, tokens, one.counts) for decoder, one in members]
        return outputs[0]._replace(logits=_mean([output.logits for output in outputs]))

    def start(self, features: EnsembleFeatures, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        return joined([decoder.start(*one) for decoder, one in zip(self.decoders, features.encoded, strict=True)])

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        steps = [decoder.step(one, tokens) for decoder, one in zip(self.decoders, parted(state), strict=True)]
        logits, states, attention = zip(*steps, strict=True)
        return _mean(logits), joined(states), attention[0]


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """The mean of log-probabilities, (…, V) fp32."""
    return torch.stack([one.float().log_softmax(-1) for one in logits]).mean(0)


def shrink(images: Tensor, padding: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """A batch in a smaller size.   images: (B, 1, H, W), padding: (B, H, W).   ratio: below 1."""
    rows, columns = (torch.from_numpy(shrinking(side, ratio)).to(images) for side in images.shape[2:])
    smaller = rows @ images.masked_fill(padding[:, None], 0) @ columns.T
    return smaller, torch.from_numpy(shrunk_padding(padding.cpu().numpy(), ratio)).to(padding.device)
