"""One loop for every stage: fit() trains what the stage names, on what the loaders give, and keeps the best weights."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.config.schema import StageConfig, TrainingConfig
from utils.errors import ConfigError, LossError
from utils.evaluation.metrics import scores
from utils.training.distributed import Ranks, local_rank
from utils.training.memory import (
    ALONE,
    Budget,
    MemoryModel,
    fit_memory,
    free_bytes,
    peak_memory,
    run_in_pieces,
    sum_gradients,
)
from utils.training.run_folder import Run, load_checkpoint, load_weights


def choose_device(name: str, threads: int | str = "auto") -> torch.device:
    """The device of a run: `auto` takes this process's CUDA device where there is one. Raises ConfigError otherwise.

    threads: that a CPU computes with; `auto`: as many as torch chooses.
    """
    if threads != "auto":
        torch.set_num_threads(threads)
    if name == "auto":
        name = f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def seed_everything(seed: int) -> None:
    """Seed what draws random numbers in this process: initial weights and dropout. Data has its own seeds."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def train_only(model: nn.Module, parts: Iterable[str]) -> None:
    """Let the named parts learn; everything else is frozen, and in eval mode, so that its BatchNorm stays still."""
    for name, modules in model.parts().items():
        for module in modules:
            module.requires_grad_(name in parts)
            module.train(name in parts)


def learning_rate_factor(epoch: float, epochs: float, warmup: float, final: float) -> float:
    """Share of the full learning rate at a fractional epoch: linear warm-up, then a half cosine down to `final`.

    Fractional epochs, because adaptive batches change the number of steps from one epoch to the next.
    """
    warmup = min(warmup, epochs / 4)
    if epoch < warmup:
        return max(epoch, 1e-3 * warmup) / warmup
    progress = min((epoch - warmup) / max(epochs - warmup, 1e-9), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, stage: StageConfig, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer over what learns in this stage. Vectors (biases, norms) are not decayed."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=training.momentum, fused=True)
    if training.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=stage.learning_rate)
    return torch.optim.AdamW(groups, lr=stage.learning_rate, fused=True)


class AveragedWeights:
    """A copy of the model that follows it as an exponential moving average (Polyak and Juditsky 1992).

    The first steps are averaged over fewer of them, so that short stages do not remember their beginning.
    Buffers (BatchNorm statistics) are averages already, and are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (10 + self.steps))
        pairs = [
            (kept, new)
            for kept, new in zip(self.model.parameters(), model.parameters(), strict=True)
            if new.requires_grad
        ]
        torch._foreach_lerp_([kept for kept, _ in pairs], [new.detach() for _, new in pairs], weight)
        for kept, new in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(new)


class LastEpochs:
    """The plain mean of the weights with which the last epochs ended (Izmailov et al., UAI 2018, section 3).

    Of the averaged weights, so that it is a mean of means; BatchNorm statistics are averaged alike.
    """

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.epochs = 0

    def add(self, model: nn.Module) -> None:
        self.epochs += 1
        for name, weight in model.state_dict().items():
            if not weight.is_floating_point() or name not in self.weights:
                self.weights[name] = weight.clone()
            else:
                self.weights[name].lerp_(weight, 1 / self.epochs)


@dataclass
class Loaders:
    """What a stage reads: batches to learn from (`set_epoch`, exact `len`) and batches to be tested on."""

    train: Any
    validation: Any
    domain: str  # "standard" or "handwritten": which encoder reads the validation pictures


@torch.no_grad()
def read_all(
    model: nn.Module,
    batches: Iterable,
    device: torch.device,
    domain: str,
    name: str,
    ranks: Ranks = ALONE,
    **search: Any,
) -> list[tuple[str, list[int], Any]]:
    """Read every picture freely, to its end of sequence: (name, true ids, hypothesis) in the pictures' own order.

    Each rank reads its own batches, and gets the results of all.
    """
    model.eval()
    results = []
    for batch in progress(batches, name, ranks):
        if batch is None:
            continue
        batch = batch.to(device)
        with autocast(device):
            hypotheses = model.read(batch.images(domain), batch.padding(domain), domain=domain, **search)
        results += zip(batch.indices, batch.names, batch.truths(), hypotheses, strict=True)
    return [tuple(rest) for _, *rest in sorted(ranks.gather(results), key=lambda result: result[0])]


def progress(batches: Iterable, name: str, ranks: Ranks, **options: Any) -> tqdm:
    """A bar over batches, in one process of those that train together."""
    interval = 0.2 if sys.stderr.isatty() else 30  # a log file wants a line now and then
    options |= {"unit": "batch", "leave": False, "dynamic_ncols": True, "mininterval": interval}
    return tqdm(batches, desc=name, disable=not ranks.is_first, **options)


def measure_memory(
    objective: nn.Module,
    stage: StageConfig,
    make_batch: Callable[[int, int, int, int], Any],
    device: torch.device,
    precision: str = "auto",
    share: float = 0.9,
) -> dict[str, Any]:
    """The fields of a MemoryModel: what a step of this stage needs on a CUDA device, from a few probes.

    Nothing of the model is changed.

    make_batch(count, height, width, tokens): a batch of such pictures and labels.
    """
    train_only(objective.model, stage.trains)
    buffers = {name: buffer.clone() for name, buffer in objective.model.named_buffers()}

    def probe(count: int, height: int, width: int, tokens: int) -> int:
        batch = make_batch(count, height, width, tokens).to(device)

        def step() -> None:
            with autocast(device, precision):
                losses = objective(batch)
                total = sum(weight * losses[name] for name, weight in stage.losses.items() if weight)
            total.backward()

        try:
            return peak_memory(step, device)
        finally:
            objective.model.zero_grad(set_to_none=True)

    # Still to come, for what learns: the averages of the optimizer (two), and for all, the averaged weights.
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in objective.model.parameters()]
    reserved = sum(size * (3 if learns else 1) for size, learns in sizes)
    try:
        return dataclasses.asdict(fit_memory(probe, free_bytes(device), reserved, share))
    finally:
        with torch.no_grad():
            for name, buffer in objective.model.named_buffers():
                buffer.copy_(buffers[name])


def autocast(device: torch.device, precision: str = "auto"):
    """The precision of a step: "bf16", "fp32", or "auto": bf16 on a GPU, fp32 on a CPU."""
    is_half = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


def score(results: Sequence[tuple[str, list[int], Any]]) -> dict[str, float]:
    """Scores of what read_all returned."""
    return scores([truth for _, truth, _ in results], [hypothesis.tokens for *_, hypothesis in results])


def fit(
    model: nn.Module,
    objective: nn.Module,
    loaders: Loaders,
    stage: StageConfig,
    training: TrainingConfig,
    run: Run,
    finished: Sequence[str],
    device: torch.device,
    seed: int,
    title: str,
    ranks: Ranks = ALONE,
    memory: MemoryModel | None = None,
) -> dict[str, float]:
    """Train one stage and leave the model with its best weights, chosen on validation.

    objective(batch) -> {loss name: mean over the batch's real tokens or pictures}; objective.units says which.
    A batch that runs out of memory is run in pieces that add up to the same gradient; see utils/training/memory.py.
    Resumes from run.state_of(stage.name), in the middle of an epoch too, to the same weights as if never stopped.
    Returns the best validation scores. Raises LossError when a loss is not finite.
    """
    train_only(model, stage.trains)
    optimizer = make_optimizer(model, stage, training)
    averaged = AveragedWeights(model, training.ema)
    train = loaders.train
    budget = Budget(train.max_pixels, fetched_ahead=train.fetched_ahead) if train.max_pixels else None
    best, first_epoch, first_batch, sums, last_epochs = None, 0, 0, EpochSums(), LastEpochs()
    seed_everything(seed + 1000 * ranks.rank)

    state = run.state_of(stage.name)
    if state:
        model.load_state_dict(state["model"])
        averaged.model.load_state_dict(state["averaged"])
        averaged.steps = state["averaged_steps"]
        last_epochs.weights, last_epochs.epochs = state["last_epochs"], state["last_epochs_count"]
        optimizer.load_state_dict(state["optimizer"])
        best, first_epoch, first_batch = state["best"], state["epoch"], state["batch"]
        if budget:
            budget.load_state_dict(state["budget"])
            train.set_max_pixels(budget.max_pixels)
        if len(state["ranks"]) == ranks.world_size:  # with another number of processes, the draws start anew
            mine = state["ranks"][ranks.rank]
            restore_random_state(mine["random"], device)
            sums = EpochSums(**mine["sums"])

    def save_state(epoch: int, batch: int) -> None:
        own = {"random": random_state(device), "sums": sums.as_dict()}
        run.save_state(
            stage.name,
            finished,
            model=model.state_dict(),
            averaged=averaged.model.state_dict(),
            averaged_steps=averaged.steps,
            last_epochs=last_epochs.weights,
            last_epochs_count=last_epochs.epochs,
            optimizer=optimizer.state_dict(),
            best=best,
            epoch=epoch,
            batch=batch,
            loader=train.state_dict(batch),
            budget=budget.state_dict() if budget else None,
            ranks=ranks.gather([own]),
        )

    def validate(epoch: int) -> dict[str, float]:
        """Read with the averaged weights; they are kept where nothing was better."""
        nonlocal best
        name = f"{title} validation"
        found = score(read_all(averaged.model, loaders.validation, device, loaders.domain, name, ranks))
        if best is None or _rank(found) >= _rank(best):
            best = found
            run.save_weights(stage.name, "best", averaged.model.state_dict(), epoch=epoch, validation=found)
        return found

    def learn(batch: Any) -> bool:
        """One step of the optimizer. Returns whether memory made it go in pieces."""
        own = {"tokens": batch.tokens, "pictures": len(batch)} if batch else {"tokens": 0, "pictures": 0}
        whole = {unit: ranks.total(count, device) for unit, count in own.items()}

        def step(piece: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            shares = {"tokens": piece.tokens / whole["tokens"], "pictures": len(piece) / whole["pictures"]}
            with autocast(device, training.precision):
                losses = {name: loss * shares[objective.units[name]] for name, loss in objective(piece).items()}
                total = sum(weight * losses[name] for name, weight in stage.losses.items() if weight)
            total.backward()
            return {name: loss.detach() for name, loss in losses.items()}, total.detach()

        results, was_split = run_in_pieces(batch, step, lambda: optimizer.zero_grad(set_to_none=True), device, ranks)
        sum_gradients(model.parameters(), ranks)
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        ranks.average(model.buffers())
        averaged.update(model)
        if results:
            losses = {name: sum(piece[name] for piece, _ in results) for name in results[0][0]}
            total = sum(total for _, total in results)
            sums.add(batch, losses, total, whole["pictures"], was_split)
            if watch.see(total, norm, batch.names):
                bar.set_postfix(loss=f"{watch.last * ranks.world_size:.3f}", refresh=False)
        return was_split

    for epoch in range(first_epoch, stage.epochs):
        train.set_epoch(epoch, state["loader"] if first_batch else None)
        train_only(model, stage.trains)
        watch = LossWatch(stage.name, epoch + 1, every=1 if device.type == "cpu" else 20)
        steps = len(loaders.train)
        clock = saved = time.monotonic()
        cpu_clock = time.process_time()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        name = f"{title} epoch {epoch + 1}/{stage.epochs}"
        bar = progress(train, name, ranks, total=steps, initial=first_batch)
        for number, batch in enumerate(bar, first_batch):
            rate = stage.learning_rate * learning_rate_factor(
                epoch + number / steps, stage.epochs, training.warmup_epochs, training.final_learning_rate
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            was_split = learn(batch.to(device) if batch is not None else None)
            if budget and budget.record(was_split):
                train.set_max_pixels(budget.max_pixels)
                steps = len(loaders.train)
                if ranks.is_first:
                    why = "out of memory" if was_split else "no batch ran out of memory for a while"
                    size = f"{len(batch)} pictures, {batch.padded_pixels:,} padded pixels" if batch else "no pictures"
                    tqdm.write(f"{title}: {why} ({size}); from now on {budget.max_pixels:,} pixels a batch")
            now = time.monotonic()
            sums.seconds, clock = sums.seconds + now - clock, now
            cpu_now = time.process_time()
            sums.cpu_seconds, cpu_clock = sums.cpu_seconds + cpu_now - cpu_clock, cpu_now
            # All ranks must agree on when to save: the first one's clock counts.
            if ranks.total((now - saved > 60 * training.save_minutes) * ranks.is_first, device) and number + 1 < steps:
                watch.check()
                save_state(epoch, number + 1)
                clock = saved = time.monotonic()
                cpu_clock = time.process_time()
        watch.check()
        parts = ranks.gather([sums.as_dict()])
        line = {"stage": stage.name, "epoch": epoch + 1, "learning_rate": rate, **EpochSums.line(parts)}
        if budget:
            line |= {"max_pixels": budget.max_pixels, "oversize": train.oversize}
        if device.type == "cuda":
            line["peak_memory"] = torch.cuda.max_memory_allocated(device)
        if memory:
            line["peak_memory_predicted"] = int(memory.predict(line["largest_padded"]))
        if epoch + 1 > stage.epochs - training.average_last:
            last_epochs.add(averaged.model)
        if (epoch + 1) % training.validate_every == 0 or epoch + 1 == stage.epochs:
            started = time.monotonic()
            line["validation"] = validate(epoch + 1)
            about = {"epoch": epoch + 1, "validation": line["validation"]}
            run.save_weights(stage.name, "last", averaged.model.state_dict(), **about)
            if epoch + 1 == stage.epochs and last_epochs.epochs > 1:
                averaged.model.load_state_dict(last_epochs.weights)
                line["validation_of_mean"] = validate(epoch + 1)
            line["validation_seconds"] = round(time.monotonic() - started, 1)
        run.log(line)
        sums, first_batch = EpochSums(), 0
        if epoch + 1 < stage.epochs:
            save_state(epoch + 1, 0)
        if ranks.is_first:
            tqdm.write(describe(line, title, stage.epochs))

    ranks.wait()  # for the first one's files
    load_weights(model, load_checkpoint(run.best(stage.name)))
    run.save_state(stage.name, [*finished, stage.name])
    return best


def _rank(validation: dict[str, float]) -> tuple[float, float]:
    """Better is larger: more expressions right; among equals, fewer wrong tokens."""
    return validation["exprate"], -validation["token_error_rate"]


def describe(line: dict, title: str, epochs: int) -> str:
    """One line for a person about an epoch."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
    text = f"{title} epoch {line['epoch']}/{epochs}  {losses}  {line['pictures_per_second']:.0f} pictures/s"
    if "validation" in line:
        text += f"  validation ExpRate {line['validation']['exprate']:.1f} %"
        text += f"  wrong tokens {line['validation']['token_error_rate']:.1f} %"
    if "validation_of_mean" in line:
        text += f"  with the mean of the last epochs {line['validation_of_mean']['exprate']:.1f} %"
    return text


class LossWatch:
    """Looks at the losses every few steps, because looking makes a GPU wait; stops at the first not finite."""

    def __init__(self, stage: str, epoch: int, every: int):
        self.stage, self.epoch, self.every = stage, epoch, every
        self.unseen: list[tuple[torch.Tensor, torch.Tensor, Sequence[str]]] = []
        self.last = math.nan

    def see(self, loss: torch.Tensor, norm: torch.Tensor, names: Sequence[str]) -> bool:
        self.unseen.append((loss.detach(), norm.detach(), names))
        if len(self.unseen) < self.every:
            return False
        self.check()
        return True

    def check(self) -> None:
        if not self.unseen:
            return
        losses = torch.stack([loss for loss, _, _ in self.unseen]).tolist()
        norms = torch.stack([norm for _, norm, _ in self.unseen]).tolist()
        for loss, norm, (*_, names) in zip(losses, norms, self.unseen, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
                raise LossError(
                    f"stage {self.stage}, epoch {self.epoch}: the loss is {loss}, its gradient {norm}; "
                    f"pictures: {shown}; a smaller learning_rate or clip_norm may help"
                )
        self.last = losses[-1]
        self.unseen.clear()


class EpochSums:
    """What an epoch's log line is made of, in one process; losses are kept on the device until the epoch ends."""

    def __init__(
        self,
        losses: dict | None = None,
        seconds: float = 0.0,
        cpu_seconds: float = 0.0,
        batches: Iterable = (),
        splits: Iterable = (),
    ):
        self.losses, self.seconds, self.cpu_seconds = dict(losses or {}), seconds, cpu_seconds
        self.batches = [list(batch) for batch in batches]  # pictures, pixels, padded pixels
        self.splits = [list(batch) for batch in splits]  # those that did not fit into memory: pictures, padded pixels

    def add(self, batch: Any, losses: dict, total: torch.Tensor, pictures: float, was_split: bool) -> None:
        """losses: this process's share of the step's means.   pictures: of the step, in all processes."""
        for name, value in {**losses, "total": total}.items():
            self.losses[name] = self.losses.get(name, 0) + value.float() * pictures
        self.batches.append([len(batch), batch.pixels, batch.padded_pixels])
        if was_split:
            self.splits.append([len(batch), batch.padded_pixels])

    def as_dict(self) -> dict:
        losses = {name: float(value) for name, value in self.losses.items()}
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        return {"losses": losses, **times, "batches": self.batches, "splits": self.splits}

    @staticmethod
    def line(parts: Sequence[dict]) -> dict:
        """What the processes have summed up, together."""
        counts, pixels, padded = np.array([batch for part in parts for batch in part["batches"]]).T
        seconds = max(part["seconds"] for part in parts)
        names = dict.fromkeys(name for part in parts for name in part["losses"])
        losses = {name: sum(part["losses"].get(name, 0.0) for part in parts) / counts.sum() for name in names}
        return {
            "losses": {name: round(value, 5) for name, value in losses.items()},
            "pictures": int(counts.sum()),
            "batches": len(counts),
            "mean_batch": round(float(counts.mean()), 2),
            "largest_batch": int(counts.max()),
            "largest_padded": int(padded.max()),
            "padding": round(1 - float(pixels.sum() / padded.sum()), 4),
            "splits": [batch for part in parts for batch in part["splits"]],
            "seconds": round(seconds, 2),
            "cpu_seconds": round(sum(part["cpu_seconds"] for part in parts), 2),  # of the training processes
            "pictures_per_second": round(float(counts.sum()) / max(seconds, 1e-9), 1),
        }


def random_state(device: torch.device) -> dict:
    """The state of what draws random numbers while training."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
