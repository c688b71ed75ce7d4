"""How many operations one step of training starts: on a GPU, each takes some microseconds however small it is.

    python tests/benchmarks/kernels.py --preset full

Counted on the CPU. `calls` are all calls of torch's operators under its profiler. `kernels` are the operators that
compute or copy, as they arrive below autograd: no views, no allocations, and one for a list of tensors (_foreach_…).
A dense layer's share is what a step of the encoder takes more when each block has one layer more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset.loading.batch import blank_batch  # noqa: E402
from models.densenet import DenseNet  # noqa: E402
from models.losses import Objective  # noqa: E402
from models.recognizer import Recognizer  # noqa: E402
from utils.config.loading import load_config  # noqa: E402
from utils.training.averaging import EMA  # noqa: E402
from utils.training.devices import autocast, seed_everything, set_threads  # noqa: E402
from utils.training.optimization import make_optimizer, train_only  # noqa: E402

VOCABULARY = 113
COUNT, HEIGHT, WIDTH, TOKENS = 4, 64, 160, 12  # of the batch: how large it is changes no count
# Operators that compute nothing, although what they return is no view.
NO_KERNELS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "is_same_size"}


class KernelCount(TorchDispatchMode):
    """Counts what arrives below autograd, where an operator is one kernel or a few: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = function._schema
        is_view = any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
        name = schema.name.removeprefix("aten::")
        if not is_view and name not in NO_KERNELS:
            self.names[name] += 1
        return function(*args, **(kwargs or {}))


def count(step: Callable[[], Any]) -> tuple[int, int]:
    """Calls and kernels of one step, after one that was not counted."""
    kernels = count_kernels(step)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return sum(event.name.startswith("aten::") for event in profiler.events()), kernels.total()


def count_kernels(step: Callable[[], Any]) -> Counter[str]:
    """Kernels of one step by name, after one that was not counted."""
    step()
    with KernelCount() as kernels:
        step()
    return kernels.names


def encoder_step(layers: tuple[int, ...], growth: int, dropout: float, precision: str) -> Callable[[], None]:
    """Forward and backward of an encoder alone."""
    encoder = DenseNet(layers, growth, dropout=dropout).to(memory_format=torch.channels_last)
    images, padding = torch.rand(COUNT, 1, HEIGHT, WIDTH), torch.zeros(COUNT, HEIGHT, WIDTH, dtype=torch.bool)
    padding[1:, :, WIDTH // 2 :] = True

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), precision):
            features, _ = encoder(images, padding)
        features.float().square().mean().backward()

    return step


def whole_step(config: Any, learns: bool) -> Callable[[], None]:
    """Forward and backward of the model; with `learns`, clipping, optimizer and averaged weights as well."""
    model = Recognizer.of(config, VOCABULARY)
    stage = next(stage for stage in config.stages if stage.images == "ink")
    objective = Objective(model, [name for name, weight in stage.losses.items() if weight])
    train_only(model, stage.trains)
    optimizer, averaged = make_optimizer(model, stage, config.training), EMA(model, config.training.ema)
    batch = blank_batch(COUNT, HEIGHT, WIDTH, TOKENS, "ink")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), config.training.precision):
            losses = objective(batch)
            total = sum(stage.losses[name] * loss for name, loss in losses.items())
        total.backward()
        if learns:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
            optimizer.step()
            averaged.update()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="full")
    parser.add_argument("--dataset", default="CROHME")
    parser.add_argument("--rounds", type=int, default=0, help="time so many steps of the encoder; default: none")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    preset = None if options.preset == "full" else options.preset
    config = load_config(ROOT / "config.yaml", options.dataset, preset, options.set)
    set_threads(config.threads)
    seed_everything(0)
    layers, precision = config.model.encoder.layers, config.training.precision
    shape = config.model.encoder.growth, config.model.encoder.dropout, precision
    encoder = encoder_step(layers, *shape)
    counts = {"encoder, forward and backward": count(encoder)}
    longer = count(encoder_step(tuple(depth + 1 for depth in layers), *shape))
    of_layer = [round((more - few) / len(layers), 1) for more, few in zip(longer, *counts.values(), strict=True)]
    rows = {"one dense layer": of_layer} | counts
    rows["model, forward and backward"] = count(whole_step(config, learns=False))
    rows["whole step"] = count(whole_step(config, learns=True))
    print(f"{'':32}{'calls':>8}{'kernels':>9}")
    for name, (calls, kernels) in rows.items():
        print(f"{name:32}{calls:8,}{kernels:9,}")
    seconds = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        encoder()
        seconds.append(time.perf_counter() - started)
    if seconds:
        print(f"encoder, forward and backward: {1000 * min(seconds):.1f} ms at best")


if __name__ == "__main__":
    main()
