"""Several processes that train one model together, started by torchrun; alone, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

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

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each floating-point tensor by its mean over all ranks, in place."""
        if self.world_size == 1:
            return
        alike = [tensor for tensor in tensors if tensor.is_floating_point()]
        if alike:
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            distributed.all_reduce(flat)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor) / self.world_size)

    def first(self, find: Callable[[], Any]) -> Any:
        """What the first rank finds, in every rank. Where it fails, all fail: it tells why, the others say that."""
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = find()
            except Exception as error:
                found[1] = error
        if self.world_size > 1:
            distributed.broadcast_object_list(found)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def first_then_all(self, make: Callable[[], Any]) -> Any:
        """Make something in every rank, in the first one before the others: what it leaves on disk they find there."""
        made = make() if self.is_first else None
        self.wait()
        return made if self.is_first else make()

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
