"""How long a run will take on a CPU, told before it starts: one step of each stage is timed, and multiplied."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from utils.config.schema import Config, StageConfig
from utils.training.clock import describe_time
from utils.training.interfaces import LabeledBatch
from utils.training.trial import trial_steps

LONG = 12 * 3600  # seconds: a run that somebody would rather hear about before it starts
PADDED = 1.2  # pixels of a batch for each pixel of its images, where images of like size go together
MAX_TIMED_IMAGES = 8  # in the step that is timed: enough for the usual speed, and soon done


class EpochSize(NamedTuple):
    """What an epoch of a stage shows: so many images, of this height and width on average, and tokens a label."""

    images: int
    height: int
    width: int
    tokens: int


def stage_time(
    objective: nn.Module,
    stage: StageConfig,
    epoch: EpochSize,
    batch_images: int,
    make_batch: Callable[[int, int, int, int, str], LabeledBatch],
    precision: str = "auto",
) -> float:
    """Seconds of training that a stage takes on the CPU for all of its epochs. Nothing of the network is changed.

    batch_images: of a usual step.   make_batch(count, height, width, tokens, kind of images): a batch to measure with.
    """
    count = min(batch_images, MAX_TIMED_IMAGES)
    sizes = epoch.height, epoch.width, epoch.tokens
    with trial_steps(objective, stage, torch.device("cpu"), precision) as step:
        step(make_batch(1, *sizes, stage.images))  # the first one of all also loads libraries
        batch = make_batch(count, *sizes, stage.images)
        started = time.perf_counter()
        step(batch)
        seconds = time.perf_counter() - started
    return stage.epochs * epoch.images / count * seconds * PADDED


def usual_batch(config: Config, batching: str, epoch: EpochSize) -> int:
    """Images of a usual step on the CPU, at least 1."""
    if batching == "fixed":
        return config.batch.batch_size
    pixels = config.batch.cpu_max_pixels if config.batch.max_pixels == "auto" else config.batch.max_pixels
    return max(1, min(pixels // (epoch.height * epoch.width), config.batch.max_samples or math.inf))


def describe_duration(stages: Sequence[StageConfig], seconds: Sequence[float], preset: str | None) -> Iterator[str]:
    """What a person should know about a run's time, a line each.   seconds: of each stage.   preset: of the run."""
    parts = ", ".join(f"{stage.name} {describe_time(part)}" for stage, part in zip(stages, seconds, strict=True))
    yield f"all stages will take about {describe_time(sum(seconds))} on this CPU ({parts}), and validation besides"
    if sum(seconds) > LONG:
        smaller = "" if preset == "small" else "--preset small trains a small network in hours; "
        yield f"without a GPU: {smaller}--minutes N trains by time"
