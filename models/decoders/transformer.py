"""Transformer decoder with coverage, both reading directions in one set of weights: Zhao and Gao (CoMER), ECCV 2022."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CoverageRefinement
from models.decoders.interface import DecoderOutput, DecoderState
from models.positions import image_positions, sinusoids


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention to the image, feed-forward; each with a residual and a LayerNorm after it."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.self_in = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.cross_query = nn.Linear(width, width)
        self.cross_in = nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        for linear in (self.self_in, self.cross_in, self.cross_query):
            nn.init.xavier_uniform_(linear.weight)

    def keys_and_values(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of the image, for cross-attention.   features: (B, hw, D).   Returns (B, heads, hw, D / heads) each."""
        keys, values = self.cross_in(features).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        return keys, values

    def self_attention(self, x: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To the tokens so far.   x: (R, L, D); the past: (R, heads, t, D / heads), either t = 0 or L = 1.

        Returns x, and keys and values with the new positions, (R, heads, t + L, D / heads).
        """
        queries, keys, values = self.self_in(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=x.shape[1] > 1)
        x = self.norm1(x + self._drop(self.self_out(attended.transpose(1, 2).flatten(2))))
        return x, keys, values

    def cross_scores(self, x: Tensor, keys: Tensor) -> Tensor:
        """Scores of all feature positions, (R, L, heads, hw) fp32.   x: (R, L, D), keys: (B, heads, hw, D / heads)."""
        rows, length, width = x.shape
        size, heads, positions, _ = keys.shape
        queries = self.cross_query(x) * (width // heads) ** -0.5
        # All rows of an image share its keys: (B, heads, K*L, D / heads) x (B, heads, D / heads, hw)
        queries = queries.view(size, -1, heads, width // heads).transpose(1, 2)
        return (queries @ keys.transpose(2, 3)).float().transpose(1, 2).reshape(rows, length, heads, positions)

    def cross_attention(self, x: Tensor, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values, weighted by the attention (R, L, heads, hw).   Returns x and context vectors, (R, L, D) each."""
        size, heads, positions, _ = values.shape
        weights = F.dropout(weights, self.dropout, self.training).to(values.dtype)
        weights = weights.reshape(size, -1, heads, positions).transpose(1, 2)
        context = self.cross_out((weights @ values).transpose(1, 2).reshape(x.shape))
        return self.norm2(x + self._drop(context)), context

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.norm3(x + self._drop(self.contract(self._drop(self.expand(x).relu()))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TransformerDecoder(nn.Module):
    """Trains in one pass over whole sequences; decodes step by step from a cache, by the same code.

    channels: of the encoder.   Sizes: the paper's by default.   Where there is a counting head, its counts train the
    encoder only: this decoder ignores them.
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
        self.features = nn.Linear(channels, width)
        self.features_norm = nn.LayerNorm(width)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        self.refinement = CoverageRefinement(heads)  # the same one for all layers but the first
        self.output = nn.Linear(width, vocabulary_size)

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        """See Decoder.start()."""
        features = self.features(features.flatten(2).transpose(1, 2))
        features = self.features_norm(features + image_positions(padding, self.width).flatten(1, 2))
        image, past = {"padding": padding}, {}
        size, positions = features.shape[:2]
        nothing = features.new_zeros(size, self.heads, 0, self.width // self.heads)
        for i, layer in enumerate(self.layers):
            image[f"keys{i}"], image[f"values{i}"] = layer.keys_and_values(features)
            past[f"keys{i}"] = past[f"values{i}"] = nothing
            if i > 0:
                past[f"coverage{i}"] = torch.zeros(size, 2 * self.heads, positions, device=features.device)
        return DecoderState(image, past)

    def forward(self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None) -> DecoderOutput:
        """All positions of given sequences, in one pass.   tokens: (R, L), each beginning with a start."""
        state = self.start(features, padding)
        images = torch.arange(len(features), device=tokens.device)
        output, _ = self._decode(state.select(images.repeat_interleave(len(tokens) // len(features))), tokens)
        return output

    def step(self, state: DecoderState, tokens: Tensor) -> tuple[Tensor, DecoderState, Tensor]:
        """See Decoder.step()."""
        output, state = self._decode(state, tokens[:, None])
        return output.logits[:, 0], state, output.attention[:, 0]

    def _decode(self, state: DecoderState, tokens: Tensor) -> tuple[DecoderOutput, DecoderState]:
        """Tokens (R, L) after those that the state has: a whole sequence, or one token more."""
        image, past = state
        padding = image["padding"]
        before = past["keys0"].shape[2]
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x = self.embedding_norm(self.embedding(tokens) + sinusoids(positions, self.width))

        # Not by repeat_interleave(): ONNX's exporter repeats the wrong axis.
        is_padding = padding.flatten(1)[:, None].expand(-1, len(tokens) // len(padding), -1)
        is_padding = is_padding.flatten(0, 1)[:, None, None]
        now, attention = {}, None
        for i, layer in enumerate(self.layers):
            x, now[f"keys{i}"], now[f"values{i}"] = layer.self_attention(x, past[f"keys{i}"], past[f"values{i}"])
            scores = layer.cross_scores(x, image[f"keys{i}"]).masked_fill(is_padding, float("-inf"))
            if i > 0:
                weights = torch.cat([scores.softmax(-1), attention], dim=2)
                sums = past[f"coverage{i}"][:, None] + weights.cumsum(1)
                now[f"coverage{i}"] = sums[:, -1]
                # Coverage at a position is the attention of those before it, without its own.
                scores = scores - self.refinement(sums - weights, padding)
            attention = scores.softmax(-1)
            x, context = layer.cross_attention(x, attention, image[f"values{i}"])
            x = layer.feed_forward(x)
        attention = attention.mean(2).unflatten(2, padding.shape[1:])
        return DecoderOutput(self.output(x), context, attention), DecoderState(image, now)
