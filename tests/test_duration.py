"""How long a run will take is told before it starts, and measuring it changes nothing."""

from types import SimpleNamespace

import pytest
import torch

import utils.training.duration
from utils.training.duration import PADDED, EpochSize, describe_duration, stage_time, usual_batch
from utils.training.trial import trial_steps


class Objective(torch.nn.Module):
    """Draws random numbers, keeps BatchNorm's statistics, and notes how many images it saw."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        self.model.parts = lambda: {"decoder": [self.model]}
        self.seen = []

    def forward(self, batch):
        self.seen.append(len(batch))
        return {"label": self.model(batch).square().mean()}


STAGE = SimpleNamespace(name="ink", images="ink", trains=["decoder"], losses={"label": 1.0}, epochs=3)
EPOCH = EpochSize(images=100, height=20, width=50, tokens=7)


def test_trial_steps_leave_the_network_and_random_numbers_as_they_were():
    objective = Objective()
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    random = torch.get_rng_state()
    with trial_steps(objective, STAGE, torch.device("cpu")) as step:
        step(torch.randn(3, 4))
        step(torch.randn(3, 4))
    assert objective.seen == [3, 3]
    assert all(value.equal(before[name]) for name, value in objective.model.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    assert torch.get_rng_state().equal(random)


@pytest.mark.parametrize(("batch_images", "timed"), [(4, 4), (100, 8)])
def test_the_time_of_a_stage_is_that_of_a_usual_step_for_all_its_images(monkeypatch, batch_images, timed):
    times = iter([10.0, 12.0])  # a step of 2 seconds
    monkeypatch.setattr(utils.training.duration.time, "perf_counter", lambda: next(times))
    objective, made = Objective(), []

    def make_batch(count, *sizes):
        made.append((count, *sizes))
        return torch.randn(max(count, 2), 4)  # BatchNorm wants two

    assert stage_time(objective, STAGE, EPOCH, batch_images, make_batch) == pytest.approx(3 * 100 / timed * 2 * PADDED)
    assert made == [(1, 20, 50, 7, "ink"), (timed, 20, 50, 7, "ink")]


def test_a_usual_batch_has_the_images_that_the_configuration_asks_for():
    def images(batching, **batch):
        defaults = {"batch_size": 8, "max_pixels": "auto", "cpu_max_pixels": 5000, "max_samples": None}
        return usual_batch(SimpleNamespace(batch=SimpleNamespace(**defaults | batch)), batching, EPOCH)

    assert images("fixed") == 8
    assert images("adaptive") == 5  # 5000 pixels for images of 1000
    assert images("adaptive", max_pixels=20_000, max_samples=12) == 12
    assert images("adaptive", cpu_max_pixels=10) == 1


def test_a_long_run_is_told_with_what_to_do_about_it_and_a_short_one_without():
    stages = [STAGE, SimpleNamespace(name="clean")]
    (short,) = describe_duration(stages, [30, 60], None)
    assert short == "all stages will take about 1.5 min on this CPU (ink 30 s, clean 60 s), and validation besides"
    long, advice = describe_duration(stages, [4 * 3600, 9 * 86400], None)
    assert "about 9 days" in long and "ink 4.0 h" in long
    assert "--preset small" in advice and "--minutes" in advice
    _, advice = describe_duration(stages, [4 * 3600, 9 * 3600], "small")
    assert advice == "without a GPU: --minutes N trains by time"
