"""One loop for every stage: a Trainer trains what the stage names, on the given loaders, and keeps the best weights."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from utils.config.schema import Config, StageConfig, TrainingConfig
from utils.errors import CheckpointError, LossError, WorkerError
from utils.training.averaging import EMA, make_swa
from utils.training.clock import TrainingClock, describe_time, stage_seconds, validation_is_affordable
from utils.training.devices import autocast, random_state, restore_random_state, seed_everything
from utils.training.distributed import SINGLE_PROCESS, DistributedContext, mean_batch_norm, sum_gradients
from utils.training.epoch_log import EpochSums, LossWatch, describe
from utils.training.inference import Prediction, predict, score
from utils.training.interfaces import LabeledBatch, Loader, TrainingLoader
from utils.training.memory import Budget, MemoryModel, is_out_of_memory, run_in_pieces, take_step
from utils.training.optimization import (
    batch_size_factor,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    train_only,
    warmup_share,
)
from utils.training.progress import progress
from utils.training.report import log_sheet
from utils.training.run_folder import Run, load_checkpoint, load_weights
from utils.training.stopping import Stopped, StopSignals

# While training by time, all validations but a stage's last take at most this share of the time.
MAX_VALIDATION_SHARE = 0.2
LOSS_CHECK_STEPS = 20  # looking at a loss makes a GPU wait, so it is done so seldom


@dataclass
class Loaders:
    """What a stage reads: batches to learn from, batches to validate on, and which encoder reads the latter.

    domain: "standard" or "handwritten".   memory: what a step needs, where it was measured.
    reference_pixels: of a step that the learning rate is meant for, where it is to be scaled; see batch_size_factor.
    """

    train: TrainingLoader
    validation: Loader
    domain: str
    memory: MemoryModel | None = None
    reference_pixels: int | None = None


@dataclass(frozen=True)
class StagePlan:
    """A stage and its place in the run.

    seed: of dropout in this stage.   title: in front of what is printed about it.
    seconds: of training, as stage_seconds() gives them; None where it is trained by epochs.
    """

    stage: StageConfig
    seed: int
    title: str
    seconds: float | None = None

    @classmethod
    def of(cls, config: Config, index: int, seconds_used: Mapping[str, float]) -> StagePlan:
        """The plan of a stage by its index.   seconds_used: by the stages before it, by name."""
        stage, seed = config.stages[index], config.seed + index
        title = f"stage {index + 1}/{len(config.stages)} {stage.name}"
        return cls(stage, seed, title, stage_seconds(config.training.minutes, config.stages, index, seconds_used))


class Trainer:
    """Trains one stage: fit() leaves the model with the stage's best weights, chosen on validation.

    The stage ends after its epochs, or when its time is used, in the middle of an epoch if need be. A batch that runs
    out of memory is run in pieces that add up to the same gradient (utils/training/memory.py). A run that was stopped
    goes on from its last saved state, in the middle of an epoch too, and ends in the same weights as one never stopped
    (by time: where the clock counts steps).
    """

    def __init__(
        self,
        objective: nn.Module,
        loaders: Loaders,
        plan: StagePlan,
        training: TrainingConfig,
        run: Run,
        context: DistributedContext = SINGLE_PROCESS,
    ):
        """objective(batch) -> {loss name: mean over a unit of the batch, such as its tokens}; objective.units says over
        which, objective.count_units(batch) how many there are, objective.model is what learns; objective.decodes says
        whether any loss is of the decoder.
        """
        self.objective, self.model, self.loaders = objective, objective.model, loaders
        self.plan, self.stage, self.training, self.run, self.context = plan, plan.stage, training, run, context
        self.device = context.device
        train_only(self.model, self.stage.trains)
        self.learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.model, self.stage, training)
        self.ema = EMA(self.model, training.ema)
        self.swa: AveragedModel | None = None
        train = loaders.train
        self.budget = Budget(train.max_pixels, fetched_ahead=train.fetched_ahead) if train.max_pixels else None
        self.clock = TrainingClock(training.clock, training.step_seconds)
        self.seconds_used = 0.0  # by the first process's clock, in all processes
        self.validation_seconds = self.last_validation_seconds = 0.0
        self.best: dict[str, float] | None = None
        self.validations: list[dict[str, float]] = []  # inside the epoch under way, each with its `seconds_used`
        self.validated = 0.0  # seconds of the stage when the last validation began
        self.predictions: list[Prediction] = []  # of the last validation
        self.learning_rate = 0.0  # of the last step
        self.full_learning_rate = self.stage.learning_rate * self.scale_for_batches()
        self.epoch = self.step = 0  # epochs that are done, and steps of the one under way
        self.sums = EpochSums()
        self.loader_state: Mapping[str, Any] | None = None  # of an epoch that was begun before the run was stopped
        self.stop, self.stop_signal = StopSignals(), 0  # the latter is the first process's, in all processes
        seed_everything(plan.seed + 1000 * context.rank)

    def fit(self) -> dict[str, float] | None:
        """Train the stage, or what is left of it. Returns the best validation scores, if any.

        A stage none of whose losses is of the decoder is not validated; its last averaged weights are kept.

        Raises LossError when a loss is not finite, and Stopped after a signal, when the state is saved.
        """
        self.restore()
        with self.stop:
            while not self.is_over():
                self.train_epoch()
                self.end_epoch()
        self.context.wait()  # for the first process's files
        load_weights(self.model, load_checkpoint(self.run.best(self.stage.name)))
        return self.best

    def scale_for_batches(self) -> float:
        """What larger or smaller batches multiply the stage's learning rate by; other than 1, it is told."""
        reference = self.loaders.reference_pixels
        pixels = self.loaders.train.max_pixels and self.loaders.train.max_pixels * self.context.world_size
        scale = batch_size_factor(pixels, reference, self.training.optimizer)
        if scale != 1 and self.context.is_first:
            tqdm.write(
                f"{self.plan.title}: learning rate {scale * self.stage.learning_rate:.3g}, for steps of {pixels:,} "
                f"pixels instead of {reference:,}"
            )
        return scale

    # --- how far the stage is ---

    def is_over(self) -> bool:
        return self.time_is_used() if self.plan.seconds is not None else self.epoch >= self.stage.epochs

    def time_is_used(self) -> bool:
        """Whether the stage's time is used, where it has one; it takes one step at least."""
        if self.plan.seconds is None:
            return False
        return self.seconds_used >= self.plan.seconds and self.epoch + self.step > 0

    def progress(self, steps: int) -> float:
        """The share of the stage that has passed, 0 to 1.   steps: of this epoch."""
        if self.plan.seconds is not None:
            return min(self.seconds_used / self.plan.seconds, 1.0) if self.plan.seconds else 1.0
        return min((self.epoch + self.step / steps) / self.stage.epochs, 1.0)

    def mix_progress(self) -> float:
        """For sources whose mix changes from epoch to epoch: 0 in the first one, 1 in the last; by time, its share."""
        if self.plan.seconds is not None:
            return self.progress(1)
        return self.epoch / max(self.stage.epochs - 1, 1)

    def epoch_title(self) -> str:
        if self.plan.seconds is None:
            return f"{self.plan.title} epoch {self.epoch + 1}/{self.stage.epochs}"
        time_used, time_given = describe_time(self.seconds_used), describe_time(self.plan.seconds)
        return f"{self.plan.title} epoch {self.epoch + 1} ({time_used} of {time_given})"

    # --- steps ---

    def train_epoch(self) -> None:
        """Take the steps of an epoch, or those that are left of it, until the stage's time is used."""
        train = self.loaders.train
        train.set_epoch(self.epoch, self.loader_state, progress=self.mix_progress())
        self.loader_state = None
        train_only(self.model, self.stage.trains)
        self.watch = LossWatch(
            self.stage.name, self.epoch + 1, every=1 if self.device.type == "cpu" else LOSS_CHECK_STEPS
        )
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.saved = time.monotonic()
        with progress(train, self.epoch_title(), self.context, total=len(train), initial=self.step) as self.bar:
            for batch in self.fetched(self.bar):
                self.clock.start()  # in a stage's first epoch not before the first batch is there
                self.train_step(batch)
                self.count_step()
                if self.time_is_used():
                    break
                if self.is_time_to_validate():
                    self.validate_inside_epoch()
                if self.stop_signal or (self.is_time_to_save and self.step < len(train)):
                    self.save_or_stop()
        self.watch.check()
        self.clock.stop()

    def fetched(self, batches: Iterable[LabeledBatch | None]) -> Iterator[LabeledBatch | None]:
        """The batches, as long as a signal that ends the loader's workers as well has not come."""
        iterator = iter(batches)
        while not self.time_is_used():
            try:
                if self.stop.worker_error:
                    raise self.stop.worker_error
                batch = next(iterator)
                self.stop.let_workers_end()
                yield batch
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if self.stop.number and self.context.world_size == 1:  # workers that ended leave batches half sent
                    self.stop_signal = self.stop.number
                    self.save_or_stop()
                told = str(self.stop.worker_error or error)
                if not told.startswith("DataLoader worker (pid"):  # one that raised an error tells that one
                    raise
                raise WorkerError(f"{self.plan.title}: {_why_worker_ended(told)}") from error

    def train_step(self, batch: LabeledBatch | None) -> None:
        """One step of the optimizer over a batch of all processes; `batch` is this one's part, None for no image."""
        batch = batch.to(self.device) if batch is not None else None
        steps = len(self.loaders.train)
        final = self.stage.final_learning_rate
        final = self.training.final_learning_rate if final is None else final
        factor = learning_rate_factor(self.progress(steps), warmup_share(self.stage, self.training), final)
        self.learning_rate = self.full_learning_rate * factor
        set_learning_rate(self.optimizer, self.learning_rate)

        counts = self.counts(batch)
        results, was_split = run_in_pieces(
            batch,
            lambda piece: self.add_gradient(piece, counts),
            lambda: self.optimizer.zero_grad(set_to_none=True),
            self.context,
            self.objective.indivisible,
        )
        sum_gradients(self.learning, self.context)
        norm = nn.utils.clip_grad_norm_(self.learning, self.training.clip_norm)
        take_step(self.optimizer, self.device)
        mean_batch_norm(self.model, self.context)
        self.ema.update()

        if results:
            losses = {name: sum(piece[name] for piece, _ in results) for name in results[0][0]}
            total = sum(total for _, total in results)
            self.sums.add(batch, losses, total, counts["images"], was_split)
            if self.watch.see(total, norm, batch.names):
                self.bar.set_postfix(loss=f"{self.watch.last * self.context.world_size:.3f}", refresh=False)
        self.adapt_budget(batch, was_split)

    def counts(self, batch: LabeledBatch | None) -> dict[str, int | torch.Tensor]:
        """How many of each unit this step has in all processes; no GPU is waited for.

        Tokens and images are known from the plan that each process has made alike; other units, which a loss finds
        in its batch, are summed where they are.
        """
        own = self.objective.count_units(batch)
        if self.context.world_size == 1:
            return own
        planned = self.loaders.train.counts(self.step)  # a row for each process
        mine = dict(zip(("tokens", "images"), planned[self.context.rank].tolist(), strict=True))
        assert mine.items() <= own.items(), f"step {self.step}: the sampler's plan says {mine}, the batch has {own}"
        counts = dict(zip(("tokens", "images"), planned.sum(axis=0).tolist(), strict=True))
        others = {unit: number for unit, number in own.items() if unit not in counts}
        for unit, number in others.items():
            others[unit] = torch.zeros((), dtype=torch.float64, device=self.device).add_(number)
        self.context.sum_(others.values())
        return counts | others

    def add_gradient(
        self, piece: LabeledBatch, counts: Mapping[str, int | torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Forward and backward over a piece of a step. Returns its losses, and their weighted sum.

        counts: of the whole step in all processes; each loss is the piece's share of the mean over its unit.
        """
        shares = {unit: number / counts[unit] for unit, number in self.objective.count_units(piece).items()}
        with autocast(self.device, self.training.precision):
            losses = {name: loss * shares[self.objective.units[name]] for name, loss in self.objective(piece).items()}
            total = sum(weight * losses[name] for name, weight in self.stage.losses.items() if weight)
        total.backward()
        return {name: loss.detach() for name, loss in losses.items()}, total.detach()

    def adapt_budget(self, batch: LabeledBatch | None, was_split: bool) -> None:
        """Make the batches to come smaller after one that ran out of memory, and larger again after a while."""
        if not self.budget or not self.budget.record(was_split):
            return
        self.loaders.train.set_max_pixels(self.budget.max_pixels)
        if self.context.is_first:
            why = "out of memory" if was_split else "no batch ran out of memory for a while"
            size = f"{len(batch)} images, {batch.padded_pixels:,} padded pixels" if batch else "no images"
            tqdm.write(f"{self.plan.title}: {why} ({size}); from now on {self.budget.max_pixels:,} pixels a batch")

    def count_step(self) -> None:
        """Count the step that was just taken; the first process says what time it is, and whether to save or stop."""
        wall, cpu = self.clock.wall, self.clock.cpu
        self.clock.tick()
        self.sums.seconds += self.clock.wall - wall
        self.sums.cpu_seconds += self.clock.cpu - cpu
        self.step += 1
        is_due = time.monotonic() - self.saved > 60 * self.training.save_minutes
        told = self.context.from_first([self.clock.seconds, is_due, self.stop.number])
        self.seconds_used, self.is_time_to_save, self.stop_signal = told[0], bool(told[1]), int(told[2])

    # --- the end of an epoch ---

    def end_epoch(self) -> None:
        """Validate where it is time to, write the log's line and the state, and begin the next epoch's count."""
        self.check_weights()
        steps, is_last = len(self.loaders.train), self.is_last_epoch()
        line = self.log_line(steps)
        if self.validates_now(is_last):
            started = time.monotonic(), time.process_time()
            line["validation"] = self.validate_or_stop()
            self.validated = self.seconds_used
            about = {"epoch": self.epoch + 1, "validation": line["validation"]}
            self.run.save_weights(self.stage.name, "last", self.ema.model.state_dict(), **about)
            self.update_swa(steps)
            if is_last and self.swa and self.swa.n_averaged > 1:
                line["validation_of_swa"] = self.validate(self.swa.module)
            line["validation_seconds"] = line.get("validation_seconds", 0.0) + self.count_validation(*started)
            log_sheet(self.run, self.stage.name, self.predictions, self.loaders.validation)
        else:
            self.update_swa(steps)
        if is_last and not self.objective.decodes:
            self.run.save_weights(self.stage.name, "best", self.ema.model.state_dict(), epoch=self.epoch + 1)
        self.run.log(line)
        if self.context.is_first:
            tqdm.write(describe(line, self.epoch_title()))
        self.epoch, self.step, self.sums, self.validations = self.epoch + 1, 0, EpochSums(), []
        self.save_state(is_finished=is_last)
        (self.stop_signal,) = map(int, self.context.from_first([self.stop.number]))
        if self.stop_signal:
            raise Stopped(self.stop_signal)
        self.clock.start()

    def is_last_epoch(self) -> bool:
        return self.time_is_used() if self.plan.seconds is not None else self.epoch + 1 == self.stage.epochs

    def validates_now(self, is_last: bool) -> bool:
        """Whether this epoch ends with a validation: a stage's last one always, and by time only when it is short.

        Never where no loss is of the decoder: it cannot read yet.
        """
        if not self.objective.decodes:
            return False
        if is_last or self.plan.seconds is None:
            return is_last or (self.epoch + 1) % self.training.validate_every == 0
        return self.can_afford_validation() and (self.epoch + 1) % self.training.validate_every == 0

    def can_afford_validation(self) -> bool:
        return validation_is_affordable(
            self.validation_seconds, self.last_validation_seconds, self.seconds_used, MAX_VALIDATION_SHARE
        )

    def is_time_to_validate(self) -> bool:
        """Whether `validate_minutes` of training by time have passed since the last validation; see validates_now()."""
        if self.training.validate_minutes is None or self.plan.seconds is None or not self.objective.decodes:
            return False
        is_due = self.seconds_used - self.validated >= 60 * self.training.validate_minutes
        is_inside = self.step < len(self.loaders.train)  # else the epoch's own validation comes at once
        return is_due and is_inside and self.can_afford_validation()

    def validate_inside_epoch(self) -> None:
        """Validate, for the epoch's log line; training goes on as if nothing had been."""
        self.clock.stop()
        self.watch.check()
        started = time.monotonic(), time.process_time()
        scores = self.validate_or_stop()
        self.validated = self.seconds_used
        times = {"seconds_used": round(self.seconds_used, 2), "validation_seconds": self.count_validation(*started)}
        self.validations.append(times | scores)
        self.save_state()  # the best weights may be new, and the state says which those are
        self.saved = time.monotonic()
        self.clock.start()

    def validate_or_stop(self) -> dict[str, float]:
        """validate() the averaged weights; a signal ends it at once, for the epoch's end can be repeated."""
        if self.context.world_size > 1:  # all must come through together
            return self.validate(self.ema.model)
        try:
            with self.stop.raised_at_once():
                return self.validate(self.ema.model)
        except Stopped:
            self.save_state()
            raise

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Scores of a model on the validation images; its weights are kept where none were better."""
        title = f"{self.plan.title} validation"
        loaders = self.loaders
        self.predictions = predict(model, loaders.validation, self.device, loaders.domain, title, self.context)
        scores = score(self.predictions)
        if self.best is None or _rank(scores) >= _rank(self.best):
            self.best = scores
            about = {"epoch": self.epoch + 1, "validation": scores}
            self.run.save_weights(self.stage.name, "best", model.state_dict(), **about)
        return scores

    def count_validation(self, wall_started: float, cpu_started: float) -> float:
        """Count what validating took, as the first process saw it. Returns its seconds of wall time."""
        wall, cpu = time.monotonic() - wall_started, time.process_time() - cpu_started
        seconds = self.clock.cost_of_validation(wall, cpu, len(self.loaders.validation))
        (self.last_validation_seconds,) = self.context.from_first([seconds])
        self.validation_seconds += self.last_validation_seconds
        return round(wall, 1)

    def update_swa(self, steps: int) -> None:
        """Add the averaged weights to their mean over the last epochs; by time, over the same share of the stage."""
        first = 1 - self.training.swa_epochs / self.stage.epochs
        passed = self.progress(steps) if self.plan.seconds is not None else (self.epoch + 1) / self.stage.epochs
        if passed <= first + 1e-9:
            return
        if self.swa is None:
            self.swa = make_swa(self.ema.model)
        else:
            self.swa.update_parameters(self.ema.model)

    def log_line(self, steps: int) -> dict[str, Any]:
        parts = self.context.gather([self.sums.as_dict()])
        line = {"stage": self.stage.name, "epoch": self.epoch + 1, "learning_rate": self.learning_rate}
        line |= EpochSums.line(parts)
        if self.plan.seconds is not None:
            line |= {"seconds_used": round(self.seconds_used, 2), "share_of_epoch": round(self.step / steps, 4)}
        if self.validations:
            seconds = round(sum(one["validation_seconds"] for one in self.validations), 1)
            line |= {"validations_inside": self.validations, "validation_seconds": seconds}
        if self.budget:
            line |= {"max_pixels": self.budget.max_pixels, "oversize": self.loaders.train.oversize}
        if self.device.type == "cuda":
            line["peak_memory"] = torch.cuda.max_memory_allocated(self.device)
        if self.loaders.memory:
            line["peak_memory_predicted"] = int(self.loaders.memory.predict(line["largest_padded"]))
        return line

    # --- what a run that was stopped goes on from ---

    def save_or_stop(self) -> None:
        """Save where the epoch stands; the clock does not count it. After a signal, raises Stopped."""
        self.clock.stop()
        self.watch.check()
        self.save_state()
        if self.stop_signal:
            raise Stopped(self.stop_signal)
        self.saved = time.monotonic()
        self.clock.start()

    def check_weights(self) -> None:
        """Raises LossError where a weight, or its average, is not finite: nobody could go on from it, or read."""
        for what, model in (("weights", self.model), ("averaged weights", self.ema.model)):
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise LossError(
                        f"stage {self.stage.name}, epoch {self.epoch + 1}: the {what} {name} are not finite; a smaller "
                        "learning_rate or clip_norm may help"
                    )

    def save_state(self, is_finished: bool = False) -> None:
        self.check_weights()
        own = {"random": random_state(self.device), "sums": self.sums.as_dict()}
        self.run.save_state(
            self.stage.name,
            is_finished,
            model=self.model.state_dict(),
            ema=self.ema.state_dict(),
            swa=self.swa.state_dict() if self.swa else None,
            optimizer=self.optimizer.state_dict(),
            best=self.best,
            learning_rate=self.learning_rate,
            epoch=self.epoch,
            step=self.step,
            loader=self.loaders.train.state_dict(self.step) if self.step else None,
            budget=self.budget.state_dict() if self.budget else None,
            clock=self.clock.state_dict(),
            seconds_used=self.seconds_used,
            validation_seconds=[self.validation_seconds, self.last_validation_seconds],
            validations=self.validations,
            validated=self.validated,
            processes=self.context.gather([own]),
        )

    def restore(self) -> None:
        """Go on where the run's saved state stands, if it has one of this stage."""
        state = self.run.state_of(self.stage.name)
        if state is None:
            return
        try:
            self.load_state(state)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckpointError(
                f"{self.run.folder / 'state.pt'}: damaged, so the run cannot resume ({reason})"
            ) from error

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.learning_rate = state["best"], state["learning_rate"]
        self.epoch, self.step, self.loader_state = state["epoch"], state["step"], state["loader"]
        if not (type(self.epoch) is type(self.step) is int and isinstance(self.loader_state, dict | None)):
            raise TypeError("epoch, step or loader")
        if self.best is not None:
            _rank(self.best)
        self.clock.load_state_dict(state["clock"])
        self.seconds_used = state["seconds_used"]
        self.validation_seconds, self.last_validation_seconds = state["validation_seconds"]
        self.validations, self.validated = state.get("validations", []), state.get("validated", 0.0)  # since version 2
        if state["swa"] and not self.run.is_extended:  # a longer stage has its last epochs later
            self.swa = make_swa(self.ema.model)
            self.swa.load_state_dict(state["swa"])
        if self.budget:
            self.budget.load_state_dict(state["budget"])
            self.loaders.train.set_max_pixels(self.budget.max_pixels)
        if len(state["processes"]) == self.context.world_size:  # with another number, random numbers start again
            own = state["processes"][self.context.rank]
            restore_random_state(own["random"], self.device)
            self.sums = EpochSums(**own["sums"])


def _why_worker_ended(told: str) -> str:
    """What a person should know.   told: by torch, `DataLoader worker (pid 7) is killed by signal: Killed. …`."""
    how = told.partition(". ")[0].strip(" .").replace("DataLoader worker", "a process that reads images")
    return (
        f"{how}. The system kills one where memory or shared memory (/dev/shm) has run out; fewer of them "
        "(data.workers) need less. --resume goes on from the last saved state"
    )


def _rank(validation: dict[str, float]) -> tuple[float, float]:
    """Better is larger: more expressions right; among equals, fewer wrong tokens."""
    return validation["exprate"], -validation["token_error_rate"]
