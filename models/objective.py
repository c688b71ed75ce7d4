"""What a stage minimises: the losses that its config names, computed from one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models import alignment
from models.counting import counting_loss
from models.recognizer import Recognizer, label_loss
from models.symbols import symbol_targets

PAIR_LOSSES = {
    "glimpse_cosine": alignment.glimpse_cosine,
    "glimpse_contrast": alignment.glimpse_contrast,
    "distribution": alignment.distribution,
    "feature_map": alignment.feature_map,
}


# What each loss is a mean over, where it is not tokens.
UNITS = {"counting": "pictures", "feature_map": "feature_positions", "symbols": "symbol_positions"}


class Objective(nn.Module):
    """forward(batch) -> {name: loss}, the mean over the batch's real tokens (pictures, for counting).

    batch: has labels, lengths, images(domain), padding(domain), and `ink`, `standard` that are None where the stage
    shows none. With both, ink is the pupil and the standard image, under frozen weights, the teacher. Its `boxes` are
    asked for by the losses "attention" and "symbols".
    """

    def __init__(self, model: Recognizer, names: Any, label_smoothing: float = 0.0, input_noise: float = 0.0):
        """input_noise: share of the decoder's inputs replaced at random while it trains; see Recognizer.teach()."""
        super().__init__()
        self.model, self.names = model, tuple(names)
        self.label_smoothing, self.input_noise = label_smoothing, input_noise

    @property
    def units(self) -> dict[str, str]:
        """What each loss is a mean over: a batch in pieces adds them up by it."""
        return {name: UNITS.get(name, "tokens") for name in self.names}

    def count_units(self, batch: Any | None) -> dict[str, float | torch.Tensor]:
        """How many of each unit a batch, or a piece of one, has: {unit: number}.   None, an empty batch, has none.

        The loss of each piece, times its units, divided by those of the whole batch: these add up to the whole's loss.
        """
        counts = {"tokens": batch.tokens, "pictures": len(batch)} if batch else {"tokens": 0, "pictures": 0}
        if "feature_map" in self.names:
            stride = self._stride("standard")
            counts["feature_positions"] = (~batch.padding("standard"))[:, ::stride, ::stride].sum() if batch else 0
        if "symbols" in self.names:  # never zero, to be divided by: without a target the loss is zero
            counts["symbol_positions"] = self._symbol_targets(batch).sum().clamp(min=1) if batch else 0
        return counts

    def _stride(self, domain: str) -> int:
        return (self.model.standard_encoder if domain == "standard" else self.model.handwritten_encoder).stride

    def _symbol_targets(self, batch: Any) -> torch.Tensor:
        domain = _domain(batch)
        stride = self._stride(domain)
        padding = batch.padding(domain)[:, ::stride, ::stride]
        vocabulary_size = self.model.symbol_map.output.out_channels
        return symbol_targets(batch.labels, batch.boxes, padding, stride, vocabulary_size)

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        domain = _domain(batch)
        taught = self._teach(batch, domain, self.input_noise)
        losses = {}
        if "label" in self.names:
            losses["label"] = label_loss(taught, self.label_smoothing)
        if "counting" in self.names:
            losses["counting"] = counting_loss(taught.counts, batch.labels)
        if "attention" in self.names:
            losses["attention"] = alignment.attention_to_boxes(taught, batch.boxes, self._stride(domain))
        if "symbols" in self.names:
            losses["symbols"] = alignment.symbol_map(taught, self._symbol_targets(batch))
        wanted = [name for name in self.names if name in PAIR_LOSSES]
        if wanted:
            with torch.no_grad():
                teacher = self._teach(batch, "standard")
            losses |= {name: PAIR_LOSSES[name](taught, teacher) for name in wanted}
        return losses

    def _teach(self, batch: Any, domain: str, input_noise: float = 0.0):
        images, padding = batch.images(domain), batch.padding(domain)
        return self.model.teach(images, padding, batch.labels, batch.lengths, domain, input_noise)


def _domain(batch: Any) -> str:
    return "standard" if batch.ink is None else "handwritten"
