"""What moves the weights: which of them learn, the optimizer over those, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from utils.config.schema import StageConfig, TrainingConfig
from utils.training.muon import Muon, hidden_matrices


def train_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Let the named parts learn; everything else is frozen, and in eval mode, so that its BatchNorm stays still."""
    for name, modules in model.parts().items():
        for module in modules:
            module.requires_grad_(name in parts)
            module.train(name in parts)


def learning_rate_factor(progress: float, warmup: float, final: float) -> float:
    """Share of the full learning rate: linear warm-up, then a half cosine down to `final`.

    progress: share of the stage that has passed, 0 to 1; of its epochs (fractional, because adaptive batches change
    the number of steps from one epoch to the next) or of its time.   warmup: share of the stage that warms up.
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    after = min((progress - warmup) / max(1 - warmup, 1e-9), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * after))


def warmup_share(stage: StageConfig, training: TrainingConfig) -> float:
    """The share of a stage that warms up: `warmup_epochs` of its `epochs`, by time as well; a quarter at most."""
    return min(training.warmup_epochs / stage.epochs, 0.25)


def batch_size_factor(step_pixels: int | None, reference_pixels: int | None, optimizer: str) -> float:
    """What to multiply a learning rate by that is meant for steps of `reference_pixels`; 1 where either is None.

    step_pixels: what a step of all processes sees at most.   SGD: linear, Goyal et al., Accurate, Large Minibatch SGD,
    2017, section 2.1. Optimizers whose steps do not grow with the gradient: the square root, Malladi et al., On the
    SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022, section 4.
    """
    if step_pixels is None or reference_pixels is None:
        return 1.0
    return (step_pixels / reference_pixels) ** (1.0 if optimizer == "sgd" else 0.5)


def make_optimizer(model: nn.Module, stage: StageConfig, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer over what learns in this stage. Vectors (biases, norms) are not decayed."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "muon":
        hidden = {id(weight) for weight in hidden_matrices(model, training.muon_parts)}
        matrices, vectors = groups
        groups = [
            {**matrices, "params": [p for p in matrices["params"] if id(p) in hidden], "is_hidden": True},
            {**matrices, "params": [p for p in matrices["params"] if id(p) not in hidden]},
            vectors,
        ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "muon":
        return Muon(groups, lr=stage.learning_rate, hidden_factor=training.muon_factor)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=training.momentum, fused=True)
    if training.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=stage.learning_rate)
    return torch.optim.AdamW(groups, lr=stage.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups the same rate; it is called before every step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
