"""The whole network: one encoder for each kind of image, one decoder for both, and one that reads them backwards."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from models.counting import CountingHead
from models.decoders.gru import GRUDecoder
from models.decoders.interface import BothWays, Decoder, Encoded, replace_at_random, teacher_forcing
from models.decoders.transformer import TransformerDecoder
from models.densenet import DenseNet
from models.ensemble import EnsembleDecoder, EnsembleFeatures, shrink
from models.search import beam_search, greedy, rescore
from models.symbols import SymbolMap
from utils.hypotheses import Braces, Hypothesis
from utils.special_tokens import PAD

if TYPE_CHECKING:
    from utils.config.schema import Config, ModelConfig

DECODERS = {"gru": GRUDecoder, "transformer": TransformerDecoder}
DOMAINS = ("standard", "handwritten")

# Parameters that had other names in older weights: a pattern of the former name, and what replaces it.
RENAMED_PARAMETERS = {
    r"^decoder\.glimpse\.": "decoder.context.",
    r"^decoder\.cells\.": "decoder.features.",
    r"^decoder\.cells_norm\.": "decoder.features_norm.",
    r"^decoder\.layers\.(\d+)\.query\.": r"decoder.layers.\1.cross_query.",
    r"^decoder\.layers\.(\d+)\.cells_(in|out)\.": r"decoder.layers.\1.cross_\2.",
}


class ModelOutput(NamedTuple):
    """What the network returns with teacher forcing.   K reading directions; row r belongs to image r // K.

    The first five are None where the decoder was left out.
    """

    logits: Tensor | None  # (R, L+1, V)
    targets: Tensor | None  # (R, L+1) ids, the end included, padded with 0
    label_indices: Tensor | None  # (R, L+1) index of each target in its label; -1 for the end and the padding
    context: Tensor | None  # (R, L+1, D)
    attention: Tensor | None  # (R, L+1, h, w)
    counts: Tensor | None  # (B, V)
    symbols: Tensor | None  # (B, V, h, w) logits of the map of symbols
    features: Tensor  # (B, C, h, w)
    padding: Tensor  # (B, h, w)


class Explanation(NamedTuple):
    """Probability and place of each token of a reading, the end not included."""

    confidences: Tensor  # (L,) probability of each token given those before it, from left to right
    attention: Tensor  # (L, h, w) attention weights of each token; each sums to 1 over the image's feature positions


class Reads(nn.Module):
    """The reading half of a network that has encode() and a decoder.

    braces: of the vocabulary; where they are told, what is read has them balanced.   backwards: a decoder that reads
    from right to left, where there is one; it scores what a beam has found.
    """

    braces: Braces | None = None
    backwards: Decoder | None

    @property
    def directions(self) -> int:
        """1, or 2 where hypotheses can be scored in both."""
        return self.decoder.directions if self.backwards is None else 2

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
        """Autoregressive decoding, to the end of each formula; call eval() first.   Returns the best hypotheses.

        beam: 1 decodes greedily from left to right; more uses all of the decoder's directions, or as many as
        `directions` says.   See models/search.py.
        """
        return self.read_encoded(self.encode(images, padding, domain), beam, directions, length_penalty)

    @torch.no_grad()
    def read_encoded(
        self, encoded: Encoded, beam: int = 1, directions: int | None = None, length_penalty: float = 1.0
    ) -> list[Hypothesis]:
        """read(), for what encode() returned."""
        if beam == 1 and directions in (None, 1):
            return greedy(self.decoder, *encoded, length_penalty, self.braces)
        if self.backwards is None or directions == 1:
            return beam_search(self.decoder, *encoded, beam, directions, length_penalty, self.braces)
        found = beam_search(self.decoder, *encoded, beam, 1, length_penalty, self.braces)
        return rescore(found, self.backwards, *encoded, length_penalty)

    @torch.no_grad()
    def explain(
        self, images: Tensor, padding: Tensor, predictions: Sequence[Sequence[int]], domain: str = "handwritten"
    ) -> list[Explanation]:
        """How probable each token of a prediction is, and where it is in the image; call eval() first.

        predictions: for each image, token ids without start and end.   The rest: see encode().
        """
        return self.explain_encoded(self.encode(images, padding, domain), predictions)

    @torch.no_grad()
    def explain_encoded(self, encoded: Encoded, predictions: Sequence[Sequence[int]]) -> list[Explanation]:
        """explain(), for what encode() returned."""
        features, padding, counts = encoded
        lengths = torch.tensor([len(tokens) for tokens in predictions], device=features.device)
        labels = torch.full((len(predictions), max(int(lengths.max()), 1)), PAD, device=features.device)
        for row, tokens in zip(labels, predictions, strict=True):
            row[: len(tokens)] = torch.as_tensor(tokens, device=features.device)
        inputs, targets, _ = teacher_forcing(labels, lengths, self.decoder.directions)
        output = self.decoder(features, padding, inputs, counts)
        forwards = slice(0, None, self.decoder.directions)
        probabilities = output.logits[forwards].float().softmax(-1)
        of_targets = probabilities.gather(2, targets[forwards, :, None])[..., 0]
        sizes = [(int(is_image.any(1).sum()), int(is_image.any(0).sum())) for is_image in ~padding]
        rows = zip(of_targets, output.attention[forwards], lengths.tolist(), sizes, strict=True)
        return [
            Explanation(confidences[:length], attention[:length, :height, :width])
            for confidences, attention, length, (height, width) in rows
        ]


class Recognizer(Reads):
    """Images in, token ids out.

    encoder: arguments of DenseNet.   decoder: "gru" or "transformer"; decoder_options: arguments of its class.
    counting: channels of the counting head; 0: no such head. The gru decoder is given the counts; with a transformer
    they train the encoder only.   symbols: whether there is a map of symbols, which serves training only; see
    models/symbols.py. A gru decoder with `symbols` has its own, which it reads with.   domains: the kinds of images
    that have an encoder.   backwards: whether there is a second decoder like the first, with weights of its own, which
    reads from right to left; see models/search.rescore().
    """

    def __init__(
        self,
        vocabulary_size: int,
        encoder: dict[str, Any],
        decoder: str,
        decoder_options: dict[str, Any],
        counting: int = 0,
        symbols: bool = False,
        domains: Sequence[str] = DOMAINS,
        backwards: bool = False,
    ):  # more than 7 parameters: each is a key of architecture()
        super().__init__()
        self._architecture = {
            "vocabulary_size": vocabulary_size,
            "encoder": {**encoder, "layers": list(encoder["layers"])},
            "decoder": decoder,
            "decoder_options": dict(decoder_options),
            "counting": counting,
            "symbols": symbols,
            "backwards": backwards,
        }
        self.standard_encoder = DenseNet(**encoder) if "standard" in domains else None
        self.handwritten_encoder = DenseNet(**encoder) if "handwritten" in domains else None
        channels = next(part for part in (self.handwritten_encoder, self.standard_encoder) if part is not None).channels
        options = dict(decoder_options)
        if decoder == "gru":
            options["counting"] = counting > 0
        self.decoder = DECODERS[decoder](vocabulary_size, channels, **options)
        self.backwards = DECODERS[decoder](vocabulary_size, channels, **options) if backwards else None
        self.counting = CountingHead(channels, vocabulary_size, counting) if counting else None
        has_own_map = getattr(self.decoder, "symbols", None) is not None
        self.symbol_map = SymbolMap(channels, vocabulary_size) if symbols and not has_own_map else None
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(
        cls,
        settings: ModelConfig,
        vocabulary_size: int,
        domains: Sequence[str] = DOMAINS,
        symbols: bool = False,
        backwards: bool = False,
    ) -> Recognizer:
        """The network that the section `model` of a configuration describes."""
        options = dataclasses.asdict(settings)
        decoder = options["decoder"]
        return cls(
            vocabulary_size,
            options["encoder"],
            decoder,
            options[decoder],
            options["counting"],
            symbols,
            domains,
            backwards,
        )

    @classmethod
    def of(cls, config: Config, vocabulary_size: int) -> Recognizer:
        """The network that a configuration's stages need: their encoders, heads and decoders."""
        parts = config.domains(), config.uses_loss("symbols"), config.trains("backwards")
        return cls.from_config(config.model, vocabulary_size, *parts)

    @property
    def vocabulary_size(self) -> int:
        return self._architecture["vocabulary_size"]

    def architecture(self) -> dict[str, Any]:
        """Plain values, for JSON; Recognizer(**architecture) is a network with the same parts and sizes."""
        domains = [domain for domain in DOMAINS if self.encoder(domain) is not None]
        return copy.deepcopy(self._architecture) | {"domains": domains}

    def encoder(self, domain: str) -> DenseNet | None:
        """The encoder of "standard" or "handwritten" images, where there is one."""
        return {"standard": self.standard_encoder, "handwritten": self.handwritten_encoder}[domain]

    def parts(self) -> dict[str, list[nn.Module]]:
        """What a stage can train or freeze, by name. Counting head and map of symbols belong to the decoder."""
        parts = {
            "standard_encoder": [self.standard_encoder],
            "handwritten_encoder": [self.handwritten_encoder],
            "decoder": [self.decoder, self.counting, self.symbol_map],
            "backwards": [self.backwards],
        }
        return {name: [module for module in modules if module is not None] for name, modules in parts.items()}

    def load_state_dict(self, weights: Mapping[str, Tensor], strict: bool = True, assign: bool = False):
        """As torch has it, with two additions.

        Parameters may have their former names, see RENAMED_PARAMETERS. The map of symbols only serves training: a
        network without one ignores the weights of one, and a network with one keeps its own where there are none.
        """
        weights = {_present_name(name): weight for name, weight in weights.items()}
        prefix = "symbol_map."
        own = {} if self.symbol_map is None else self.symbol_map.state_dict(prefix=prefix)
        rest = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
        rest |= {name: weights.get(name, weight) for name, weight in own.items()}
        return super().load_state_dict(rest, strict, assign)

    def start_from(self, weights: Mapping[str, Tensor], vocabulary_size: int) -> None:
        """Take over the weights of a network like this one that knows fewer tokens, or has one encoder only.

        vocabulary_size: theirs. What its ids mean, they mean here; the tokens behind them have untrained rows in
        embedding, output layer, counting head and map of symbols, and the logits of the known ones are as before.
        An encoder that the weights lack becomes a copy of the other one, and a decoder that reads backwards one of the
        other decoder. One that the weights have, and this network has not, is left out.
        Raises RuntimeError, as load_state_dict() does, for weights of another network.
        """
        weights = {_present_name(name): weight for name, weight in weights.items()}
        standard, handwritten = (f"{domain}_encoder." for domain in DOMAINS)
        twins = (standard, handwritten), (handwritten, standard), ("backwards.", "decoder.")
        for prefix, source in twins:
            if not any(name.startswith(prefix) for name in weights):
                copied = {name: weight for name, weight in weights.items() if name.startswith(source)}
                weights |= {prefix + name.removeprefix(source): weight for name, weight in copied.items()}
        absent = tuple(prefix for prefix, _ in twins if getattr(self, prefix.removesuffix(".")) is None)
        weights = {name: weight for name, weight in weights.items() if not name.startswith(absent)}
        own = self.state_dict()
        for name in weights.keys() & own.keys():
            weights[name] = _with_rows_of(own[name], weights[name], self.vocabulary_size, vocabulary_size)
        self.load_state_dict(weights)

    def start_handwritten_from_standard(self) -> None:
        """Make the handwritten encoder a copy of the standard one."""
        if self.handwritten_encoder is None:
            self.handwritten_encoder = copy.deepcopy(self.standard_encoder).requires_grad_(True)
        else:
            self.handwritten_encoder.load_state_dict(self.standard_encoder.state_dict())

    def start_backwards_from_decoder(self) -> None:
        """Make the decoder that reads backwards a copy of the other one."""
        self.backwards.load_state_dict(self.decoder.state_dict())

    def compile_repeated(self) -> None:
        """Let torch.compile fuse what a decoder repeats most: the GRU's additive attention step (attention by location
        has its own loop in training), the transformer's norm of coverage. Images of all sizes share what is compiled;
        copies of the network are not compiled.

        Where it cannot be compiled (no compiler, say), the first step raises what torch says about it.
        """
        repeated = self.decoder.attention if isinstance(self.decoder, GRUDecoder) else self.decoder.refinement.norm
        repeated.compile(dynamic=True)

    @property
    def networks(self) -> list[Recognizer]:
        """Itself alone, where an Ensemble has several."""
        return [self]

    def at_scales(self, ratios: Sequence[float]) -> Reads:
        """This network, reading each image as it is and `ratios` times as large together; see models/ensemble.py."""
        return Ensemble([self], ratios) if ratios else self

    def encode(self, images: Tensor, padding: Tensor, domain: str) -> Encoded:
        """images: (B, 1, H, W) float, ink 1 on paper 0, padding: (B, H, W).   domain: "standard" or "handwritten"."""
        features, padding = self.encoder(domain)(images.contiguous(memory_format=torch.channels_last), padding)
        return Encoded(features, padding, None if self.counting is None else self.counting(features, padding))

    def forward(
        self,
        images: Tensor,
        padding: Tensor,
        labels: Tensor,
        lengths: Tensor,
        domain: str = "handwritten",
        input_noise: float = 0.0,
        decodes: bool = True,
    ) -> ModelOutput:
        """Images and their labels, with teacher forcing; see encode() and ModelOutput.

        labels: (B, L) ids without start and end, padded with 0.   lengths: (B,).   input_noise: share of the decoder's
        input tokens that are replaced by random other ones while the decoder trains, as autoregressive decoding has to
        continue after wrong tokens, too.   decodes: False leaves the decoder out, for losses of the encoder alone.
        """
        features, padding, counts = self.encode(images, padding, domain)
        if not decodes:
            return ModelOutput(None, None, None, None, None, counts, self.map_symbols(features), features, padding)
        if self.learns_backwards:
            decoder = BothWays(self.decoder, self.backwards) if self.decoder.training else self.backwards
            rows = slice(None) if self.decoder.training else slice(1, None, 2)
            inputs, targets, label_indices = (ids[rows] for ids in teacher_forcing(labels, lengths, 2))
        else:
            decoder = self.decoder
            inputs, targets, label_indices = teacher_forcing(labels, lengths, decoder.directions)
        if input_noise > 0 and (self.decoder.training or self.learns_backwards):
            inputs = replace_at_random(inputs, input_noise, self.vocabulary_size)
        logits, context, attention = decoder(features, padding, inputs, counts)
        return ModelOutput(
            logits, targets, label_indices, context, attention, counts, self.map_symbols(features), features, padding
        )

    @property
    def learns_backwards(self) -> bool:
        """Whether the decoder that reads backwards learns, be it alone or with the other one."""
        return self.backwards is not None and self.backwards.training

    def map_symbols(self, features: Tensor) -> Tensor | None:
        """The map of symbols, where there is one: (B, C, h, w) -> (B, V, h, w)."""
        symbol_map = getattr(self.decoder, "symbols", None) or self.symbol_map
        return None if symbol_map is None else symbol_map(features)


class Ensemble(Reads):
    """Networks of one vocabulary that read together, at one scale or several at once; see models/ensemble.py."""

    def __init__(self, networks: Iterable[Recognizer], ratios: Sequence[float] = ()):
        """networks: with encoders of handwriting, and as many directions each; else it raises ValueError.
        ratios: of the smaller sizes to the size that images are given in, each below 1."""
        super().__init__()
        self.networks, self.ratios = nn.ModuleList(networks), tuple(ratios)
        members = [network for network in self.networks for _ in (1, *self.ratios)]
        self.decoder = EnsembleDecoder([member.decoder for member in members])
        backwards = [member.backwards for member in members]
        self.backwards = EnsembleDecoder(backwards) if all(each is not None for each in backwards) else None
        self.braces = self.networks[0].braces

    @property
    def handwritten_encoder(self) -> DenseNet:
        """Of the first network: its feature positions are those of attention."""
        return self.networks[0].handwritten_encoder

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Reads:
        """The network, or the networks, that architecture() described."""
        if "networks" not in architecture:
            return Recognizer(**architecture)
        return cls(Recognizer(**each) for each in architecture["networks"])

    def architecture(self) -> dict[str, Any]:
        """Plain values, for JSON; see from_architecture()."""
        networks = [network.architecture() for network in self.networks]
        return {"vocabulary_size": networks[0]["vocabulary_size"], "networks": networks}

    def at_scales(self, ratios: Sequence[float]) -> Reads:
        """See Recognizer.at_scales()."""
        together = Ensemble(self.networks, ratios)
        together.braces = self.braces
        return together

    def encode(self, images: Tensor, padding: Tensor, domain: str) -> Encoded:
        """See Recognizer.encode(); the features are EnsembleFeatures."""
        sizes = [(images, padding), *(shrink(images, padding, ratio) for ratio in self.ratios)]
        encoded = tuple(network.encode(*size, domain) for network in self.networks for size in sizes)
        return encoded[0]._replace(features=EnsembleFeatures(encoded))


def _present_name(name: str) -> str:
    """Today's name of a parameter; see RENAMED_PARAMETERS."""
    for former, present in RENAMED_PARAMETERS.items():
        name = re.sub(former, present, name)
    return name


def _with_rows_of(own: Tensor, trained: Tensor, size: int, trained_size: int) -> Tensor:
    """A parameter with an entry for each of `size` tokens, the first of which are those of `trained`.

    Returns `trained` as it is where it differs in anything else, or in nothing.
    """
    if own.dim() != trained.dim():
        return trained
    sides = [side for side in range(own.dim()) if own.shape[side] != trained.shape[side]]
    if len(sides) != 1 or (own.shape[sides[0]], trained.shape[sides[0]]) != (size, trained_size):
        return trained
    # Columns would add the counts of new tokens, which mean nothing yet, to what the decoder knows: they begin at zero.
    grown = own.clone() if sides[0] == 0 else torch.zeros_like(own)
    grown.narrow(sides[0], 0, trained_size).copy_(trained)
    return grown
