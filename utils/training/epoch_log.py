"""What an epoch's log line is made of, in numbers and for a person; and the watch over losses that are not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from utils.errors import LossError
from utils.training.interfaces import LabeledBatch

# Names of a line by what they were in older files.
FORMER_NAMES = {
    "pictures": "images",
    "pictures_per_second": "images_per_second",
    "validation_of_mean": "validation_of_swa",
}


class LossWatch:
    """Looks at the losses every few steps, because a GPU must finish its work first; stops at the first not finite."""

    def __init__(self, stage: str, epoch: int, every: int):
        self.stage, self.epoch, self.every = stage, epoch, every
        self.unseen: list[tuple[torch.Tensor, torch.Tensor, Sequence[str]]] = []
        self.last = math.nan

    def see(self, loss: torch.Tensor, norm: torch.Tensor, names: Sequence[str]) -> bool:
        """Note a step's loss, the norm of its gradient, and its images. Returns whether `last` is new."""
        self.unseen.append((loss.detach(), norm.detach(), names))
        if len(self.unseen) < self.every:
            return False
        self.check()
        return True

    def check(self) -> None:
        """Raises LossError where a loss or gradient since the last check is not finite; names the images."""
        if not self.unseen:
            return
        losses = torch.stack([loss for loss, _, _ in self.unseen]).tolist()
        norms = torch.stack([norm for _, norm, _ in self.unseen]).tolist()
        for loss, norm, (*_, names) in zip(losses, norms, self.unseen, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
                raise LossError(
                    f"stage {self.stage}, epoch {self.epoch}: the loss is {loss}, its gradient {norm}; "
                    f"images: {shown}; a smaller learning_rate or clip_norm may help"
                )
        self.last = losses[-1]
        self.unseen.clear()


class EpochSums:
    """Sums over an epoch's steps in one process; losses are kept on the device until the epoch ends."""

    def __init__(
        self,
        losses: dict | None = None,
        seconds: float = 0.0,
        cpu_seconds: float = 0.0,
        batches: Iterable = (),
        splits: Iterable = (),
    ):
        self.losses, self.seconds, self.cpu_seconds = dict(losses or {}), seconds, cpu_seconds
        self.batches = [list(batch) for batch in batches]  # images, pixels, padded pixels
        self.splits = [list(batch) for batch in splits]  # those that did not fit into memory: images, padded pixels

    def add(self, batch: LabeledBatch, losses: dict, total: torch.Tensor, images: int, was_split: bool) -> None:
        """losses: this process's share of the step's means.   images: of the step, in all processes."""
        for name, value in {**losses, "total": total}.items():
            self.losses[name] = self.losses.get(name, 0) + value.float() * images
        self.batches.append([len(batch), batch.pixels, batch.padded_pixels])
        if was_split:
            self.splits.append([len(batch), batch.padded_pixels])

    def as_dict(self) -> dict:
        losses = {name: float(value) for name, value in self.losses.items()}
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        return {"losses": losses, **times, "batches": self.batches, "splits": self.splits}

    @staticmethod
    def line(parts: Sequence[dict]) -> dict:
        """What the processes have summed up, together."""
        counts, pixels, padded = np.array([batch for part in parts for batch in part["batches"]]).T
        seconds = max(part["seconds"] for part in parts)
        names = dict.fromkeys(name for part in parts for name in part["losses"])
        losses = {name: sum(part["losses"].get(name, 0.0) for part in parts) / counts.sum() for name in names}
        return {
            "losses": {name: round(value, 5) for name, value in losses.items()},
            "images": int(counts.sum()),
            "batches": len(counts),
            "mean_batch": round(float(counts.mean()), 2),
            "largest_batch": int(counts.max()),
            "largest_padded": int(padded.max()),
            "padding": round(1 - float(pixels.sum() / padded.sum()), 4),
            "splits": [batch for part in parts for batch in part["splits"]],
            "seconds": round(seconds, 2),
            "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 2),  # of the training processes
            "images_per_second": round(float(counts.sum()) / max(seconds, 1e-9), 1),
        }


def read_line(text: str) -> dict[str, Any]:
    """A line of log.jsonl; what earlier versions wrote has today's names."""
    line = json.loads(text)
    line = {FORMER_NAMES.get(name, name): value for name, value in line.items()}
    for name in ("validation", "validation_of_swa"):
        if name in line:
            line[name] = with_exprate(line[name])
    return line


def with_exprate(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores whose ExpRate is called `exprate`; earlier versions called it `exrate`."""
    return {"exprate" if name == "exrate" else name: value for name, value in scores.items()}


def describe(line: dict, title: str) -> str:
    """One line for a person about an epoch."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
    text = f"{title}  {losses}  {line['images_per_second']:.0f} images/s"
    if "validation" in line:
        text += f"  validation ExpRate {line['validation']['exprate']:.1f} %"
        text += f"  wrong tokens {line['validation']['token_error_rate']:.1f} %"
    if "validation_of_swa" in line:
        text += f"  with SWA {line['validation_of_swa']['exprate']:.1f} %"
    return text
