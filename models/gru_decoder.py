"""Attention GRU with coverage, as in CAN (Li et al., ECCV 2022, section 3.3), after Zhang et al. (WAP), 2017."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CoverageAttention
from models.decoder import Decoded, State


class GRUDecoder(nn.Module):
    """A GRU over the tokens asks; attention with coverage answers with a glimpse of the picture.

    The GRU does not see the glimpses. So states, queries and outputs of all positions are computed at once, and only
    the attention, which depends on what it covered before, goes step by step.

    channels: of the encoder.   counting: whether a count of each symbol is given.   Sizes: the paper's by default.
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
        dropout: float = 0.5,
        counting: bool = True,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.first_hidden = nn.Linear(channels, hidden)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.attention = CoverageAttention(channels, hidden, attention, coverage_kernel)
        self.glimpse = nn.Linear(channels, hidden)
        self.from_hidden = nn.Linear(hidden, hidden)
        self.from_embedding = nn.Linear(embedding, hidden)
        self.from_counts = nn.Linear(vocabulary_size, hidden) if counting else None
        self.output = nn.Linear(hidden, vocabulary_size)
        self.dropout = dropout

    def train(self, mode: bool = True) -> "GRUDecoder":
        super().train(mode)
        # One layer without dropout: the same in both modes. But cuDNN lets gradients through in training mode alone,
        # and a frozen decoder hands them on to the encoder.
        self.gru.train()
        return self

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> State:
        """The state before the first token, one row per picture.

        features: (B, C, h, w), padding: (B, h, w), counts: (B, V), needed where the decoder was built with counting.
        """
        cells = features.flatten(2).transpose(1, 2)  # (B, hw, C)
        inside = (~padding).flatten(1)[..., None]
        mean = (cells * inside).sum(1) / inside.sum(1)
        picture = {"cells": cells, "keys": self.attention.keys(cells, padding), "padding": padding}
        if self.from_counts is not None:
            picture["counts"] = self.from_counts(counts)
        coverage = torch.zeros(padding.shape, device=features.device)
        return State(picture, {"hidden": self.first_hidden(mean).tanh(), "coverage": coverage})

    def forward(self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Decoded:
        """All positions of given formulas.   tokens: (B*K, L), each beginning with a start.   The rest: see start()."""
        picture, past = self.start(features, padding, counts)
        rows_per_picture = len(tokens) // len(features)
        hidden = past["hidden"].repeat_interleave(rows_per_picture, 0)
        coverage = past["coverage"].repeat_interleave(rows_per_picture, 0)

        embedded = self.embedding(tokens)
        hidden, _ = self.gru(embedded, hidden[None])
        looks = []
        for query in self.attention.query(hidden).unbind(1):
            looks.append(self.attention(picture["keys"], query, coverage, padding))
            coverage = coverage + looks[-1]
        attention = torch.stack(looks, 1)
        logits, glimpses = self._speak(picture, embedded, hidden, attention)
        return Decoded(logits, glimpses, attention)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State, Tensor]:
        """One more token in every row.   tokens: (B*K,).   Returns logits (B*K, V), state, attention (B*K, h, w)."""
        picture, past = state
        embedded = self.embedding(tokens)[:, None]
        hidden, _ = self.gru(embedded, past["hidden"][None])
        attention = self.attention(
            picture["keys"], self.attention.query(hidden[:, 0]), past["coverage"], picture["padding"]
        )
        logits, _ = self._speak(picture, embedded, hidden, attention[:, None])
        state = State(picture, {"hidden": hidden[:, 0], "coverage": past["coverage"] + attention})
        return logits[:, 0], state, attention

    def _speak(self, picture: dict, embedded: Tensor, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B*K, L, V) and glimpses (B*K, L, D) of L positions, from what was asked and where it was looked."""
        cells = picture["cells"]
        rows, length = attention.shape[:2]
        # All rows of a picture share its cells: (B, K*L, hw) x (B, hw, C)
        seen = attention.to(cells.dtype).view(len(cells), -1, cells.shape[1]) @ cells
        glimpses = self.glimpse(seen).view(rows, length, -1)
        mixed = self.from_hidden(hidden) + self.from_embedding(embedded) + glimpses
        if self.from_counts is not None:
            counts = picture["counts"]
            mixed = (mixed.unflatten(0, (len(counts), -1)) + counts[:, None, None]).flatten(0, 1)
        return self.output(F.dropout(mixed, self.dropout, self.training)), glimpses
