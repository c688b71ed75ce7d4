"""The training loop, with a model of a few numbers: what it promises about resuming, freezing and stopping."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from utils.config.schema import StageConfig, TrainingConfig
from utils.errors import ConfigError, LossError
from utils.training.averaging import EMA, make_swa
from utils.training.devices import choose_device
from utils.training.optimization import learning_rate_factor, make_optimizer, train_only
from utils.training.run_folder import Run, load_checkpoint
from utils.training.trainer import Loaders, StagePlan, Trainer

TRAINING = TrainingConfig(
    optimizer="adamw", weight_decay=1e-4, momentum=0.9, warmup_epochs=0.5, final_learning_rate=0.01, clip_norm=1.0,
    ema=0.9, swa_epochs=2, label_smoothing=0.0, validate_every=1, validation_pictures=10, save_minutes=1e-9,
)  # fmt: skip
STAGE = StageConfig(
    name="only", pictures="ink", trains=("decoder",), losses={"label": 1.0}, epochs=3, learning_rate=0.05
)


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
        self.names = tuple(f"picture {i}" for i in self.indices)
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

    def truths(self):
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
    units = {"label": "tokens"}

    def __init__(self, model, stop_after=None):
        super().__init__()
        self.model, self.calls, self.stop_after = model, 0, stop_after

    def forward(self, batch):
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        return {"label": ((self.model(batch.inputs) - batch.inputs.sum(1)) ** 2).mean()}


def train(
    folder, stop_after=None, resume=False, stage=STAGE, spoil=None, seconds=None, training=TRAINING
) -> tuple[Reader, Run]:
    torch.manual_seed(7)
    model, run = Reader(), Run(folder)
    about = {"architecture": {}, "vocabulary": [], "data": {}}
    (run.resume if resume else run.begin)({"seed": 1}, [], about)
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
        [{key: line[key] for key in ("epoch", "losses", "validation", "pictures")} for line in each.lines()]
        for each in (run, again)
    ]
    assert untimed[0] == untimed[1]


class ForgetfulObjective(Objective):
    """Runs out of memory when it is shown more than `limit` pictures at once."""

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


def test_a_loss_that_is_not_finite_names_stage_epoch_and_pictures(tmp_path):
    with pytest.raises(LossError, match=r"stage only, epoch 1: the loss is nan.*picture \d+, picture"):
        train(tmp_path / "run", spoil=1)


def test_the_best_weights_are_those_of_the_best_validation(tmp_path):
    _, run = train(tmp_path / "run", stage=replace(STAGE, epochs=6))
    lines = run.lines()
    best = max(line["validation"]["exprate"] for line in [*lines, {"validation": lines[-1]["validation_of_swa"]}])
    assert load_checkpoint(run.best("only")).about["validation"]["exprate"] == best


def test_the_learning_rate_warms_up_and_falls_and_never_jumps():
    factors = [learning_rate_factor(i / 1000, 0.1, 0.01) for i in range(1001)]
    assert factors[0] < 0.01
    assert max(factors) == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.01)
    assert max(abs(a - b) for a, b in zip(factors, factors[1:], strict=False)) < 0.02


def test_averaged_weights_follow_the_model():
    model = nn.Linear(1, 1, bias=False)
    averaged = EMA(model, 0.5)
    start = model.weight.item()
    with torch.no_grad():
        model.weight += 1
    averaged.update(model)
    assert averaged.model.weight.item() == pytest.approx(start + 1 - 1 / 11)
    for _ in range(50):
        averaged.update(model)
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


def test_an_unusable_device_is_named():
    with pytest.raises(ConfigError, match="--device abacus"):
        choose_device("abacus")
