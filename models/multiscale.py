"""Reading an image at several scales at once: one network, whose log-probabilities of each next token are averaged.

Multi-scale test-time augmentation, as an ensemble that decodes together (see Sutskever et al., NeurIPS 2014, section
3.6, for several networks): what is wrong with one scale is rarely wrong with all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.decoders.interface import Decoder, DecoderOutput, DecoderState
from utils.reading.scaling import joined, parted, shrinking, shrunk_padding

if TYPE_CHECKING:
    from models.recognizer import Encoded, Recognizer


@dataclass(frozen=True)
class ScaledFeatures:
    """What stands for the features of images that were encoded at several scales: the encodings, largest scale first.

    Search does with it what it does with features: it counts images, and takes some of them.
    """

    encoded: tuple[Encoded, ...]

    def __len__(self) -> int:
        return len(self.encoded[0].features)

    def __getitem__(self, images: Tensor) -> ScaledFeatures:
        return ScaledFeatures(tuple(one.select(images) for one in self.encoded))

    @property
    def device(self) -> torch.device:
        return self.encoded[0].features.device


class MultiScaleDecoder(nn.Module):
    """A Decoder (see models/decoders/interface.py) that takes ScaledFeatures, and decodes all scales in step.

    Its logits are means of log-probabilities; context and attention are those of the largest scale.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self.directions = decoder.directions

    def forward(
        self, features: ScaledFeatures, padding: Tensor, tokens: Tensor, counts: Tensor | None = None
    ) -> DecoderOutput:
        """See Decoder. What the scales need of padding and counts, features holds."""
        outputs = [self.decoder(one.features, one.padding, tokens, one.counts) for one in features.encoded]
        return outputs[0]._replace(logits=_mean([output.logits for output in outputs]))

    def start(self, features: ScaledFeatures, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        return joined([self.decoder.start(*one) for one in features.encoded])

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        steps = [self.decoder.step(one, tokens) for one in parted(state)]
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


def encode_at_scales(
    model: Recognizer, ratios: Sequence[float], images: Tensor, padding: Tensor, domain: str
) -> Encoded:
    """What the network encodes of images, and of the same `ratios` times as large, as ScaledFeatures."""
    first = model.encode(images, padding, domain)
    others = (model.encode(*shrink(images, padding, ratio), domain) for ratio in ratios)
    return first._replace(features=ScaledFeatures((first, *others)))
