"""One loop for every stage: fit() trains what the stage names, on what the loaders give, and keeps the best weights."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.config import StageConfig, TrainingConfig
from utils.errors import ConfigError, LossError
from utils.metrics import scores
from utils.run import Run, load_checkpoint, load_weights


def choose_device(name: str) -> torch.device:
    """The device of a run: `auto` takes the first CUDA device where there is one. Raises ConfigError otherwise."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=training.momentum)
    if training.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=stage.learning_rate)
    return torch.optim.AdamW(groups, lr=stage.learning_rate)


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


@dataclass
class Loaders:
    """What a stage reads: batches to learn from (`set_epoch`, exact `len`) and batches to be tested on."""

    train: Any
    validation: Any
    domain: str  # "standard" or "handwritten": which encoder reads the validation pictures


@torch.no_grad()
def read_all(
    model: nn.Module, batches: Iterable, device: torch.device, domain: str, name: str, **search: Any
) -> list[tuple[str, list[int], Any]]:
    """Read every picture freely, to its end of sequence: (name, true ids, hypothesis) in the pictures' own order."""
    model.eval()
    results = {}
    bar = tqdm(batches, desc=name, unit="batch", leave=False, dynamic_ncols=True)
    for batch in bar:
        batch = batch.to(device)
        with autocast(device):
            hypotheses = model.read(batch.images(domain), batch.padding(domain), domain=domain, **search)
        results |= zip(batch.indices, zip(batch.names, batch.truths(), hypotheses, strict=True), strict=True)
    return [results[index] for index in sorted(results)]


def autocast(device: torch.device):
    """bf16 where the hardware has it; a CPU computes in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


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
    after_epoch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train one stage and leave the model with its best weights, chosen on validation.

    objective(batch) -> {loss name: mean over the batch's real tokens or pictures}, all with gradients.
    Resumes from run.state_of(stage.name), in the middle of an epoch too, to the same weights as if never stopped.
    Returns the best validation scores. Raises LossError when a loss is not finite.
    """
    train_only(model, stage.trains)
    optimizer = make_optimizer(model, stage, training)
    averaged = AveragedWeights(model, training.ema)
    best, first_epoch, first_batch, sums, seconds = None, 0, 0, EpochSums(), 0.0
    seed_everything(seed)

    state = run.state_of(stage.name)
    if state:
        model.load_state_dict(state["model"])
        averaged.model.load_state_dict(state["averaged"])
        averaged.steps = state["averaged_steps"]
        optimizer.load_state_dict(state["optimizer"])
        best, first_epoch, first_batch = state["best"], state["epoch"], state["batch"]
        sums, seconds = EpochSums(**state["sums"]), state["seconds"]
        restore_random_state(state["random"], device)

    def save_state(epoch: int, batch: int) -> None:
        run.save_state(
            stage.name,
            finished,
            model=model.state_dict(),
            averaged=averaged.model.state_dict(),
            averaged_steps=averaged.steps,
            optimizer=optimizer.state_dict(),
            best=best,
            epoch=epoch,
            batch=batch,
            loader=loaders.train.state_dict(batch),
            sums=sums.as_dict(),
            seconds=seconds,
            random=random_state(device),
        )

    for epoch in range(first_epoch, stage.epochs):
        loaders.train.set_epoch(epoch, state["loader"] if first_batch else None)
        train_only(model, stage.trains)
        watch = LossWatch(stage.name, epoch + 1, every=1 if device.type == "cpu" else 20)
        steps, started = len(loaders.train), time.monotonic()
        saved = started
        bar = tqdm(
            loaders.train,
            desc=f"{title} epoch {epoch + 1}/{stage.epochs}",
            total=steps,
            initial=first_batch,
            unit="batch",
            leave=False,
            dynamic_ncols=True,
        )
        for number, batch in enumerate(bar, first_batch):
            rate = stage.learning_rate * learning_rate_factor(
                epoch + number / steps, stage.epochs, training.warmup_epochs, training.final_learning_rate
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batch.to(device)
            with autocast(device):
                losses = objective(batch)
                total = sum(weight * losses[name] for name, weight in stage.losses.items() if weight)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
            averaged.update(model)
            sums.add(batch, losses, total)
            if watch.see(total, norm, batch.names):
                bar.set_postfix(loss=f"{watch.last:.3f}", refresh=False)
            if time.monotonic() - saved > 60 * training.save_minutes and number + 1 < steps:
                watch.check()
                saved = time.monotonic()
                seconds += saved - started
                started = saved
                save_state(epoch, number + 1)
        watch.check()
        seconds += time.monotonic() - started
        line = {
            "stage": stage.name,
            "epoch": epoch + 1,
            "learning_rate": rate,
            **sums.line(seconds),
        }
        if (epoch + 1) % training.validate_every == 0 or epoch + 1 == stage.epochs:
            started = time.monotonic()
            results = read_all(averaged.model, loaders.validation, device, loaders.domain, f"{title} validation")
            line["validation"] = score(results)
            line["validation_seconds"] = round(time.monotonic() - started, 1)
            about = {"epoch": epoch + 1, "validation": line["validation"]}
            if best is None or _rank(line["validation"]) >= _rank(best):
                best = line["validation"]
                run.save_weights(stage.name, "best", averaged.model.state_dict(), **about)
            run.save_weights(stage.name, "last", averaged.model.state_dict(), **about)
        run.log(line)
        sums, seconds, first_batch = EpochSums(), 0.0, 0
        if epoch + 1 < stage.epochs:
            save_state(epoch + 1, 0)
        tqdm.write(describe(line, title, stage.epochs))
        after_epoch()

    load_weights(model, load_checkpoint(run.best(stage.name)))
    run.save_state(stage.name, [*finished, stage.name])
    return best


def _rank(validation: dict[str, float]) -> tuple[float, float]:
    """Better is larger: more expressions right; among equals, fewer wrong tokens."""
    return validation["exrate"], -validation["token_error_rate"]


def describe(line: dict, title: str, epochs: int) -> str:
    """One line for a person about an epoch."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
    text = f"{title} epoch {line['epoch']}/{epochs}  {losses}  {line['pictures_per_second']:.0f} pictures/s"
    if "validation" in line:
        text += f"  validation ExpRate {line['validation']['exrate']:.1f} %"
        text += f"  wrong tokens {line['validation']['token_error_rate']:.1f} %"
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
    """What an epoch's log line is made of; kept on the device until the epoch ends."""

    def __init__(self, losses: dict | None = None, pictures: int = 0, pixels: int = 0, padded: int = 0, counts=()):
        self.losses = dict(losses or {})
        self.pictures, self.pixels, self.padded, self.counts = pictures, pixels, padded, list(counts)

    def add(self, batch: Any, losses: dict[str, torch.Tensor], total: torch.Tensor) -> None:
        for name, value in {**losses, "total": total}.items():
            self.losses[name] = self.losses.get(name, 0) + value.detach().float() * len(batch)
        self.pictures += len(batch)
        self.pixels += batch.pixels
        self.padded += batch.padded_pixels
        self.counts.append(len(batch))

    def as_dict(self) -> dict:
        return {
            "losses": {name: float(value) for name, value in self.losses.items()},
            "pictures": self.pictures,
            "pixels": self.pixels,
            "padded": self.padded,
            "counts": self.counts,
        }

    def line(self, seconds: float) -> dict:
        return {
            "losses": {name: round(float(value) / max(self.pictures, 1), 5) for name, value in self.losses.items()},
            "pictures": self.pictures,
            "batches": len(self.counts),
            "mean_batch": round(self.pictures / max(len(self.counts), 1), 2),
            "largest_batch": max(self.counts, default=0),
            "padding": round(1 - self.pixels / max(self.padded, 1), 4),
            "seconds": round(seconds, 2),
            "pictures_per_second": round(self.pictures / max(seconds, 1e-9), 1),
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
