"""A small data set whose strokes are known, and settings to read it with."""

import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from dataset.formats.inkml import Symbol, draw_traces
from dataset.images.strokes import StrokeWriter, strokes_of
from utils.config.loading import load_config

ROOT = Path(__file__).resolve().parents[1]
LABELS = ["x ^ { 2 }", "a + b", r"\frac { 1 } { 2 }", "x", r"\sqrt { y }", "b = a", "2 x", "1 + 1", "a ^ { x }", "y"]


def settings(folder: Path, **changes) -> SimpleNamespace:
    values = {"root": str(folder.parent), "image_scale": 1.0, "max_height": 512, "max_width": 512, "scales": (1.0,)}
    return SimpleNamespace(
        **{**values, "validation_share": 0.3, "workers": 0, "symbols": (), "chinese_font": None, **changes}
    )


def write_ink(folder: Path) -> Path:
    """The labels, written by three people: a stroke for each token that leaves ink, from left to right."""
    (folder / "train" / "images").mkdir(parents=True)
    random, lines = np.random.default_rng(0), []
    with StrokeWriter(folder / "train" / "strokes") as writer:
        for number, label in enumerate(LABELS):
            places = [place for place, token in enumerate(label.split()) if token not in "{}^_"]
            for copy in range(3):
                traces = [random.uniform(0, 20, (9, 2)) + [30 * place, 0] for place in places]
                symbols = [Symbol("x", (trace,), place) for trace, place in enumerate(places)]
                name = f"ink_{number}_{copy}"
                cv2.imwrite(str(folder / "train" / "images" / f"{name}.png"), draw_traces(traces))
                writer.add(name, strokes_of(traces, symbols))
                lines.append(f"{name}\t{label}\n")
    (folder / "train" / "labels.txt").write_text("".join(lines))
    tokens = sorted({token for label in LABELS for token in label.split()})
    (folder / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens))
    return folder


def supervised(stage: str, *more: str, dataset: str = "INK"):
    """The shipped configuration, with strokes that are distorted, and a stage that looks where symbols are."""
    assignments = [
        "augment.strokes={pen: [2, 4], jitter: 1, shift: 2, scale: [0.8, 1.2], slant: 0.2, smoothing: 1}",
        "stages.standard.expressions={}",
        "stages.alignment.augment=true",
        f"stages.{stage}.losses.attention=0.1",
        *more,
    ]
    config = load_config(ROOT / "config.yaml", dataset, None, ["data.workers=0", *assignments])
    return config, next(each for each in config.stages if each.name == stage)


def written(seed: int = 0, height: int = 60, width: int = 150) -> np.ndarray:
    """Strokes as training images have them: uint8 (H, W), ink 255 on paper 0, 3 px wide."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width), np.uint8)
    for left in range(15, width - 35, 35):
        points = np.stack([random.integers(left, left + 25, 4), random.integers(14, height - 14, 4)], axis=1)
        points[:2, 1] = 14, height - 14
        cv2.polylines(image, [points.astype(np.int32)], False, 255, 3)
    return image


def encoded(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()
