"""Several processes that train one model together, started by torchrun; in a single process everything here is cheap.

Tensors are exchanged where they are: by NCCL between GPUs, which no process waits for; by gloo between CPUs, and where
processes share a GPU. What decides about the next step (who ran out of memory, whether time is up) is exchanged between
the CPUs, by gloo, so that no GPU is waited for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as distributed


class DistributedContext:
    """This process among those that train together: its rank, how many there are, its device, and how they agree."""

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"):
        """Of several processes, the default process group of torch.distributed must have been made, with gloo."""
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self._gpu_group = None  # of tensors; None: the default one
        if world_size > 1 and self.device.type == "cuda":
            places = self.gather([(socket.gethostname(), self.device.index)])
            if len(set(places)) == world_size:  # NCCL refuses processes that share a GPU
                self._gpu_group = distributed.new_group(backend="nccl")

    @classmethod
    def join(cls, device: torch.device) -> DistributedContext:
        """Join the group that torchrun announces in the environment."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls(device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # before NCCL's group is made, which takes the current device
        distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        """One process writes files and prints."""
        return self.rank == 0

    # --- numbers and objects, between the CPUs ---

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.world_size == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]

    def from_first(self, numbers: Sequence[float]) -> list[float]:
        """The first process's numbers, in every process."""
        if self.world_size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        distributed.broadcast(tensor, 0)
        return tensor.tolist()

    def gather(self, items: Iterable[Any]) -> list[Any]:
        """The items of all processes, in every process. Items are plain values of this program's own making."""
        items = list(items)
        if self.world_size == 1:
            return items
        parts: list[Any] = [None] * self.world_size
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def first(self, find: Callable[[], Any]) -> Any:
        """What the first process finds, in every process. Where it fails, all raise its error."""
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = find()
            except Exception as error:
                found[1] = error
        if self.world_size > 1:
            distributed.broadcast_object_list(found, 0)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def first_then_all(self, make: Callable[[], Any]) -> Any:
        """Make something in every process, in the first one before the others: they find what it leaves on disk."""
        made = make() if self.is_first else None
        self.wait()
        return made if self.is_first else make()

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def leave(self) -> None:
        if self.world_size > 1:
            distributed.destroy_process_group()

    # --- tensors, where they are ---

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place; one exchange for all of the same type."""
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for _, alike in sorted(by_type.items(), key=str):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            distributed.all_reduce(flat, group=self._gpu_group)
            parts = flat.split([tensor.numel() for tensor in alike])
            torch._foreach_copy_(alike, [part.view_as(one) for one, part in zip(alike, parts, strict=True)])

    @torch.no_grad()
    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each floating-point tensor by its mean over all processes, in place."""
        if self.world_size == 1:
            return
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        self.sum_(floating)
        if floating:
            torch._foreach_div_(floating, self.world_size)


def sum_gradients(parameters: Iterable[torch.nn.Parameter], context: DistributedContext) -> None:
    """Add up the gradients of all processes, in place. A parameter without a gradient in any of them keeps None.

    This replaces the exchange that DistributedDataParallel makes *within* backward: a process that runs out of memory
    half-way through that one leaves all others waiting for ever. So the pieces of a step run in each process alone,
    and once all are through (run_in_pieces) their gradients are added up.
    """
    if context.world_size == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    has_gradient = context.any([parameter.grad is not None for parameter in learning])
    used = [parameter for parameter, has_one in zip(learning, has_gradient, strict=True) if has_one]
    for parameter in used:
        if parameter.grad is None:  # this process had no image, or none that reaches the parameter
            parameter.grad = torch.zeros_like(parameter)
    context.sum_(parameter.grad for parameter in used)


def mean_batch_norm(model: torch.nn.Module, context: DistributedContext) -> None:
    """Give all processes the mean of their BatchNorm statistics; those of frozen parts stay as they are."""
    if context.world_size > 1:
        learning = (module for module in model.modules() if module.training)
        context.mean_(buffer for module in learning for buffer in module.buffers(recurse=False))


def is_one_of_several() -> bool:
    """Whether torchrun has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def local_rank() -> int:
    """Which device of this machine is this process's own."""
    return int(os.environ.get("LOCAL_RANK", 0))


SINGLE_PROCESS = DistributedContext()
