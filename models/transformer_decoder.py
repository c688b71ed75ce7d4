"""Transformer decoder with coverage, both reading directions in one set of weights: Zhao and Gao (CoMER), ECCV 2022."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CoverageRefinement
from models.decoder import Decoded, State
from models.positions import picture_positions, sines


class TransformerLayer(nn.Module):
    """Self-attention, attention to the picture, feed-forward; each with a residual and a LayerNorm after it."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.self_in = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.cells_in = nn.Linear(width, 2 * width)
        self.cells_out = nn.Linear(width, width)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        for linear in (self.self_in, self.cells_in, self.query):
            nn.init.xavier_uniform_(linear.weight)

    def cell_keys(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """cells: (B, hw, D).   Returns keys and values of the cells, (B, heads, hw, D / heads) each."""
        keys, values = self.cells_in(cells).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return keys, values

    def recall(self, x: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention to the tokens so far.   x: (R, L, D); the past: (R, heads, t, D / heads), either t = 0 or L = 1.

        Returns x, and keys and values with the new positions, (R, heads, t + L, D / heads).
        """
        queries, keys, values = self.self_in(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=x.shape[1] > 1)
        x = self.norm1(x + self._drop(self.self_out(seen.transpose(1, 2).flatten(2))))
        return x, keys, values

    def scores(self, x: Tensor, keys: Tensor) -> Tensor:
        """Scores of all cells, (R, L, heads, hw) fp32.   x: (R, L, D), keys: (B, heads, hw, D / heads)."""
        rows, length, width = x.shape
        size, heads, cells, _ = keys.shape
        queries = self.query(x) * (width // heads) ** -0.5
        # All rows of a picture share its keys: (B, heads, K*L, D / heads) x (B, heads, D / heads, hw)
        queries = queries.view(size, -1, heads, width // heads).transpose(1, 2)
        return (queries @ keys.transpose(2, 3)).float().transpose(1, 2).reshape(rows, length, heads, cells)

    def look(self, x: Tensor, attention: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take from the cells what the attention (R, L, heads, hw) says.   Returns x and glimpses, (R, L, D) each."""
        size, heads, cells, _ = values.shape
        weights = F.dropout(attention, self.dropout, self.training).to(values.dtype)
        weights = weights.reshape(size, -1, heads, cells).transpose(1, 2)
        glimpses = self.cells_out((weights @ values).transpose(1, 2).reshape(x.shape))
        return self.norm2(x + self._drop(glimpses)), glimpses

    def think(self, x: Tensor) -> Tensor:
        return self.norm3(x + self._drop(self.contract(self._drop(self.expand(x).relu()))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TransformerDecoder(nn.Module):
    """Learns in one pass over whole formulas; reads step by step from a cache, by the same code.

    channels: of the encoder.   Sizes: the paper's by default.   The counting head, where there is one, teaches the
    encoder alone: its counts are not looked at.
    """

    directions = 2

    def __init__(
        self,
        vocabulary_size: int,
        channels: int,
        width: int = 256,
        heads: int = 8,
        layers: int = 3,
        feed_forward: int = 1024,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.width, self.heads = width, heads
        self.cells = nn.Linear(channels, width)
        self.cells_norm = nn.LayerNorm(width)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        self.refinement = CoverageRefinement(heads)  # the same one for all layers but the first
        self.output = nn.Linear(width, vocabulary_size)

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> State:
        """The state before the first token, one row per picture.   features: (B, C, h, w), padding: (B, h, w)."""
        cells = self.cells(features.flatten(2).transpose(1, 2))
        cells = self.cells_norm(cells + picture_positions(padding, self.width).flatten(1, 2))
        picture, past = {"padding": padding}, {}
        size, hw = cells.shape[:2]
        nothing = cells.new_zeros(size, self.heads, 0, self.width // self.heads)
        for i, layer in enumerate(self.layers):
            picture[f"keys{i}"], picture[f"values{i}"] = layer.cell_keys(cells)
            past[f"keys{i}"] = past[f"values{i}"] = nothing
            if i > 0:
                past[f"coverage{i}"] = torch.zeros(size, 2 * self.heads, hw, device=cells.device)
        return State(picture, past)

    def forward(self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None) -> Decoded:
        """All positions of given formulas, in one pass.   tokens: (B*K, L), each beginning with a start."""
        state = self.start(features, padding)
        pictures = torch.arange(len(features), device=tokens.device)
        decoded, _ = self._go_on(state.select(pictures.repeat_interleave(len(tokens) // len(features))), tokens)
        return decoded

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State, Tensor]:
        """One more token in every row.   tokens: (B*K,).   Returns logits (B*K, V), state, attention (B*K, h, w)."""
        decoded, state = self._go_on(state, tokens[:, None])
        return decoded.logits[:, 0], state, decoded.attention[:, 0]

    def _go_on(self, state: State, tokens: Tensor) -> tuple[Decoded, State]:
        """Read tokens (B*K, L) after what the state has read: all of a formula, or one token more."""
        picture, past = state
        padding = picture["padding"]
        before = past["keys0"].shape[2]
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x = self.embedding_norm(self.embedding(tokens) + sines(positions, self.width))

        outside = padding.flatten(1).repeat_interleave(len(tokens) // len(padding), 0)[:, None, None]
        now, attention = {}, None
        for i, layer in enumerate(self.layers):
            x, now[f"keys{i}"], now[f"values{i}"] = layer.recall(x, past[f"keys{i}"], past[f"values{i}"])
            scores = layer.scores(x, picture[f"keys{i}"]).masked_fill(outside, float("-inf"))
            if i > 0:
                looks = torch.cat([scores.softmax(-1), attention], dim=2)
                sums = past[f"coverage{i}"][:, None] + looks.cumsum(1)
                now[f"coverage{i}"] = sums[:, -1]
                scores = scores - self.refinement(sums - looks, padding)  # what was looked at before this position
            attention = scores.softmax(-1)
            x, glimpses = layer.look(x, attention, picture[f"values{i}"])
            x = layer.think(x)
        attention = attention.mean(2).unflatten(2, padding.shape[1:])
        return Decoded(self.output(x), glimpses, attention), State(picture, now)
