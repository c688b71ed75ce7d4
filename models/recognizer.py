"""The whole network: one encoder for each kind of picture, one decoder for both."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.counting import CountingHead
from models.decoder import PAD, frame
from models.densenet import DenseNet
from models.gru_decoder import GRUDecoder
from models.search import Hypothesis, beam_search, greedy
from models.transformer_decoder import TransformerDecoder

DECODERS = {"gru": GRUDecoder, "transformer": TransformerDecoder}
DOMAINS = ("standard", "handwritten")


class Taught(NamedTuple):
    """What the network says while it is shown the labels.   K reading directions; row r belongs to picture r // K."""

    logits: Tensor  # (B*K, L+1, V)
    targets: Tensor  # (B*K, L+1) ids, the end included, padded with 0
    places: Tensor  # (B*K, L+1) where in its label each target stands; -1 for the end and the padding
    glimpses: Tensor  # (B*K, L+1, D)
    attention: Tensor  # (B*K, L+1, h, w)
    counts: Tensor | None  # (B, V)
    features: Tensor  # (B, C, h, w)
    padding: Tensor  # (B, h, w)


class Encoded(NamedTuple):
    """What a decoder is given of pictures."""

    features: Tensor  # (B, C, h, w)
    padding: Tensor  # (B, h, w)
    counts: Tensor | None  # (B, V)


class Explanation(NamedTuple):
    """Why a picture was read as it was, token by token, the end not included."""

    confidences: Tensor  # (L,) probability of each token after those before it, from left to right
    attention: Tensor  # (L, h, w) where the decoder looked for it; each sums to 1 over the picture's cells


def label_loss(taught: Taught, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the real tokens of the batch, ends included; padding teaches nothing."""
    logits = taught.logits.flatten(0, 1).float()
    return F.cross_entropy(logits, taught.targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)


class Recognizer(nn.Module):
    """Pictures in, token ids out.

    encoder: arguments of DenseNet.   decoder: "gru" or "transformer"; decoder_options: arguments of its class.
    counting: channels of the counting head; 0: no such head. The gru decoder is told the counts; the encoder of a
    transformer learns from them.   domains: the kinds of pictures that have an encoder.
    """

    def __init__(
        self,
        vocabulary_size: int,
        encoder: dict[str, Any],
        decoder: str,
        decoder_options: dict[str, Any],
        counting: int = 0,
        domains: Sequence[str] = DOMAINS,
    ):
        super().__init__()
        self._architecture = {
            "vocabulary_size": vocabulary_size,
            "encoder": {**encoder, "layers": list(encoder["layers"])},
            "decoder": decoder,
            "decoder_options": dict(decoder_options),
            "counting": counting,
        }
        self.standard_encoder = DenseNet(**encoder) if "standard" in domains else None
        self.handwritten_encoder = DenseNet(**encoder) if "handwritten" in domains else None
        channels = next(part for part in (self.handwritten_encoder, self.standard_encoder) if part is not None).channels
        options = dict(decoder_options)
        if decoder == "gru":
            options["counting"] = counting > 0
        self.decoder = DECODERS[decoder](vocabulary_size, channels, **options)
        self.counting = CountingHead(channels, vocabulary_size, counting) if counting else None
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, settings: Any, vocabulary_size: int, domains: Sequence[str] = DOMAINS) -> "Recognizer":
        """The network that the section `model` of a configuration describes."""
        options = dataclasses.asdict(settings)
        decoder = options["decoder"]
        return cls(vocabulary_size, options["encoder"], decoder, options[decoder], options["counting"], domains)

    def architecture(self) -> dict[str, Any]:
        """Plain values, for JSON; Recognizer(**architecture) is a network with the same parts and sizes."""
        domains = [domain for domain in DOMAINS if getattr(self, f"{domain}_encoder") is not None]
        return copy.deepcopy(self._architecture) | {"domains": domains}

    def parts(self) -> dict[str, list[nn.Module]]:
        """What a stage can train or freeze, by name. The counting head belongs to the decoder."""
        parts = {
            "standard_encoder": [self.standard_encoder],
            "handwritten_encoder": [self.handwritten_encoder],
            "decoder": [self.decoder, self.counting],
        }
        return {name: [module for module in modules if module is not None] for name, modules in parts.items()}

    def start_handwritten_from_standard(self) -> None:
        """Let the handwritten encoder begin as a copy of the standard one."""
        if self.handwritten_encoder is None:
            self.handwritten_encoder = copy.deepcopy(self.standard_encoder).requires_grad_(True)
        else:
            self.handwritten_encoder.load_state_dict(self.standard_encoder.state_dict())

    def compile_repeated(self) -> None:
        """Let torch.compile fuse what the decoder does again and again: the gru's glance, the transformer's norm of
        coverage. Pictures of all sizes share what is compiled; copies of the network are not compiled.

        Where a part cannot be compiled (no compiler, say), torch warns, and goes on without.
        """
        torch._dynamo.config.suppress_errors = True
        repeated = self.decoder.attention if isinstance(self.decoder, GRUDecoder) else self.decoder.refinement.norm
        repeated.compile(dynamic=True)

    def encode(self, images: Tensor, padding: Tensor, domain: str) -> Encoded:
        """images: (B, 1, H, W) float, ink 1 on paper 0, padding: (B, H, W).   domain: "standard" or "handwritten"."""
        encoder = self.standard_encoder if domain == "standard" else self.handwritten_encoder
        features, padding = encoder(images.contiguous(memory_format=torch.channels_last), padding)
        return Encoded(features, padding, None if self.counting is None else self.counting(features, padding))

    def teach(
        self, images: Tensor, padding: Tensor, labels: Tensor, lengths: Tensor, domain: str = "handwritten"
    ) -> Taught:
        """Show pictures with their labels; see encode() and Taught.

        labels: (B, L) ids without start and end, padded with 0.   lengths: (B,).
        """
        features, padding, counts = self.encode(images, padding, domain)
        framed = frame(labels, lengths, self.decoder.directions)
        decoded = self.decoder(features, padding, framed.inputs, counts)
        return Taught(
            decoded.logits,
            framed.targets,
            framed.places,
            decoded.glimpses,
            decoded.attention,
            counts,
            features,
            padding,
        )

    @torch.no_grad()
    def read(
        self,
        images: Tensor,
        padding: Tensor,
        domain: str = "handwritten",
        beam: int = 1,
        directions: int | None = None,
        length_penalty: float = 1.0,
    ) -> list[Hypothesis]:
        """Read freely, to the end of each formula; call eval() first.   Returns the best hypothesis for each picture.

        beam: 1 reads greedily from left to right; more asks all of the decoder's directions, or as many as `directions`
        says.   See models/search.py.
        """
        return self.read_encoded(self.encode(images, padding, domain), beam, directions, length_penalty)

    @torch.no_grad()
    def read_encoded(
        self, encoded: Encoded, beam: int = 1, directions: int | None = None, length_penalty: float = 1.0
    ) -> list[Hypothesis]:
        """read(), for what encode() returned."""
        if beam == 1 and directions in (None, 1):
            return greedy(self.decoder, *encoded, length_penalty)
        return beam_search(self.decoder, *encoded, beam, directions, length_penalty)

    @torch.no_grad()
    def explain(
        self, images: Tensor, padding: Tensor, readings: Sequence[Sequence[int]], domain: str = "handwritten"
    ) -> list[Explanation]:
        """How sure each token of a reading is, and where it was seen; call eval() first.

        readings: for each picture, token ids without start and end.   The rest: see encode().
        """
        return self.explain_encoded(self.encode(images, padding, domain), readings)

    @torch.no_grad()
    def explain_encoded(self, encoded: Encoded, readings: Sequence[Sequence[int]]) -> list[Explanation]:
        """explain(), for what encode() returned."""
        features, padding, counts = encoded
        lengths = torch.tensor([len(tokens) for tokens in readings], device=features.device)
        labels = torch.full((len(readings), max(int(lengths.max()), 1)), PAD, device=features.device)
        for row, tokens in zip(labels, readings, strict=True):
            row[: len(tokens)] = torch.as_tensor(tokens, device=features.device)
        framed = frame(labels, lengths, self.decoder.directions)
        decoded = self.decoder(features, padding, framed.inputs, counts)
        forwards = slice(0, None, self.decoder.directions)
        chances = decoded.logits[forwards].float().softmax(-1)
        own = chances.gather(2, framed.targets[forwards, :, None])[..., 0]
        looks = decoded.attention[forwards]
        extents = [(int(inside.any(1).sum()), int(inside.any(0).sum())) for inside in ~padding]
        return [
            Explanation(sure[:length], look[:length, :height, :width])
            for sure, look, length, (height, width) in zip(own, looks, lengths.tolist(), extents, strict=True)
        ]
