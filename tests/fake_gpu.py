"""A GPU that is not there: torch's fake tensors know shape, type and device but hold no numbers.

An operation over tensors on two devices fails with them as it would on a GPU, and what would make a CPU wait for its
GPU can be counted. Backward passes need a real GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
# Every kind of decoder, as assignments.
DECODERS = {
    "gru": ["model.decoder=gru"],
    "gru with a map": ["model.decoder=gru", "model.gru.location=24", "model.gru.symbols=true"],
    "transformer": ["model.decoder=transformer"],
}


class FakeGPU(FakeTensorMode):
    """FakeTensorMode that goes on where the CPU asks for a number, and lists in `waits` which operations ask.

    A whole number is 9, any other 0.5, a flag False; of a mask, the first half of the positions is set.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=False)
        self.waits: list[str] = []

    def __deepcopy__(self, memo: dict) -> FakeGPU:
        """Copies of its tensors are on the same GPU."""
        return self

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(func, args, kwargs or {}):
            self.waits.append(str(func))
        if func is aten._local_scalar_dense.default:
            number = args[0]
            return False if number.dtype == torch.bool else 0.5 if number.is_floating_point() else 9
        if func is aten.nonzero.default:
            mask = args[0]
            return mask.new_empty(mask.numel() // 2, mask.dim(), dtype=torch.int64)
        return super().dispatch(func, types, args, kwargs)


def _waits(func: Any, args: Any, kwargs: dict) -> bool:
    """Whether an operation makes the CPU wait: a number or indices asked for, or a copy between devices that blocks."""
    if func in (aten._local_scalar_dense.default, aten.nonzero.default):
        return args[0].device == GPU
    if func in (aten.index.Tensor, aten.index_put_.default):  # indices on the CPU are copied first
        return args[0].device == GPU and any(index is not None and index.device != GPU for index in args[1])
    if func is aten._to_copy.default:
        target = kwargs.get("device")
        return target is not None and target.type != args[0].device.type and not kwargs.get("non_blocking")
    return False


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Compute with fake tensors; autocast to bf16 behaves as on a GPU."""
    autocast_is_allowed = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
    bf16_is_known = mock.patch("torch.cuda.is_bf16_supported", return_value=True)
    with _device_guard(), autocast_is_allowed, bf16_is_known, FakeGPU() as mode:
        yield mode


@contextmanager
def _device_guard() -> Iterator[None]:
    """Let torch switch to a CUDA device, which a build for CPUs cannot: the CPU's guard, which does nothing, stands in.

    Raises OSError or ValueError where torch's library does not have what this needs.
    """
    if torch.backends.cuda.is_built():
        yield
        return
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libc10.*"))))
    guards = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")  # of CPU and CUDA
    guards[1] = guards[0]
    try:
        yield
    finally:
        guards[1] = None


class StepwiseGRU(nn.Module):
    """nn.GRU of one layer, batch first, in plain operations: the fused kernels know no fake tensors."""

    def __init__(self, gru: nn.GRU):
        super().__init__()
        self.cell = nn.GRUCell(gru.input_size, gru.hidden_size)

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: (R, L, E), hidden: (1, R, D).   Returns (R, L, D) and (1, R, D)."""
        states = [hidden[0]]
        for one in inputs.unbind(1):
            reset, update, new = (one @ self.cell.weight_ih.T + self.cell.bias_ih).chunk(3, 1)
            past_reset, past_update, past_new = (states[-1] @ self.cell.weight_hh.T + self.cell.bias_hh).chunk(3, 1)
            reset, update = (reset + past_reset).sigmoid(), (update + past_update).sigmoid()
            candidate = (new + reset * past_new).tanh()
            states.append(candidate + update * (states[-1] - candidate))
        return torch.stack(states[1:], 1), states[-1][None]


def move(module: nn.Module) -> nn.Module:
    """Give a module fake parameters and buffers on the GPU, of the same shapes and layouts. Call it in fake_gpu()."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(_on_gpu(value), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = _on_gpu(value)
    return module


def _on_gpu(value: Tensor) -> Tensor:
    layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
    return torch.empty(value.shape, dtype=value.dtype, device=GPU, memory_format=layout)
