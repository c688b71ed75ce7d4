"""Numbers that are none, in images, losses, gradients and averaged weights; and images and labels of extreme sizes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import torch

from dataset.formats.preparation import prepare
from tests.faults.campaign import Case, Kind
from tests.test_training import STAGE, TRAINING, Batches, Objective, Reader
from utils.errors import LossError, UserError
from utils.training.run_folder import Run, load_checkpoint
from utils.training.trainer import Loaders, StagePlan, Trainer

NUMBERS = (float("nan"), float("inf"), float("-inf"), 1e38)


class Spoiled(Objective):
    """At one step a loss, a gradient, a weight, or the averaged weights are no number."""

    def __init__(self, model: Reader, step: int, place: str, number: float):
        super().__init__(model)
        self.step, self.place, self.number, self.trainer = step, place, number, None

    def forward(self, batch) -> dict:
        losses = super().forward(batch)
        if self.calls != self.step:
            return losses
        weight = next(self.model.decoder.parameters())
        if self.place == "loss":
            return {"label": losses["label"] * self.number}
        if self.place == "gradient":
            return {"label": losses["label"] + 0 * (weight - weight.detach()).sum().sqrt()}  # 0, and 0 x infinity
        with torch.no_grad():
            target = weight if self.place == "weight" else next(self.trainer.ema.model.decoder.parameters())
            target.view(-1)[0] = self.number
        return losses


def make_training(folder: Path) -> Case:
    def case(random: random.Random, folder: Path) -> None:
        """Training ends in words, or all that it leaves is finite."""
        torch.manual_seed(7)
        model, run = Reader(), Run(folder / "run")
        run.begin({"seed": 1}, [], {"architecture": {}, "vocabulary": [], "data": {}})
        place = random.choice(("loss", "gradient", "weight", "average", "image"))
        objective = Spoiled(model, random.randint(1, 12) if place != "image" else 0, place, random.choice(NUMBERS[:3]))
        batches = Batches(spoil=random.randrange(4) if place == "image" else None)
        trainer = Trainer(
            objective, Loaders(batches, Batches(), "handwritten"), StagePlan(STAGE, 3, "stage"), TRAINING, run
        )
        objective.trainer = trainer
        try:
            trainer.fit()
        except LossError as error:
            assert "epoch" in str(error)
            for path in (folder / "run").glob("*.safetensors"):
                load_checkpoint(path)
            raise
        raise AssertionError(f"{place}: a number that is none was trained on in silence")

    return case


def make_sizes(folder: Path) -> Case:
    """Images of a pixel, or as long as a street, and labels of a thousand tokens: prepared and opened, or named."""
    from dataset.loading.loaders import open_data
    from tests.made_up_ink import settings
    from tests.test_reader import reader

    network = reader()
    sizes = ((1, 1), (1, 2), (2, 1), (3, 20_000), (20_000, 3), (1, 60_000), (8, 8), (16, 400), (3, 3))

    def image(random: random.Random) -> np.ndarray:
        height, width = random.choice(sizes)
        pixels = np.full((height, width), random.choice((0, 255, 128)), np.uint8)
        for _ in range(random.choice((0, 1, 50))):
            pixels[random.randrange(height), random.randrange(width)] = random.randrange(256)
        return pixels

    def case(random: random.Random, folder: Path) -> object:
        source = folder / "source" / "train"
        (source / "images").mkdir(parents=True)
        labels = []
        for number in range(6):
            pixels = image(random) if number else np.pad(np.zeros((20, 30), np.uint8), 9, constant_values=255)
            cv2.imwrite(str(source / "images" / f"{number}.png"), pixels)
            label = random.choice(("x", "x + y", "x " * 1000, "\\frac { x } { y } " * 250, "{ " * 50 + "x" + " }" * 50))
            labels.append(f"{number}\t{label}\n")
            if number:
                try:
                    read = network.prepare(pixels)
                    network.read_many([read])
                    network.explain([read.views[0].image], [["x"] * random.choice((1, 1000))])
                except UserError as error:
                    assert str(error), "an error without a word"
        (source / "labels.txt").write_text("".join(labels))
        bad = prepare(source.parent, folder / "NAME", progress=False)
        data = open_data(settings(folder / "NAME"), "NAME", 0)
        assert len(bad) + sum(data.counts().values()) >= 6, "an item is neither there nor named"
        return json.dumps([str(item) for item in bad])

    return case


KINDS = [Kind("numbers", make_training, share=10, cpu_seconds=5), Kind("sizes", make_sizes, share=4, cpu_seconds=10)]
