"""Plain twins: the network as its papers write it down, without any of our shortcuts, on the very same weights.

Tests compare what the shortcuts give with what these give; benchmarks, how long either takes.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CoverageAttention, LocationAttention
from models.decoders.gru import GRUDecoder
from models.decoders.interface import DecoderOutput, DecoderState
from models.densenet import DenseNet
from models.recognizer import Recognizer


class PlainDenseNet(nn.Module):
    """DenseNet-B, one operation after the other, each with its own result; what is padding is zeroed."""

    def __init__(self, network: DenseNet):
        super().__init__()
        self.network = network
        self.stride, self.channels = network.stride, network.channels

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        network, stride = self.network, self.stride
        images = images.masked_fill(padding[:, None], 0).contiguous()
        images = F.pad(images, (0, -images.shape[3] % stride, 0, -images.shape[2] % stride))
        padding = padding[:, ::stride, ::stride]
        features = F.max_pool2d(F.relu(network.stem_norm(network.stem(images))), 2)
        for block, layers in enumerate(network.blocks):
            if block > 0:
                transition = network.transitions[block - 1]
                features = F.relu(transition.norm(transition.conv(features)))
                features = F.avg_pool2d(F.dropout(features, transition.dropout, self.training), 2)
            is_valid = F.interpolate((~padding)[:, None].float(), features.shape[2:])
            for layer in layers:
                bottleneck = F.relu(layer.norm1(layer.conv1(features))) * is_valid
                new = F.relu(layer.norm2(layer.conv2(bottleneck)))
                features = torch.cat([features, F.dropout(new, layer.dropout, self.training)], 1)
        return network.norm(features) * (~padding)[:, None], padding


def additive_scores(
    attention: CoverageAttention, features: Tensor, padding: Tensor, hidden: Tensor, coverage: Tensor, last: Tensor
) -> Tensor:
    """features: (B, hw, C), hidden: (B, D), coverage, last: (B, 1, h, w).   Returns (B, hw)."""
    kernel = attention.coverage.weight.view(-1, 1, attention.kernel, attention.kernel)
    seen = F.conv2d(coverage, kernel, padding=attention.kernel // 2).flatten(2).transpose(1, 2)
    energy = attention.keys(features, padding) + attention.query(hidden)[:, None] + seen
    return attention.score(energy.tanh())[..., 0]


def location_scores(
    attention: LocationAttention, features: Tensor, padding: Tensor, hidden: Tensor, coverage: Tensor, last: Tensor
) -> Tensor:
    """See additive_scores()."""
    layer = attention.location
    kernel = layer.weight.view(-1, 2, attention.kernel, attention.kernel)
    past = torch.cat([coverage, last], 1).detach()  # no gradient flows into past attention
    maps = F.conv2d(past, kernel, layer.bias, padding=attention.kernel // 2)
    keys, query = attention.keys(features, padding), attention.query(hidden)
    of_keys, of_location = query[:, : keys.shape[2]], query[:, keys.shape[2] :]
    scores = torch.einsum("bna,ba->bn", keys, of_keys) / keys.shape[2] ** 0.5
    return scores + torch.einsum("bcn,bc->bn", F.relu(maps).flatten(2), of_location)


class PlainGRUDecoder(nn.Module):
    """The GRU decoder with everything computed again at every step."""

    directions = 1

    def __init__(self, network: GRUDecoder):
        super().__init__()
        self.network, self.symbols = network, network.symbols
        self.cell = nn.GRUCell(network.gru.input_size, network.gru.hidden_size)
        for name, parameter in network.gru.named_parameters():
            delattr(self.cell, name.removesuffix("_l0"))
            setattr(self.cell, name.removesuffix("_l0"), parameter)

    def start(self, features: Tensor, padding: Tensor, counts: Tensor | None = None) -> DecoderState:
        return self.network.start(features, padding, counts)

    def forward(self, features: Tensor, padding: Tensor, tokens: Tensor, counts: Tensor | None = None) -> DecoderOutput:
        network, attention = self.network, self.network.attention
        size, _, height, width = features.shape
        cells = features.flatten(2).transpose(1, 2)
        is_valid = (~padding).flatten(1).float()
        hidden = network.first_hidden((cells * is_valid[..., None]).sum(1) / is_valid.sum(1, keepdim=True)).tanh()
        coverage = last = torch.zeros(size, 1, height, width, device=features.device)
        logits, context, attention_steps = [], [], []
        for token in tokens.unbind(1):
            embedded = network.embedding(token)
            hidden = self.cell(embedded, hidden)
            score = location_scores if isinstance(attention, LocationAttention) else additive_scores
            scores = score(attention, cells, padding, hidden, coverage, last).masked_fill(
                padding.flatten(1), float("-inf")
            )
            last = scores.softmax(1).view(size, 1, height, width)
            attention_steps.append(last)
            coverage = coverage + last
            context.append(network.context((attention_steps[-1].flatten(1)[..., None] * cells).sum(1)))
            mixed = network.from_hidden(hidden) + network.from_embedding(embedded) + context[-1]
            if network.from_counts is not None:
                mixed = mixed + network.from_counts(counts)
            logits.append(network.output(F.dropout(mixed, network.dropout, network.training)))
            if network.symbols is not None:
                maps = network.symbols(features).flatten(2)
                logits[-1] = logits[-1] + torch.einsum("bvn,bn->bv", maps, last.flatten(1))
        return DecoderOutput(torch.stack(logits, 1), torch.stack(context, 1), torch.cat(attention_steps, 1))


def plain(model: Recognizer) -> Recognizer:
    """The same network on its plain path: a copy, with the same weights under other names."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for domain in ("standard", "handwritten"):
        encoder = getattr(model, f"{domain}_encoder")
        if encoder is not None:
            setattr(model, f"{domain}_encoder", PlainDenseNet(encoder))
    if isinstance(model.decoder, GRUDecoder):
        model.decoder = PlainGRUDecoder(model.decoder)
    return model
