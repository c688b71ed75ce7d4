"""Steps that are taken to measure them, and that leave the network as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from utils.config.schema import StageConfig
from utils.training.devices import autocast, random_state, restore_random_state
from utils.training.interfaces import LabeledBatch
from utils.training.optimization import train_only


@contextmanager
def trial_steps(
    objective: nn.Module, stage: StageConfig, device: torch.device, precision: str = "auto"
) -> Iterator[Callable[[LabeledBatch], None]]:
    """Gives a function that goes forward and backward over a batch on `device`, as a step of this stage does.

    When it ends, weights, buffers and random numbers are as they were before. Which parts learn is the stage's choice.
    """
    train_only(objective.model, stage.trains)
    buffers = {name: buffer.clone() for name, buffer in objective.model.named_buffers()}
    random = random_state(device)

    def step(batch: LabeledBatch) -> None:
        try:
            with autocast(device, precision):
                losses = objective(batch)
                total = sum(weight * losses[name] for name, weight in stage.losses.items() if weight)
            total.backward()
        finally:
            objective.model.zero_grad(set_to_none=True)

    try:
        yield step
    finally:
        with torch.no_grad():
            for name, buffer in objective.model.named_buffers():
                buffer.copy_(buffers[name])
        restore_random_state(random, device)
