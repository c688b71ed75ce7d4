"""The report of an evaluation as one HTML file: scores, plots, and a gallery that shows what went wrong, and where.

Nothing is loaded from elsewhere, so that the page opens from disk, today and in ten years: images are data URIs,
attention is packed into attributes, plots are inline SVG. Without scripts it can still be read, and printed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from utils.evaluation.scores import describe_comparison, describe_search
from utils.files import atomic_write

FOLDER = Path(__file__).parent
INK_HEIGHT = 130  # CSS pixels that the image of a small formula may grow to
MAX_ENLARGED = 2.0
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_ROW = 104, 292, 26, 26  # the scale's ends, the first row, the height of a row
RATES = {
    "exprate": "ExpRate",
    "at_most_1": "at most 1 wrong token",
    "at_most_2": "at most 2",
    "at_most_3": "at most 3",
    "token_error_rate": "wrong tokens",
}
SHARES = {
    "structure_exprate": "structure right",
    "symbol_accuracy": "symbols right",
    "well_formed": "well-formed LaTeX",
    "visual_exprate": "draws the same image",
}
GROUPS = {"length": "tokens of the reference", "depth": "nesting depth", "kind": "kind of structure"}


@dataclass
class Drawn:
    """A label as it is printed.

    image: uint8 (H, W), dark on light.   boxes: (token, left, top, right, bottom) in pixels, of tokens with ink.
    """

    image: np.ndarray
    boxes: Sequence[tuple[int, float, float, float, float]]


@dataclass
class ReportItem:
    """One image of the gallery, what it says, and what was read.

    errors: edits between the two, 0 where the reading is right.   image: uint8 (H, W), ink 255 on paper 0, as the
    network saw it.   reference_marks, prediction_marks: True where a token differs from the other side.
    reference_drawn, prediction_drawn: None where LaTeX cannot be drawn.   attention: (L, h, w), a map for each token of
    the prediction, in feature positions of stride x stride pixels.   confidences: (L,) in 0..1.   alternatives:
    (tokens, score), best first.   visually_equal: both draw the same image.
    """

    name: str
    reference: Sequence[str]
    prediction: Sequence[str]
    errors: int
    image: np.ndarray
    reference_marks: Sequence[bool]
    prediction_marks: Sequence[bool]
    reference_drawn: Drawn | None
    prediction_drawn: Drawn | None
    attention: np.ndarray | None
    stride: int
    confidences: Sequence[float] | None
    alternatives: Sequence[tuple[str, float | None]]
    visually_equal: bool


def write_page(path: str | Path, title: str, scores: dict[str, Any], items: Sequence[ReportItem]) -> None:
    """Write the page. scores: as in scores.json; what is missing there is left out here."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    total = scores.get("items")
    page = environment.get_template("page.html").render(
        title=title,
        style=style,
        script=script,
        # The browser runs this very script and no other, whatever a name or a token may say.
        script_hash=base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode(),
        lead=_lead(scores),
        facts=_facts(scores),
        rates=_rates(scores),
        shares=[(shown, scores[name], (scores.get("intervals") or {}).get(name)) for name, shown in SHARES.items()
                if name in scores],
        notes=_notes(scores),
        plots=_plots(scores),
        error_kinds=scores.get("error_kinds") or [],
        confusions=_confusions(scores.get("confusions") or []),
        failed=scores.get("failed") or [],
        shown=f"{len(items)} of {total} items are in this gallery." if total and total != len(items) else "",
        items=[_item(item) for item in items],
    )  # fmt: skip
    atomic_write(Path(path), page.encode("utf-8", "replace"))


# ---- scores ----------------------------------------------------------------------------------------------------------


def _lead(scores: dict[str, Any]) -> dict[str, Any] | None:
    exact = scores.get("exact") or {}
    if exact.get("exprate") is None:
        return None
    return {"exprate": exact["exprate"], "total": scores.get("items", "all"), "ends": exact.get("interval")}


def _facts(scores: dict[str, Any]) -> dict[str, str]:
    """What was evaluated."""
    search, facts = scores.get("search") or {}, {}
    facts["data"] = " ".join(str(scores[key]) for key in ("dataset", "split") if scores.get(key))
    facts["items"] = scores.get("items")
    facts["checkpoint"], facts["predictions"] = scores.get("checkpoint"), scores.get("predictions")
    if search:
        facts["search"] = describe_search(search)
    if scores.get("clean"):
        facts["cleaned"] = f"{scores.get('cleaned', 0)} images (--clean {scores['clean']})"
    if scores.get("seconds"):
        speed = scores.get("images_per_second")
        facts["time"] = f"{scores['seconds']:.1f} s" + (f", {speed:.1f} images/s" if speed else "")
        facts["time"] += f" on {scores['device']}" if scores.get("device") else ""
    return {name: str(value) for name, value in facts.items() if value}


def _rates(scores: dict[str, Any]) -> list[tuple[str, tuple, tuple]]:
    """Name, and (value, interval) exact and normalized."""
    columns = [scores.get("exact") or {}, scores.get("normalized") or {}]
    return [
        (shown, *((each.get(name), each.get("interval") if name == "exprate" else None) for each in columns))
        for name, shown in RATES.items()
    ]


def _notes(scores: dict[str, Any]) -> list[str]:
    notes = []
    if (scores.get("exact") or {}).get("interval"):
        notes.append("Intervals are 95 % bootstrap intervals.")
    if "rules" in (scores.get("normalized") or {}):
        rules = scores["normalized"]["rules"]
        notes.append(f"Normalized: spellings that nobody could tell apart are one (rules, version {rules}).")
    if "symbol_accuracy" in scores:
        notes.append("Symbols right: an item costs at most its own symbols, however long its reading is.")
    if scores.get("against"):
        notes.append(describe_comparison(scores["against"]))
    return notes


def _plots(scores: dict[str, Any]) -> list[dict[str, Any]]:
    groups, overall = scores.get("by") or {}, (scores.get("exact") or {}).get("exprate")
    return [_plot(GROUPS.get(name, name), rows, overall) for name, rows in groups.items() if rows]


def _plot(title: str, rows: Sequence[dict[str, Any]], overall: float | None) -> dict[str, Any]:
    """Where the marks of a plot lie: bars with intervals, a row for each group."""

    def x(percent: float) -> str:
        return f"{PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * percent / 100:.1f}"

    return {
        "title": title,
        "left": PLOT_LEFT,
        "right": PLOT_RIGHT,
        "top": PLOT_TOP,
        "bottom": PLOT_TOP + PLOT_ROW * len(rows),
        "overall": None if overall is None else x(overall),
        "ticks": [{"percent": percent, "x": x(percent)} for percent in (0, 25, 50, 75, 100)],
        "rows": [
            {
                "name": row["name"],
                "count": row.get("items", ""),
                "percent": f"{row['exprate']:.1f}",
                "x": x(row["exprate"]),
                "y": PLOT_TOP + PLOT_ROW * (number + 0.5),
                "ends": [x(end) for end in row["interval"]] if row.get("interval") else None,
            }
            for number, row in enumerate(rows)
        ],
    }


def _confusions(confusions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    largest = max((entry["count"] for entry in confusions), default=1)
    return [{**entry, "share": entry["count"] / largest} for entry in confusions]


# ---- gallery ---------------------------------------------------------------------------------------------------------


def _image(image: np.ndarray) -> dict[str, Any]:
    """uint8 (H, W) as a data URI, with its size."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"source": source, "width": image.shape[1], "height": image.shape[0]}


def pack_attention(attention: np.ndarray) -> str:
    """(L, h, w) as base64 of uint8, row by row; in each map the largest weight is 255."""
    attention = np.nan_to_num(np.asarray(attention, np.float32))
    largest = attention.max(axis=(1, 2), keepdims=True)
    levels = 255 * attention / np.where(largest > 0, largest, 1)
    return base64.b64encode(levels.round().clip(0, 255).astype(np.uint8).tobytes()).decode()


def counterparts(reference_marks: Sequence[bool], prediction_marks: Sequence[bool]) -> list[range]:
    """For each token of the prediction the tokens of the reference that stand in its place.

    Tokens that do not differ are each other's; what differs between two of them faces what differs there in the
    reference, one by one where they are as many.
    """
    same = [i for i, is_other in enumerate(reference_marks) if not is_other]
    there = [j for j, is_other in enumerate(prediction_marks) if not is_other]
    anchors = [(-1, -1), *zip(same, there, strict=True), (len(reference_marks), len(prediction_marks))]
    found: list[range] = []
    for (i, j), (next_i, next_j) in zip(anchors, anchors[1:], strict=False):
        if j >= 0:
            found.append(range(i, i + 1))
        is_one_by_one = next_i - i == next_j - j
        for offset in range(1, next_j - j):
            found.append(range(i + offset, i + offset + 1) if is_one_by_one else range(i + 1, next_i))
    return found


def _item(item: ReportItem) -> dict[str, Any]:
    """What the template shows of an item."""
    height, width = item.image.shape
    scale = min(MAX_ENLARGED, max(1.0, INK_HEIGHT / height))
    confidences = _confidences(item)
    facing = counterparts(item.reference_marks, item.prediction_marks)
    reference = _label(item.reference, item.reference_marks, item.reference_drawn)
    prediction = _label(item.prediction, item.prediction_marks, item.prediction_drawn)
    for token, faces, confidence in zip(prediction["tokens"], facing, confidences, strict=True):
        facts = [] if confidence is None else [f"{100 * confidence:.1f} % sure"]
        token["title"] = ", ".join([*facts, *(["differs"] if token["differs"] else [])])
        token["unsure"] = None if confidence is None else 100 - 100 * confidence
        token["faces"] = faces
    return {
        "name": item.name,
        "errors": item.errors,
        "looks_same": item.visually_equal,
        "least": min((confidence for confidence in confidences if confidence is not None), default=None),
        "image": _image(255 - item.image),  # dark on light
        "natural": f"{scale * width:.0f}",
        "maps": _maps(item),
        "reference": reference,
        "prediction": prediction,
        "alternatives": [{"text": tokens, "score": _score(score)} for tokens, score in item.alternatives],
    }


def _score(score: float | None) -> str:
    is_number = score is not None and math.isfinite(score)
    return f"{score:.3f}".replace("-", "−") if is_number else "–"


def _confidences(item: ReportItem) -> list[float | None]:
    """One for each token of the prediction; None where it is not known."""
    known = [None] * len(item.prediction) if item.confidences is None else item.confidences
    return [None if confidence is None or math.isnan(confidence) else float(confidence) for confidence in known]


def _maps(item: ReportItem) -> dict[str, str] | None:
    """What the script needs to lay the attention over the image."""
    if item.attention is None or not len(item.prediction):
        return None
    count, rows, columns = item.attention.shape
    assert count == len(item.prediction), f"{item.name}: {count} maps for {len(item.prediction)} tokens"
    height, width = item.image.shape
    # The features reach beyond the image where its sides are no multiples of the stride.
    covers = f"{100 * columns * item.stride / width:.2f} {100 * rows * item.stride / height:.2f}"
    return {"positions": f"{columns} {rows}", "covers": covers, "data": pack_attention(item.attention)}


def _label(tokens: Sequence[str], marks: Sequence[bool], drawn: Drawn | None) -> dict[str, Any]:
    """A label as text, as tokens, and as it is printed; small boxes come last, on top, where a pointer finds them."""
    boxes = sorted(drawn.boxes, key=lambda box: (box[1] - box[3]) * (box[4] - box[2])) if drawn else []
    return {
        "text": " ".join(tokens),
        "tokens": [{"text": token, "differs": bool(mark)} for token, mark in zip(tokens, marks, strict=True)],
        "image": _image(drawn.image) if drawn else None,
        "natural": drawn.image.shape[1] if drawn else 0,
        "boxes": [
            {
                "token": token,
                "differs": bool(marks[token]),
                "x": f"{left - 1:.1f}",
                "y": f"{top - 1:.1f}",
                "width": f"{right - left + 2:.1f}",
                "height": f"{bottom - top + 2:.1f}",
            }
            for token, left, top, right, bottom in boxes
        ],
    }
