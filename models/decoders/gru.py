"""GRU decoder with coverage attention: Li et al. (CAN), ECCV 2022, section 3.3, after Zhang et al. (WAP), 2017."""

from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CoverageAttention, LocationAttention
from models.decoders.interface import DecoderOutput, DecoderState
from models.symbols import SymbolMap


class GRUDecoder(nn.Module):
    """A GRU over the tokens, whose hidden state is the query of coverage attention over the image.

    The context vectors are not fed back into the GRU. So hidden states, queries and outputs of all positions are
    computed at once, and only the attention, which depends on its own past, goes step by step.

    channels: of the encoder.   location: features of past attention in LocationAttention; 0: additive attention with
    coverage, the paper's.   symbols: whether the logits of a map of symbols (models/symbols.py), where attention lies,
    are added to those of the decoder: what is there, and what can come next, are then said separately.
    counting: whether a count of each symbol is given.   Sizes: the paper's by default.
    """

    directions = 1

    def __init__(
        self,
        vocabulary_size: int,
        channels: int,
        hidden: int = 256,
        embedding: int = 256,
        attention: int = 512,
        coverage_kernel: int = 11,
        location: int = 0,
        symbols: bool = False,
        dropout: float = 0.5,
        counting: bool = True,
    ):  # more than 7 parameters: each is a key of the configuration
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.first_hidden = nn.Linear(channels, hidden)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        if location:
            self.attention = LocationAttention(channels, hidden, attention, coverage_kernel, location)
        else:
            self.attention = CoverageAttention(channels, hidden, attention, coverage_kernel)
        self.context = nn.Linear(channels, hidden)
        self.from_hidden = nn.Linear(hidden, hidden)
        self.from_embedding = nn.Linear(embedding, hidden)
        self.from_counts = nn.Linear(vocabulary_size, hidden) if counting else None
        self.output = nn.Linear(hidden, vocabulary_size)
        self.symbols = SymbolMap(channels, vocabulary_size) if symbols else None
        self.dropout = dropout

    def train(self, mode: bool = True) -> "GRUDecoder":
        super().train(mode)
        # The GRU is the same in both modes, as it has one layer and no dropout. cuDNN computes gradients in training
        # mode only, and a frozen decoder has to hand gradients on to the encoder.
        self.gru.train()
        return self

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        """See Decoder.start().   counts: (B, V), needed where the decoder was built with counting."""
        features = features.flatten(2).transpose(1, 2)  # (B, hw, C)
        is_valid = (~padding).flatten(1)[:, None]  # (B, 1, hw)
        mean = (is_valid.to(features.dtype) @ features)[:, 0] / is_valid.sum(2)
        image = {"features": features, "keys": self.attention.keys(features, padding), "padding": padding}
        if self.from_counts is not None:
            image["counts"] = self.from_counts(counts)
        return DecoderState(image, {"hidden": self.first_hidden(mean).tanh()} | self.attention.start(padding))

    def forward(self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None) -> DecoderOutput:
        """All positions of given sequences.   tokens: (R, L), each beginning with a start.   The rest: see start()."""
        image, past = self.start(features, padding, counts)
        rows_per_image = len(tokens) // len(features)
        past = {name: tensor.repeat_interleave(rows_per_image, 0) for name, tensor in past.items()}

        embedded = self.embedding(tokens)
        hidden, _ = self.gru(embedded, past.pop("hidden")[None])
        attention = self.attention.all_steps(image["keys"], hidden, past, padding)
        logits, context = self.output_head(image, embedded, hidden, attention)
        return DecoderOutput(logits, context, attention)

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        """See Decoder.step()."""
        image, past = state
        embedded = self.embedding(tokens)[:, None]
        hidden, _ = self.gru(embedded, past["hidden"][None])
        query = tuple(each[:, 0] for each in self.attention.queries(image["keys"], hidden))
        attention, past = self.attention(image["keys"], query, past, image["padding"])
        logits, _ = self.output_head(image, embedded, hidden, attention[:, None])
        return logits[:, 0], DecoderState(image, past | {"hidden": hidden[:, 0]}), attention

    def output_head(
        self, image: dict[str, Tensor], embedded: Tensor, hidden: Tensor, attention: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, L, V) and context vectors (R, L, D).

        image: of the state.   embedded: (R, L, E).   hidden: (R, L, D).   attention: (R, L, h, w).
        """
        features = image["features"]
        rows, length = attention.shape[:2]
        # All rows of an image share its features: (B, K*L, hw) x (B, hw, C)
        weighted = attention.to(features.dtype).view(len(features), -1, features.shape[1]) @ features
        context = self.context(weighted).view(rows, length, -1)
        mixed = self.from_hidden(hidden) + self.from_embedding(embedded) + context
        if self.from_counts is not None:
            counts = image["counts"]
            mixed = (mixed.unflatten(0, (len(counts), -1)) + counts[:, None, None]).flatten(0, 1)
        logits = self.output(F.dropout(mixed, self.dropout, self.training))
        if self.symbols is not None:
            logits = logits + self.symbols.of_vectors(weighted).view(rows, length, -1)
        return logits, context
