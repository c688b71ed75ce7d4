"""Memory that runs out in three of ten steps, validations, readings and optimizer steps: the weights are the same."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.faults.campaign import Case, Kind
from tests.test_reader import reader, written
from tests.test_training import STAGE, TRAINING, Batches, Objective, Reader
from utils.errors import MemoryLimitError
from utils.training.run_folder import Run
from utils.training.trainer import Loaders, StagePlan, Trainer

SHARE = 0.3
WORDS = (
    "CUDA out of memory. Tried to allocate 2 GiB",
    "MPS backend out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)


class Faults:
    """Says at random that memory ran out, and not again in the same place at once: as when something else had it."""

    def __init__(self, random: random.Random):
        self.random, self.number = random, 0
        self._spared: set[str] = set()
        self.is_due = False  # in this step

    def maybe(self, place: str) -> None:
        if place in self._spared:
            self._spared.remove(place)
        elif self.random.random() < SHARE:
            self._spared.add(place)
            self.fail()

    def begin_step(self) -> None:
        self.is_due = self.random.random() < SHARE

    def in_step(self) -> None:
        if self.is_due and self.random.random() < 0.5:  # at the beginning of the first attempt, or at its end
            self.is_due = False
            self.fail()

    def fail(self) -> None:
        self.number += 1
        raise self.random.choice((torch.OutOfMemoryError, RuntimeError, MemoryError))(self.random.choice(WORDS))


def train(folder: Path, faults: Faults | None, optimizer: str) -> tuple[Reader, Run]:
    """A run whose steps and validations fail now and then; without BatchNorm, which would see some images twice."""
    torch.manual_seed(7)
    model, run = Reader(), Run(folder)
    model.decoder = nn.Linear(4, 1)
    run.begin({}, [], {"architecture": {}, "vocabulary": [], "data": {}})
    objective = Objective(model)
    training = TRAINING.__class__(**{**TRAINING.__dict__, "optimizer": optimizer})
    trainer = Trainer(
        objective, Loaders(Batches(), Batches(), "handwritten"), StagePlan(STAGE, 3, "stage"), training, run
    )
    if faults:
        forward, read, step = objective.forward, model.read, trainer.optimizer.step
        counts = trainer.counts
        trainer.counts = lambda batch: (faults.begin_step(), counts(batch))[1]
        objective.forward = lambda batch: (faults.in_step(), forward(batch), faults.in_step())[1]
        model.read = lambda *rest, **more: (faults.maybe("validation"), read(*rest, **more))[1]
        trainer.optimizer.step = lambda: (faults.maybe("optimizer"), step())[1]
    trainer.fit()
    return model, run


def make_training(folder: Path) -> Case:
    optimizers = ("adamw", "sgd", "muon")
    whole = {name: train(folder / name, None, name) for name in optimizers}

    def case(random: random.Random, folder: Path) -> None:
        name, faults = random.choice(optimizers), Faults(random)
        try:
            model, run = train(folder / "run", faults, name)
        except MemoryLimitError as error:
            raise AssertionError(f"{name}: gave up after {faults.number} faults") from error
        assert faults.number > 0
        for (key, wanted), found in zip(whole[name][0].state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.allclose(wanted, found, atol=1e-5), f"{name}: another {key} after {faults.number} faults"
        assert [line["images"] for line in run.lines()] == [20] * 3, "images were skipped"
        assert [line["validation"]["items"] for line in run.lines()] == [20] * 3

    return case


def make_reading(folder: Path) -> Case:
    network = reader()
    images = [written(seed, 60 + seed, 150 + 20 * seed) for seed in range(6)]
    whole = [reading.latex for reading in network.read_many(images)]
    encode = network.model.encode

    def case(random: random.Random, folder: Path) -> None:
        faults = Faults(random)
        network.model.encode = lambda *rest, **more: (faults.maybe("reading"), encode(*rest, **more))[1]
        assert [reading.latex for reading in network.read_many([np.array(image) for image in images])] == whole

    return case


KINDS = [
    Kind("memory", make_training, share=3, cpu_seconds=5),
    Kind("memory_reading", make_reading, share=4, cpu_seconds=5),
]
