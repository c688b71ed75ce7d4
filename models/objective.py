"""What a stage minimises: the losses that its config names, computed from one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models import alignment
from models.counting import counting_loss
from models.recognizer import Recognizer, label_loss

PAIR_LOSSES = {
    "glimpse_cosine": alignment.glimpse_cosine,
    "glimpse_contrast": alignment.glimpse_contrast,
    "distribution": alignment.distribution,
    "feature_map": alignment.feature_map,
}


class Objective(nn.Module):
    """forward(batch) -> {name: loss}, the mean over the batch's real tokens (pictures, for counting).

    batch: has labels, lengths, images(domain), padding(domain), and `ink`, `standard` that are None where the stage
    shows none. With both, ink is the pupil and the standard image, under frozen weights, the teacher. Its `boxes` are
    asked for by the loss "attention" alone.
    """

    def __init__(self, model: Recognizer, names: Any, label_smoothing: float = 0.0):
        super().__init__()
        self.model, self.names, self.label_smoothing = model, tuple(names), label_smoothing

    @property
    def units(self) -> dict[str, str]:
        """What each loss is a mean over: a batch in pieces adds them up by it."""
        return {name: "pictures" if name == "counting" else "tokens" for name in self.names}

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        domain = "standard" if batch.ink is None else "handwritten"
        taught = self._teach(batch, domain)
        losses = {}
        if "label" in self.names:
            losses["label"] = label_loss(taught, self.label_smoothing)
        if "counting" in self.names:
            losses["counting"] = counting_loss(taught.counts, batch.labels)
        if "attention" in self.names:
            encoder = self.model.standard_encoder if domain == "standard" else self.model.handwritten_encoder
            losses["attention"] = alignment.attention_to_boxes(taught, batch.boxes, encoder.stride)
        wanted = [name for name in self.names if name in PAIR_LOSSES]
        if wanted:
            with torch.no_grad():
                teacher = self._teach(batch, "standard")
            losses |= {name: PAIR_LOSSES[name](taught, teacher) for name in wanted}
        return losses

    def _teach(self, batch: Any, domain: str):
        return self.model.teach(batch.images(domain), batch.padding(domain), batch.labels, batch.lengths, domain=domain)
