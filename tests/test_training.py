"""The training loop, with a model of a few numbers: what it promises about resuming, freezing and stopping."""

import gc
import math
import signal
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import utils.training.trainer
from utils.config.schema import StageConfig, TrainingConfig
from utils.errors import ConfigError, LossError
from utils.training.averaging import EMA, make_swa
from utils.training.clock import TrainingClock, stage_seconds
from utils.training.devices import choose_device
from utils.training.distributed import DistributedContext
from utils.training.optimization import batch_size_factor, learning_rate_factor, make_optimizer, train_only
from utils.training.run_folder import Run, load_checkpoint
from utils.training.stopping import Stopped
from utils.training.trainer import Loaders, StagePlan, Trainer

TRAINING = TrainingConfig(
    optimizer="adamw", weight_decay=1e-4, momentum=0.9, warmup_epochs=0.5, final_learning_rate=0.01, clip_norm=1.0,
    ema=0.9, swa_epochs=2, label_smoothing=0.0, validate_every=1, validation_images=10, save_minutes=1e-9,
)  # fmt: skip
STAGE = StageConfig(name="only", images="ink", trains=("decoder",), losses={"label": 1.0}, epochs=3, learning_rate=0.05)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Collecting garbage looks through all that pytest has loaded, after each failed attempt; here it need not."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Reader(nn.Module):
    """Learns to count ones: an encoder with BatchNorm and dropout, and a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def parts(self):
        return {"handwritten_encoder": [self.encoder], "decoder": [self.decoder]}

    def forward(self, images):
        return self.decoder(self.encoder(images)).squeeze(1)

    def read(self, images, padding, domain):
        return [Hypothesis([round(value)]) for value in self(images).tolist()]


@dataclass
class Hypothesis:
    tokens: list


@dataclass
class Batch:
    inputs: torch.Tensor
    indices: tuple

    def __post_init__(self):
        self.names = tuple(f"image {i}" for i in self.indices)
        self.pixels, self.padded_pixels, self.tokens = 3 * len(self), 4 * len(self), len(self)

    def __len__(self):
        return len(self.indices)

    def to(self, device):
        return self

    def images(self, domain):
        return self.inputs

    def padding(self, domain):
        return None

    def split(self):
        middle = len(self) // 2
        parts = slice(0, middle), slice(middle, None)
        return tuple(Batch(self.inputs[part], self.indices[part]) for part in parts)

    def references(self):
        return [[int(row.sum())] for row in self.inputs]


class Batches:
    """Batches of 5 out of 20, in an order of their own in every epoch."""

    def __init__(self, spoil=None):
        self.inputs = (torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        self.spoil, self.order, self.first = spoil, torch.arange(20), 0

    def set_epoch(self, epoch, state=None, progress=0.0):
        self.order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        self.first = state["position"] if state else 0

    def state_dict(self, batches_done):
        return {"position": batches_done}

    max_pixels, fetched_ahead = None, 0

    def __len__(self):
        return 4

    def __iter__(self):
        for number in range(self.first, 4):
            rows = self.order[5 * number : 5 * number + 5]
            inputs = self.inputs[rows].clone()
            if self.spoil == number:
                inputs[0] = math.nan
            yield Batch(inputs, tuple(rows.tolist()))


class Objective(nn.Module):
    units, indivisible, decodes = {"label": "tokens"}, (), True

    def count_units(self, batch):
        return {"tokens": batch.tokens, "images": len(batch)} if batch else {"tokens": 0, "images": 0}

    def __init__(self, model, stop_after=None):
        super().__init__()
        self.model, self.calls, self.stop_after = model, 0, stop_after

    def forward(self, batch):
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        return {"label": ((self.model(batch.inputs) - batch.inputs.sum(1)) ** 2).mean()}


def train(
    folder, stop_after=None, resume=False, stage=STAGE, spoil=None, seconds=None, training=TRAINING, config=None
) -> tuple[Reader, Run]:
    torch.manual_seed(7)
    model, run = Reader(), Run(folder)
    about = {"architecture": {}, "vocabulary": [], "data": {}}
    (run.resume if resume else run.begin)(config or {"seed": 1}, [], about)
    if not run.restore_finished(stage.name, model):
        loaders = Loaders(Batches(spoil), Batches(), "handwritten")
        plan = StagePlan(stage, 3, "stage", seconds)
        Trainer(Objective(model, stop_after), loaders, plan, training, run).fit()
    return model, run


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("stop_after", range(1, 13))
def test_a_stopped_and_resumed_run_ends_in_the_same_weights(tmp_path, stop_after):
    whole, run = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop_after=stop_after)
    resumed, again = train(tmp_path / "stopped", resume=True)
    assert same(whole, resumed)
    untimed = [
        [{key: line[key] for key in ("epoch", "losses", "validation", "images")} for line in each.lines()]
        for each in (run, again)
    ]
    assert untimed[0] == untimed[1]


BY_STEPS = replace(TRAINING, clock="steps", step_seconds=10.0)


def whole_and_resumed(tmp_path: Path, stop_after: int, **options) -> tuple[Run, Run]:
    """A run that was never stopped, and one that was and went on: both ended in the same weights."""
    whole, run = train(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop_after=stop_after, **options)
    resumed, again = train(tmp_path / "stopped", resume=True, **options)
    assert same(whole, resumed)
    return run, again


@pytest.mark.parametrize("stop_after", range(1, 11))
def test_a_stopped_and_resumed_run_by_counted_time_ends_in_the_same_weights(tmp_path, stop_after):
    """Ten steps: two epochs of four, and half of a third one."""
    run, again = whole_and_resumed(tmp_path, stop_after, seconds=100.0, training=BY_STEPS)
    untimed = [
        [(line["batches"], line["losses"], line.get("validation")) for line in each.lines()] for each in (run, again)
    ]
    assert untimed[0] == untimed[1]
    assert [batches for batches, *_ in untimed[0]] == [4, 4, 2]


def test_a_stage_by_time_ends_within_an_epoch_and_validates_there(tmp_path):
    _, run = train(tmp_path / "run", seconds=60.0, training=replace(BY_STEPS, validate_every=100))
    lines = run.lines()
    assert [(line["batches"], line["share_of_epoch"]) for line in lines] == [(4, 1.0), (2, 0.5)]
    assert ["validation" in line for line in lines] == [False, True]
    assert load_checkpoint(run.best("only")).about["validation"] == lines[-1]["validation"]


def test_a_stage_takes_a_step_however_little_time_it_has(tmp_path):
    _, run = train(tmp_path / "run", seconds=0.0, training=BY_STEPS)
    assert [line["batches"] for line in run.lines()] == [1]


def test_the_learning_rate_follows_the_share_of_the_time(tmp_path):
    """By time as by epochs: twelve steps, at the same rates. Fails when a rate is computed but never set."""
    rates = {}
    for name, seconds, training in (("epochs", None, TRAINING), ("time", 120.0, BY_STEPS)):
        seen = rates[name] = []
        with watched_optimizer(seen):
            train(tmp_path / name, seconds=seconds, training=training)
    assert len(rates["time"]) == 12
    assert rates["time"] == pytest.approx(rates["epochs"])
    wanted = [STAGE.learning_rate * learning_rate_factor(i / 12, 0.5 / 3, 0.01) for i in range(12)]
    assert rates["time"] == pytest.approx(wanted)


def test_a_stage_without_a_loss_of_the_decoder_is_not_validated_and_leaves_its_last_average(tmp_path, monkeypatch):
    monkeypatch.setattr(Objective, "decodes", False)
    seen = []
    monkeypatch.setattr(EMA, "update", lambda ema, own=EMA.update: (own(ema), seen.append(ema.model)))
    model, run = train(tmp_path / "run")
    assert len(run.lines()) == 3 and not any("validation" in line for line in run.lines())
    assert same(model, seen[-1])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", stop_after=7)
    assert same(model, train(tmp_path / "stopped", resume=True)[0])


@pytest.mark.parametrize("final", [None, 0.0, 0.5])
def test_a_stage_can_say_where_its_learning_rate_ends(tmp_path, final):
    seen = []
    with watched_optimizer(seen):
        train(tmp_path / "run", stage=replace(STAGE, final_learning_rate=final))
    used = 0.01 if final is None else final
    assert seen[-1] == pytest.approx(STAGE.learning_rate * learning_rate_factor(11 / 12, 0.5 / 3, used))


@contextmanager
def watched_optimizer(rates):
    """Notes the learning rate with which AdamW is asked to take each step."""
    step = torch.optim.AdamW.step

    def note(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", note)
        yield


@pytest.mark.parametrize("share", [None, 3.0])
def test_stages_share_the_minutes_and_pass_on_what_they_leave(share):
    stages = [replace(STAGE, name=name, epochs=epochs, share=share) for name, epochs in (("a", 1), ("b", 2), ("c", 3))]
    given = [stage_seconds(6, stages, i, {}) for i in range(1)]
    assert given == [60 if share is None else 120]
    assert stage_seconds(6, stages, 1, {"a": 110}) == (100 if share is None else 125)
    assert stage_seconds(6, stages, 2, {"a": 110, "b": 100}) == 150
    assert stage_seconds(6, stages, 2, {"a": 300, "b": 100}) == 0
    assert stage_seconds(None, stages, 0, {}) is None


def test_the_clock_counts_training_and_nothing_else(monkeypatch):
    now = {"monotonic": 0.0, "process_time": 0.0}

    def pass_time(seconds):
        now["monotonic"] += seconds
        now["process_time"] += seconds / 2

    for name in now:
        monkeypatch.setattr(f"utils.training.clock.time.{name}", lambda name=name: now[name])
    clocks = {kind: TrainingClock(kind, step_seconds=3) for kind in ("wall", "cpu", "steps")}
    for clock in clocks.values():
        pass_time(100)  # starting up
        clock.start()
        pass_time(4)
        clock.tick()
        clock.stop()
        pass_time(100)  # validating
        clock.start()
        pass_time(2)
        clock.tick()
    assert {kind: clock.seconds for kind, clock in clocks.items()} == {"wall": 6, "cpu": 3, "steps": 6}


def test_validating_takes_a_bounded_share_of_the_time(tmp_path):
    """An epoch is 40 s, a validation of its four batches 40 s, too: one in four epochs can have one, and the last."""
    _, run = train(tmp_path / "run", seconds=400.0, training=BY_STEPS)
    validated = ["validation" in line for line in run.lines()]
    assert len(validated) == 10 and validated[0] and validated[-1]
    assert sum(validated[:-1]) * 40 <= 0.2 * (400 + sum(validated) * 40)


INSIDE = replace(BY_STEPS, validate_minutes=0.25)


@pytest.fixture
def without_limit(monkeypatch):
    """Validations may take any share of the time."""
    monkeypatch.setattr("utils.training.trainer.MAX_VALIDATION_SHARE", 1.0)


def test_validating_inside_an_epoch_is_logged_with_its_time_and_changes_no_step(tmp_path, without_limit):
    """Steps of 10 s, epochs of four: due every 15 s, so after 20 s, and at the end of each epoch, as without it."""
    _, run = train(tmp_path / "inside", seconds=100.0, training=INSIDE)
    _, plain = train(tmp_path / "plain", seconds=100.0, training=BY_STEPS)
    seen = [[one["seconds_used"] for one in line.get("validations_inside", [])] for line in run.lines()]
    assert seen == [[20.0], [60.0], []]
    for line, other in zip(run.lines(), plain.lines(), strict=True):
        assert (line["losses"], line["validation"]) == (other["losses"], other["validation"])
    last = [(each.folder / "only-last.safetensors").read_bytes() for each in (run, plain)]
    assert last[0] == last[1]
    found = [scores for line in run.lines() for scores in [*line.get("validations_inside", []), line["validation"]]]
    best = max((scores["exprate"], -scores["token_error_rate"]) for scores in found)
    kept = load_checkpoint(run.best("only")).about["validation"]
    assert (kept["exprate"], -kept["token_error_rate"]) == best
    _, by_epochs = train(tmp_path / "epochs", training=replace(TRAINING, validate_minutes=1e-9))
    assert not any("validations_inside" in line for line in by_epochs.lines())


@pytest.mark.parametrize("stop_after", [1, 2, 3, 6, 7])
def test_a_stopped_run_that_validates_inside_epochs_resumes_with_what_it_found(tmp_path, without_limit, stop_after):
    run, again = whole_and_resumed(tmp_path, stop_after, seconds=100.0, training=INSIDE)

    def found(lines):
        return [[(one["seconds_used"], one["exprate"]) for one in line.get("validations_inside", [])] for line in lines]

    assert found(run.lines()) == found(again.lines()) != [[], [], []]


def test_validations_inside_epochs_take_a_bounded_share_of_the_time_too(tmp_path):
    _, run = train(tmp_path / "run", seconds=400.0, training=replace(INSIDE, validate_every=1000))
    inside = [one for line in run.lines() for one in line.get("validations_inside", [])]
    assert 0 < len(inside) * 40 <= 0.2 * (400 + len(inside) * 40)


def test_a_source_is_told_how_far_the_stage_is(tmp_path):
    told = {"epochs": [], "time": []}
    for name, seconds in (("epochs", None), ("time", 160.0)):

        class Told(Batches):
            def set_epoch(self, epoch, state=None, progress=0.0, seen=told[name]):
                seen.append(progress)
                super().set_epoch(epoch, state)

        run = Run(tmp_path / name)
        run.begin({}, [], {"architecture": {}, "vocabulary": [], "data": {}})
        loaders = Loaders(Told(), Batches(), "handwritten")
        Trainer(Objective(Reader()), loaders, StagePlan(STAGE, 3, "stage", seconds), BY_STEPS, run).fit()
    assert told == {"epochs": [0.0, 0.5, 1.0], "time": [0.0, 0.25, 0.5, 0.75]}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["in a step", "in a validation"])
def test_a_signal_saves_where_the_run_stands(tmp_path, number, code, where):
    whole, _ = train(tmp_path / "whole")
    training = replace(TRAINING, save_minutes=1e9)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 7:  # the third step of the second epoch, or the third batch of its validation
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
        name = "forward" if where == "in a step" else "read"
        kind = Objective if where == "in a step" else Reader
        before = getattr(kind, name)
        patch.setattr(kind, name, lambda self, *args, **kw: (interrupt(), before(self, *args, **kw))[1])
        train(tmp_path / "stopped", training=training)
    assert stopped.value.exit_code == code
    state = Run(tmp_path / "stopped")
    state.resume({"seed": 1}, [], {})
    assert (state.restored["epoch"], state.restored["step"]) == ((1, 3) if where == "in a step" else (1, 4))
    resumed, _ = train(tmp_path / "stopped", resume=True, training=training)
    assert same(whole, resumed)


def test_a_finished_run_can_be_made_longer(tmp_path):
    """With two epochs more it goes on from where it was, and its state of the first three is not lost."""
    stages = {"stages": [{"name": "only", "epochs": 3}]}
    _, run = train(tmp_path / "run", config=stages)
    longer = {"stages": [{"name": "only", "epochs": 5}]}
    _, again = train(tmp_path / "run", resume=True, stage=replace(STAGE, epochs=5), config=longer)
    assert [line["epoch"] for line in again.lines()] == [1, 2, 3, 4, 5]
    assert again.lines()[:3] == run.lines()[:3]
    with pytest.raises(ConfigError, match="stages.0.epochs .was 5, is 4"):
        train(tmp_path / "run", resume=True, stage=replace(STAGE, epochs=4), config=stages | {
            "stages": [{"name": "only", "epochs": 4}]})  # fmt: skip


def test_a_run_by_time_can_be_given_more_minutes(tmp_path):
    _, run = train(tmp_path / "run", seconds=60.0, training=BY_STEPS, config={"training": {"minutes": 1}})
    longer = {"training": {"minutes": 2}}
    _, run = train(tmp_path / "run", resume=True, seconds=120.0, training=BY_STEPS, config=longer)
    assert [line["batches"] for line in run.lines()] == [4, 2, 4, 2]
    assert run.lines()[-1]["seconds_used"] == 120


def test_clipping_bounds_what_a_step_changes(tmp_path):
    """By plain SGD the first step's length is the rate times the clipped norm: with 1e-3, a thousandth."""
    training = replace(TRAINING, optimizer="sgd", momentum=0.0, weight_decay=0.0, warmup_epochs=0.0)
    changes = {}
    for clip_norm in (1e-3, 1e-6):
        seen = []
        step = torch.optim.SGD.step

        def note(self, *arguments, seen=seen, step=step):
            before = torch.cat([p.detach().reshape(-1).clone() for group in self.param_groups for p in group["params"]])
            result = step(self, *arguments)
            after = torch.cat([p.detach().reshape(-1) for group in self.param_groups for p in group["params"]])
            seen.append(((after - before).norm() / self.param_groups[0]["lr"]).item())
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", note)
            train(tmp_path / str(clip_norm), training=replace(training, clip_norm=clip_norm))
        changes[clip_norm] = max(seen)
    assert changes[1e-3] == pytest.approx(1e-3, rel=0.01)
    assert changes[1e-6] == pytest.approx(1e-6, rel=0.2)


class TwoLosses(Objective):
    units = {"label": "tokens", "other": "images"}

    def forward(self, batch):
        losses = super().forward(batch)
        return losses | {"other": (self.model(batch.inputs) + 100).square().mean()}


def test_the_weight_of_a_loss_counts(tmp_path):
    """A loss of weight 0 changes nothing, though it is logged; one of weight 1 does; their log is the unweighted."""

    def train_with(losses, folder):
        torch.manual_seed(7)
        model, run = Reader(), Run(folder)
        run.begin({}, [], {"architecture": {}, "vocabulary": [], "data": {}})
        plan = StagePlan(replace(STAGE, losses=losses), 3, "stage")
        Trainer(TwoLosses(model), Loaders(Batches(), Batches(), "handwritten"), plan, TRAINING, run).fit()
        return model, run.lines()[0]["losses"]

    alone, _ = train_with({"label": 1.0}, tmp_path / "alone")
    unweighted, losses = train_with({"label": 1.0, "other": 0.0}, tmp_path / "zero")
    assert same(alone, unweighted)
    assert losses["total"] == pytest.approx(losses["label"], rel=1e-4) and losses["other"] > 1000
    weighted, losses = train_with({"label": 1.0, "other": 0.5}, tmp_path / "half")
    assert not same(alone, weighted)
    assert losses["total"] == pytest.approx(losses["label"] + 0.5 * losses["other"], rel=1e-4)


class ForgetfulObjective(Objective):
    """Runs out of memory when it is shown more than `limit` images at once."""

    def __init__(self, model, limit):
        super().__init__(model)
        self.limit, self.failures = limit, 0

    def forward(self, batch):
        losses = super().forward(batch)
        if len(batch) > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("made up")
        return losses


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_run_that_keeps_running_out_of_memory_ends_in_the_same_weights(tmp_path, limit):
    def train_with(limit, folder) -> tuple[Reader, Objective, Run]:
        torch.manual_seed(7)
        model, run = Reader(), Run(folder)
        model.decoder = nn.Linear(4, 1)  # without BatchNorm, whose statistics are a batch's own
        run.begin({}, [], {"architecture": {}, "vocabulary": [], "data": {}})
        objective, loaders = ForgetfulObjective(model, limit), Loaders(Batches(), Batches(), "handwritten")
        Trainer(objective, loaders, StagePlan(STAGE, 3, "stage"), TRAINING, run).fit()
        return model, objective, run

    whole, _, _ = train_with(10**9, tmp_path / "whole")
    pieces, objective, run = train_with(limit, tmp_path / "pieces")
    assert objective.failures >= 12
    for a, b in zip(whole.state_dict().values(), pieces.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert [line["splits"] for line in run.lines()] == [[[5, 20]] * 4] * 3


def test_two_runs_with_one_seed_agree(tmp_path):
    assert same(train(tmp_path / "a")[0], train(tmp_path / "b")[0])


def test_what_a_stage_does_not_train_stays_bit_identical(tmp_path):
    torch.manual_seed(7)
    before = Reader()
    after, _ = train(tmp_path / "run")
    assert same(before.encoder, after.encoder)
    assert not same(before.decoder, after.decoder)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    trained, _ = train(tmp_path / "run")
    restored, _ = train(tmp_path / "run", stop_after=1, resume=True)
    assert same(trained, restored)


def test_a_loss_that_is_not_finite_names_stage_epoch_and_images(tmp_path):
    with pytest.raises(LossError, match=r"stage only, epoch 1: the loss is nan.*image \d+, image"):
        train(tmp_path / "run", spoil=1)


def test_the_best_weights_are_those_of_the_best_validation(tmp_path):
    _, run = train(tmp_path / "run", stage=replace(STAGE, epochs=6))
    lines = run.lines()
    best = max(line["validation"]["exprate"] for line in [*lines, {"validation": lines[-1]["validation_of_swa"]}])
    assert load_checkpoint(run.best("only")).about["validation"]["exprate"] == best


def test_of_validations_with_equally_many_expressions_right_fewer_wrong_tokens_are_better(tmp_path, monkeypatch):
    errors = iter([0.5, 0.2, 0.4, 0.3])

    def made_up(predictions):
        return {"exprate": 50.0, "token_error_rate": next(errors)}

    monkeypatch.setattr(utils.training.trainer, "score", made_up)
    _, run = train(tmp_path / "run", stage=replace(STAGE, epochs=4), training=replace(TRAINING, swa_epochs=0))
    assert load_checkpoint(run.best("only")).about["validation"]["token_error_rate"] == 0.2


def test_the_learning_rate_warms_up_and_falls_and_never_jumps():
    factors = [learning_rate_factor(i / 1000, 0.1, 0.01) for i in range(1001)]
    assert factors[0] < 0.01
    assert max(factors) == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.01)
    assert max(abs(a - b) for a, b in zip(factors, factors[1:], strict=False)) < 0.02


@pytest.mark.parametrize(("optimizer", "scale"), [("sgd", 4.0), ("adamw", 2.0), ("muon", 2.0), ("adadelta", 2.0)])
def test_larger_batches_scale_the_rate_by_what_moves_the_weights(optimizer, scale):
    assert batch_size_factor(4000, 1000, optimizer) == scale
    assert batch_size_factor(1000, 4000, optimizer) == 1 / scale
    assert batch_size_factor(None, 4000, optimizer) == batch_size_factor(4000, None, optimizer) == 1


@pytest.mark.parametrize("processes", [1, 4])
def test_every_step_has_the_scaled_rate_warm_up_included(tmp_path, capsys, processes):
    """A step of all processes counts. Fails when a rate is computed but never set."""

    def rates(name: str, reference: int | None) -> list[float]:
        seen, batches = [], Batches()
        batches.max_pixels, batches.oversize = 400, 0
        (run := Run(tmp_path / name)).begin({"seed": 1}, [], {"architecture": {}, "vocabulary": [], "data": {}})
        torch.manual_seed(7)
        loaders = Loaders(batches, Batches(), "handwritten", None, reference)
        trainer = Trainer(Objective(Reader()), loaders, StagePlan(STAGE, 3, "stage"), TRAINING, run, context)
        context.world_size = 1  # the steps themselves are those of one process
        with watched_optimizer(seen):
            trainer.fit()
        return seen

    context = DistributedContext()
    plain = rates("plain", None)
    assert "learning rate" not in capsys.readouterr().out
    context.world_size = processes
    scaled = rates("scaled", 100)
    assert scaled == pytest.approx([2 * processes**0.5 * rate for rate in plain])
    assert (
        f"learning rate {0.1 * processes**0.5:.3g}, for steps of {400 * processes:,} pixels" in capsys.readouterr().out
    )


def test_averaged_weights_follow_the_model():
    model = nn.Linear(1, 1, bias=False)
    averaged = EMA(model, 0.5)
    start = model.weight.item()
    with torch.no_grad():
        model.weight += 1
    averaged.update()
    assert averaged.model.weight.item() == pytest.approx(start + 1 - 1 / 11)
    for _ in range(50):
        averaged.update()
    assert averaged.model.weight.item() == pytest.approx(start + 1)


def test_swa_is_the_mean_of_the_weights_and_of_the_statistics():
    model, swa = nn.BatchNorm1d(1), None
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(10 * value)
            model.num_batches_tracked.fill_(int(value))
        if swa is None:
            swa = make_swa(model)
        else:
            swa.update_parameters(model)
    assert swa.module.weight.item() == pytest.approx(3)
    assert swa.module.running_mean.item() == pytest.approx(30)
    assert swa.module.num_batches_tracked.item() == 6


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_swa_averages_as_many_epochs_as_the_config_says(tmp_path, monkeypatch, epochs):
    made = []

    def noted(model):
        made.append(make_swa(model))
        return made[-1]

    monkeypatch.setattr(utils.training.trainer, "make_swa", noted)
    train(tmp_path / "run", stage=replace(STAGE, epochs=5), training=replace(TRAINING, swa_epochs=epochs))
    assert [int(swa.n_averaged) for swa in made] == ([epochs] if epochs else [])


def test_frozen_parts_are_in_eval_mode():
    model = Reader().train()
    train_only(model, ("decoder",))
    assert not any(module.training for module in model.encoder.modules())
    assert all(module.training for module in model.decoder.modules())


@pytest.mark.parametrize("name", ["adamw", "sgd", "adadelta"])
def test_vectors_are_not_decayed(name):
    optimizer = make_optimizer(Reader(), STAGE, replace(TRAINING, optimizer=name))
    decays = {group["weight_decay"]: {p.dim() for p in group["params"]} for group in optimizer.param_groups}
    assert decays == {1e-4: {2}, 0.0: {1}}


def test_optimizers_get_their_own_settings():
    settings = {"sgd": {"momentum": 0.7}, "muon": {"muon_factor": 3.0}}
    made = {
        name: make_optimizer(Reader(), STAGE, replace(TRAINING, optimizer=name, **settings[name])) for name in settings
    }
    assert {group["momentum"] for group in made["sgd"].param_groups} == {0.7}
    assert {group["hidden_factor"] for group in made["muon"].param_groups} == {3.0}
    assert {group["weight_decay"] for group in made["muon"].param_groups if group["is_hidden"]} == {1e-4}
    assert any(group["is_hidden"] for group in made["muon"].param_groups)


def test_an_unusable_device_is_named():
    with pytest.raises(ConfigError, match="--device abacus"):
        choose_device("abacus")
