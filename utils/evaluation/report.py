"""What an evaluation leaves behind: predictions.jsonl, scores.json and report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.evaluation.metrics import differing
from utils.evaluation.page import Drawn, ReportItem, write_page
from utils.evaluation.scores import ScoredItem
from utils.evaluation.sources import Source
from utils.files import atomic_write

Draw = Callable[[Sequence[str]], Drawn | None]


def write_report(
    folder: Path, items: Sequence[ScoredItem], scores: dict[str, Any], source: Source, draw: Draw, max_wrong: int = 300
) -> None:
    """Write the three files.   draw(tokens): a label as it is printed, None where it cannot be drawn.

    max_wrong: wrong items on the page, at most; right ones are a fifth of that.
    """
    lines = (json.dumps(prediction_row(item), ensure_ascii=False) + "\n" for item in items)
    atomic_write(folder / "predictions.jsonl", "".join(lines))
    atomic_write(folder / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    chosen = [items[index] for index in choose_items([item.comparison.is_exact for item in items], max_wrong)]
    explained = source.explain([item.reference.name for item in chosen])
    shown = [report_item(item, source, explained.get(item.reference.name), draw) for item in chosen]
    write_page(folder / "report.html", f"{scores['dataset']} {scores['split']}", scores, shown)


def prediction_row(item: ScoredItem) -> dict[str, Any]:
    """A line of predictions.jsonl; prediction is None where there is none."""
    read, comparison = item.prediction, item.comparison
    return {
        "id": item.reference.name,
        "reference": " ".join(item.reference.tokens),
        "prediction": " ".join(read.tokens) if read else None,
        "score": finite(read.score) if read else None,
        "is_truncated": bool(read and read.is_truncated),
        "alternatives": [[" ".join(tokens), finite(score)] for tokens, score in read.alternatives] if read else [],
        "errors": comparison.errors,
        "same_image": comparison.same_image,
        "normalized_equal": comparison.is_normal,
    }


def finite(score: float | None) -> float | None:
    return round(score, 6) if score is not None and math.isfinite(score) else None


def choose_items(is_right: Sequence[bool], max_wrong: int) -> list[int]:
    """Indices of at most `max_wrong` wrong items and a fifth as many right ones, evenly spread, in their order."""
    chosen = []
    for wanted, limit in ((False, max_wrong), (True, max_wrong // 5)):
        indices = [index for index, right in enumerate(is_right) if right == wanted]
        if len(indices) > limit:
            indices = [indices[i * len(indices) // limit] for i in range(limit)]
        chosen += indices
    return sorted(chosen)


def report_item(
    item: ScoredItem, source: Source, explanation: tuple[np.ndarray, np.ndarray] | None, draw: Draw
) -> ReportItem:
    """What the page shows of an item."""
    name, reference = item.reference.name, item.reference.tokens
    read = item.prediction.tokens if item.prediction else []
    marks = differing(reference, read)
    image = source.image(name)
    confidences, attention = explanation or (None, None)
    alternatives = item.prediction.alternatives if item.prediction else ()
    return ReportItem(
        name=name,
        reference=reference,
        prediction=read,
        errors=item.comparison.errors,
        image=np.zeros((16, 64), np.uint8) if image is None else np.asarray(image),
        reference_marks=marks[0],
        prediction_marks=marks[1],
        reference_drawn=draw(reference),
        prediction_drawn=draw(read),
        attention=attention,
        stride=source.stride,
        confidences=None if confidences is None else confidences.tolist(),
        alternatives=[(" ".join(tokens), finite(score)) for tokens, score in alternatives],
        visually_equal=item.comparison.same_image,
    )
