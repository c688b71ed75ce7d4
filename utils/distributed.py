"""Several processes that train one model together, started by torchrun; alone, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as distributed


class Ranks:
    """This process among those that train together: its rank, how many there are, and how they agree."""

    def __init__(self, rank: int = 0, world_size: int = 1):
        self.rank, self.world_size = rank, world_size

    @classmethod
    def from_environment(cls, device: torch.device) -> Ranks:
        """Join the group that torchrun announces in the environment: NCCL between GPUs, gloo between CPUs."""
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        if world_size == 1:
            return cls()
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), world_size)

    @property
    def is_first(self) -> bool:
        """One process writes files and talks."""
        return self.rank == 0

    def total(self, value: float, device: torch.device) -> float:
        """The sum of a number over all ranks."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
        distributed.all_reduce(tensor)
        return tensor.item()

    def gather(self, items: Iterable[Any]) -> list[Any]:
        """The items of all ranks, in every rank. Items are plain values of this program's own making."""
        items = list(items)
        if self.world_size == 1:
            return items
        parts: list[Any] = [None] * self.world_size
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def leave(self) -> None:
        if self.world_size > 1:
            distributed.destroy_process_group()


def local_rank() -> int:
    """Which device of this machine is this process's own."""
    return int(os.environ.get("LOCAL_RANK", 0))
