"""Where the predictions of an evaluation are from: a checkpoint that reads images, or a file of anybody's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.errors import CheckpointError, DataError
from utils.evaluation.scores import Prediction
from utils.reading.images import normalize_image, read_image
from utils.reading.reader import Decoded, Prepared, Reader, Search, as_array
from utils.training.distributed import SINGLE_PROCESS
from utils.training.progress import progress

MAX_AT_ONCE = 256  # images in memory


class Source(Protocol):
    """Predictions by name, and what is known about them.

    failed: {name: reason} where something went wrong.   about: entries of scores.json.   stride: of the attention.
    """

    predictions: dict[str, Prediction]
    failed: dict[str, str]
    about: dict[str, Any]
    stride: int

    def image(self, name: str) -> np.ndarray | None:
        """uint8 (H, W), ink 255 on paper 0, as the network saw it; None where there is none."""

    def explain(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By name, of the predictions: confidences (L,) and attention (L, h, w)."""


class FileSource:
    """Predictions that somebody wrote down."""

    stride = 1

    def __init__(self, file: str, predictions: dict[str, Prediction], images: Mapping[str, Path]):
        self.predictions, self.images = predictions, images
        self.failed: dict[str, str] = {}
        of_networks = ("search", "confidence_exponent", "clean", "cleaned", "device", "seconds", "images_per_second")
        self.about = {"predictions": file} | dict.fromkeys(of_networks)

    def image(self, name: str) -> np.ndarray | None:
        try:
            return normalize_image(read_image(self.images[name])) if name in self.images else None
        except DataError as error:
            print(f"no image in the report: {error}", file=sys.stderr)
            return None

    def explain(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}


class CheckpointSource:
    """Predictions of a network, which reads the images when this is made."""

    def __init__(self, checkpoint: str, reader: Reader, images: Mapping[str, Path], failed: Mapping[str, str],
                 search: Search, clean: str, max_images: int | None = None):  # fmt: skip
        """images: files by name.   failed: why those of other items are missing.   max_images: in a batch.

        Raises CheckpointError where not a single image could be read.
        """
        self.reader, self.images, self.failed = reader, images, dict(failed)
        self.clean, self.max_images = clean, max_images
        self.stride = reader.model.handwritten_encoder.stride
        self.predictions: dict[str, Prediction] = {}
        self.views: dict[str, int] = {}  # which guess of an image's size and skew was read
        cleaned, started = 0, time.monotonic()
        for names, prepared in self._prepare_all(list(images)):
            cleaned += sum(one.is_cleaned for one in prepared)
            self._read(names, prepared, search)
        seconds = time.monotonic() - started
        if not self.predictions:
            name, reason = next(iter(self.failed.items()))
            raise CheckpointError(f"{checkpoint}: could not read a single image; {name}: {reason}")
        self.about = {
            "checkpoint": checkpoint,
            "search": reader.describe(search),
            "confidence_exponent": reader.confidence_exponent,
            "clean": clean,
            "cleaned": cleaned,
            "device": str(reader.device or "onnxruntime"),
            "seconds": round(seconds, 2),
            "images_per_second": round(len(self.predictions) / seconds, 2),
        }

    def image(self, name: str) -> np.ndarray | None:
        view = self.views.get(name, 0)
        try:
            return self._prepare(name).views[view].image if name in self.images else None
        except DataError:  # told already
            return None

    def explain(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        names = [name for name in names if name in self.predictions]
        images = [self.image(name) for name in names]
        tokens = [self.predictions[name].tokens for name in names]
        found = self.reader.explain(images, tokens, self.max_images)
        return {
            name: (as_array(explanation.confidences), as_array(explanation.attention))
            for name, explanation in zip(names, found, strict=True)
        }

    def _prepare(self, name: str) -> Prepared:
        label = f"{self.images[name].parent.name}/{self.images[name].name}"
        return self.reader.prepare(self.images[name], label, self.clean)

    def _prepare_all(self, names: Sequence[str]) -> Iterator[tuple[list[str], list[Prepared]]]:
        """Some images at a time; cleaning needs no GIL, so threads share it. What cannot be read goes to `failed`."""

        def prepare(name: str) -> Prepared | str:
            try:
                return self._prepare(name)
            except DataError as error:
                return str(error)

        starts = range(0, len(names), MAX_AT_ONCE)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in progress(starts, "reading", SINGLE_PROCESS):
                some = names[start : start + MAX_AT_ONCE]
                found = dict(zip(some, pool.map(prepare, some), strict=True))
                self.failed |= {name: reason for name, reason in found.items() if isinstance(reason, str)}
                good = [name for name in some if name not in self.failed]
                yield good, [found[name] for name in good]

    def _read(self, names: Sequence[str], prepared: Sequence[Prepared], search: Search) -> None:
        def fail(index: int, error: Exception) -> None:
            self.failed[names[index]] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

        decoded = self.reader.decode(prepared, search, max_images=self.max_images, on_failure=fail)
        for name, found in zip(names, decoded, strict=True):
            if found is not None:
                self.predictions[name], self.views[name] = self._prediction(found), found.view

    def _prediction(self, decoded: Decoded) -> Prediction:
        best, decode = decoded.hypothesis, self.reader.vocabulary.decode
        others = tuple((decode(other.tokens), other.score) for other in best.alternatives)
        return Prediction(decode(best.tokens), best.score, best.is_truncated, others)
