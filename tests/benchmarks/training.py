"""What a training step costs, and where its time goes, on whatever device is there.

    python tests/benchmarks/training.py                                    the full model on CROHME, else on SAMPLE
    python tests/benchmarks/training.py --preset small --steps 20 --json
    python tests/benchmarks/training.py --cases plain:gru:handwritten:random adaptive:gru:handwritten:adaptive
    python tests/benchmarks/training.py --against HEAD~3                   the same of another revision, in turn

A case is NAME:DECODER:STAGE:BATCHES[:PROCESSES]. Batches are `random` (8 images at random), `fixed` (as
train_stage.py deals them) or `adaptive`; NAME `plain` takes the plain path of tests/plain.py. Several PROCESSES train
one model together, as torchrun starts them; their memory is summed up. Each case is measured for itself, so that peak
memory is its own; the cases take turns, --rounds times, so that a busy machine is unfair to all alike.
A few steps see too few images to count them: images/s are those of an epoch, all of its padded pixels at the rate
measured. Shares of time are of a pass with timers (and, on a GPU, waits) around the parts; the rate, of one without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("data", "encoder", "decoder", "losses", "backward", "optimizer")
STAGES = ("standard", "alignment", "handwritten")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", default=str(ROOT), help=argparse.SUPPRESS)
    parser.add_argument("--root", default=str(ROOT / "datasets"), help="where the data sets are")
    parser.add_argument("--dataset", help="default: CROHME where it is, else SAMPLE")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", nargs="+", metavar="CASE")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--against", metavar="REVISION", help="measure this revision too, and print ratios")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    return parser


# ---- one case --------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict:
    """Train a few steps of one case; see the module's text."""
    sys.path[:0] = [options.checkout, str(ROOT)]
    name, decoder, stage_name, batches, *_ = options.case.split(":")

    import torch

    from dataset.loading.loaders import make_loaders, open_data
    from models.losses import Objective
    from models.recognizer import Recognizer
    from utils.config.loading import load_config
    from utils.script import keep_freed_memory
    from utils.training.averaging import EMA
    from utils.training.devices import autocast, choose_device, seed_everything, set_threads
    from utils.training.distributed import DistributedContext, mean_batch_norm, sum_gradients
    from utils.training.optimization import make_optimizer, train_only

    settings = [f"data.root={options.root}", f"model.decoder={decoder}", *options.set]
    if batches == "random":
        settings += ["batch.batch_size=8", "batch.pool=1"]
    config = load_config(Path(options.checkout) / "config.yaml", options.dataset, options.preset, settings)
    device = choose_device(options.device)
    set_threads(config.threads)
    context = DistributedContext.join(device)
    data = open_data(config.data, config.dataset, config.seed)
    seed_everything(0)
    model = Recognizer.of(config, len(data.vocabulary)).to(device)
    stage = next(stage for stage in config.stages if stage.name == stage_name)
    stride = model.handwritten_encoder.stride
    if name == "plain":
        from tests.plain import plain

        model = plain(model)
    else:
        keep_freed_memory()
    train_only(model, stage.trains)
    objective = Objective(model, [name for name, weight in stage.losses.items() if weight])
    optimizer, averaged = make_optimizer(model, stage, config.training), EMA(model, config.training.ema)
    batching = "adaptive" if batches == "adaptive" else "fixed"
    train, _ = make_loaders(data, stage, config, batching, stride, None, context)
    train.set_epoch(0)
    epoch = train.sampler.summary()

    clock = Clock(device)
    parts = model.standard_encoder, model.handwritten_encoder, model.decoder
    for module, part in zip(parts, ("encoder", "encoder", "decoder"), strict=True):
        if module is not None:
            module.register_forward_pre_hook(lambda *_, part=part: clock.enter(part))
            module.register_forward_hook(lambda *_: clock.enter("losses"))

    def step(batch) -> None:
        clock.enter("losses")
        with autocast(device, config.training.precision):
            losses = objective(batch.to(device))
            total = sum(stage.losses[loss] * value for loss, value in losses.items())
        clock.enter("backward")
        total.backward()
        clock.enter("optimizer")
        sum_gradients(model.parameters(), context)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean_batch_norm(model, context)
        averaged.update()
        clock.enter("data")

    batches_left = iter(train)
    for _ in range(2):
        step(next(batches_left))
    padded = 0
    wait(device)
    context.wait()
    started = time.perf_counter()
    for _ in range(options.steps):
        batch = next(batches_left)
        padded += batch.padded_pixels
        step(batch)
    wait(device)
    context.wait()
    seconds = time.perf_counter() - started
    padded = sum(context.gather([padded]))

    clock.start()
    for _ in range(max(2, options.steps // 2)):
        step(next(batches_left))
    shares = clock.stop()

    operations = counted = 0
    for _ in range(2):
        batch = next(batches_left)
        with count_operations() as counter:
            step(batch)
        operations, counted = operations + counter.total, counted + batch.padded_pixels
    rate = operations / counted * padded / seconds
    found = {
        "seconds_a_step": seconds / options.steps,
        "images_per_second": padded / seconds / epoch["pixels"] * epoch["images"],
        "padded_megapixels_per_second": padded / seconds / 1e6,
        "padding": epoch["padding"],
        "shares": shares,
        "peak_memory_gb": sum(context.gather([peak_memory(device)])) / 1e9,
        "gflops": rate / 1e9,
        "share_of_peak_rate": rate / sum(context.gather([peak_rate(device)])),
    }
    context.leave()
    return found if context.is_first else {}


def count_operations() -> Any:
    """A context that sums up in `total` the operations of matrix products and convolutions.

    torch's own FlopCounterMode asks autograd for modules too, which a backward pass within a backward pass forbids.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    formulas = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function._overloadpacket in formulas:
                self.total += formulas[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
            return result

    return Counter()


class Clock:
    """Where the time goes: each moment belongs to the part that was entered last."""

    def __init__(self, device):
        self.device, self.times, self.part = device, None, "data"

    def start(self) -> None:
        self.times, self.part = dict.fromkeys(PARTS, 0.0), "data"
        self.since = time.perf_counter()

    def enter(self, part: str) -> None:
        if self.times is not None:
            wait(self.device)
            now = time.perf_counter()
            self.times[self.part] += now - self.since
            self.since = now
        self.part = part

    def stop(self) -> dict[str, float]:
        self.enter("data")
        times, self.times = self.times, None
        return {part: seconds / sum(times.values()) for part, seconds in times.items()}


def wait(device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_memory(device) -> int:
    """Bytes: of the GPU's allocations, or of this process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_rate(device) -> float:
    """Operations a second of a large matrix product, in the precision that training computes in."""
    import torch

    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a = torch.randn(size, size, device=device, dtype=kind)
    times = []
    for _ in range(6):
        wait(device)
        started = time.perf_counter()
        a @ a
        wait(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


# ---- all cases -------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, case: str, checkout: Path) -> dict:
    processes = (case.split(":") + ["1"])[4]
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "--"]
    command = [sys.executable, *(together if processes != "1" else []), __file__, "--case", case]
    command += ["--checkout", str(checkout), "--dataset", options.dataset]
    for flag in ("root", "preset", "device", "steps"):
        command += [f"--{flag}", str(getattr(options, flag))]
    command += ["--set", *options.set] if options.set else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with code {done.returncode}; out of memory?"]
        raise SystemExit(f"{case} in {checkout}: {reason[0]}")
    return next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"'))


def mean(results: list[dict]) -> dict:
    """Of numbers, and of tables of numbers."""
    first = results[0]
    return {
        key: mean([result[key] for result in results])
        if isinstance(first[key], dict)
        else sum(result[key] for result in results) / len(results)
        for key in first
    }


def show(found: dict[str, dict]) -> str:
    columns = ["s/step", "images/s", "padded Mpx/s", "padding", *PARTS, "peak GB", "GFLOP/s", "of peak"]
    lines = ["| case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for case, values in found.items():
        cells = [f"{values['seconds_a_step']:.3f}", f"{values['images_per_second']:.2f}"]
        cells += [f"{values['padded_megapixels_per_second']:.3f}", f"{values['padding']:.0%}"]
        cells += [f"{values['shares'][part]:.0%}" for part in PARTS]
        cells += [f"{values['peak_memory_gb']:.2f}", f"{values['gflops']:.0f}", f"{values['share_of_peak_rate']:.0%}"]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parser().parse_args()
    options.dataset = options.dataset or ("CROHME" if (Path(options.root) / "CROHME").is_dir() else "SAMPLE")
    if options.case:
        if found := measure(options):
            print(json.dumps(found))
        return
    cases = options.cases or [
        f"ours:{decoder}:{stage}:{batches}"
        for decoder in ("gru", "transformer")
        for stage in STAGES
        for batches in ("fixed", "adaptive")
    ]
    checkouts = {"": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        if options.against:
            checkouts[f" @ {options.against}"] = Path(folder) / "checkout"
            add = ["git", "worktree", "add", "--detach", str(Path(folder) / "checkout"), options.against]
            subprocess.run(add, cwd=ROOT, check=True, capture_output=True)
        try:
            results: dict[str, list[dict]] = {}
            for number in range(options.rounds):
                for case in cases:
                    for label, checkout in checkouts.items():
                        print(f"round {number + 1}/{options.rounds}: {case}{label}", file=sys.stderr, flush=True)
                        results.setdefault(case + label, []).append(run(options, case, checkout))
        finally:
            if options.against:
                subprocess.run(["git", "worktree", "remove", "--force", str(Path(folder) / "checkout")], cwd=ROOT)
    found = {case: mean(values) for case, values in results.items()}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(show(found))
    first, *rest = found
    base = found[first]["images_per_second"]
    for case in rest:
        print(f"{case}: {found[case]['images_per_second'] / base:.2f} times the images/s of {first}")
    for case in cases if options.against else ():
        one, other = found[case], found[f"{case} @ {options.against}"]
        ratio = one["images_per_second"] / other["images_per_second"]
        memory = one["peak_memory_gb"] / other["peak_memory_gb"]
        print(f"{case}: {ratio:.2f} x the images/s, {memory:.2f} x the memory of {options.against}")


if __name__ == "__main__":
    main()
