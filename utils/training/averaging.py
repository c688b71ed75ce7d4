"""Averages of the weights over training: EMA over the steps, SWA over the last epochs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class EMA:
    """A copy of the model that follows it as an exponential moving average (Polyak and Juditsky 1992).

    The first steps are averaged over fewer of them, so that short stages do not remember their beginning.
    Buffers (BatchNorm statistics) are averages already, and are copied.

    torch.optim.swa_utils has the same, but copies its count of steps to the GPU in each of them and, with a decay that
    depends on the count, waits for it there.
    """

    def __init__(self, model: nn.Module, decay: float):
        """model: whose weights are followed from now on: those that learn."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0
        # Lists made once: to walk through all modules takes as long as many an operation of a step.
        pairs = list(zip(self.model.parameters(), model.parameters(), strict=True))
        self._kept = [kept for kept, new in pairs if new.requires_grad]
        self._new = [new.detach() for _, new in pairs if new.requires_grad]
        self._buffers = list(self.model.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model by a step."""
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (10 + self.steps))
        if self._kept:
            torch._foreach_lerp_(self._kept, self._new, weight)
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


def make_swa(model: nn.Module) -> AveragedModel:
    """Stochastic weight averaging: the plain mean of the weights at the ends of epochs (Izmailov et al., UAI 2018).

    model: the first of them is what it is now; update_parameters(model) adds another. BatchNorm statistics are
    averaged alike; counts are the newest.
    """
    swa = AveragedModel(model, multi_avg_fn=_mean_or_newest, use_buffers=True)
    swa.update_parameters(model)
    return swa


def _mean_or_newest(averaged: Sequence[torch.Tensor], new: Sequence[torch.Tensor], count: torch.Tensor) -> None:
    if averaged[0].is_floating_point():
        torch._foreach_lerp_(averaged, new, 1 / (int(count) + 1))
    else:
        torch._foreach_copy_(averaged, new)
