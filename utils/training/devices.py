"""The device of a run, its precision, and what draws random numbers on it."""

from __future__ import annotations

import random

import numpy as np
import torch

from utils.errors import ConfigError
from utils.training.distributed import is_one_of_several, local_rank


def choose_device(name: str) -> torch.device:
    """The device of a run; `auto`: this process's CUDA device, else Apple's GPU, else the CPU. Raises ConfigError."""
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return f"cuda:{local_rank()}"
    # Several processes exchange gradients through gloo, which knows CPUs alone.
    return "mps" if torch.backends.mps.is_available() and not is_one_of_several() else "cpu"


def set_threads(threads: int | str) -> None:
    """How many threads a CPU computes with; `auto` leaves it to torch."""
    if threads != "auto":
        torch.set_num_threads(threads)


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """The precision of a step: "bf16", "fp32", or "auto": bf16 on a CUDA device, else fp32."""
    is_half = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


def seed_everything(seed: int) -> None:
    """Seed what draws random numbers in this process: initial weights and dropout. Data has its own seeds."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of what draws random numbers while training."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
