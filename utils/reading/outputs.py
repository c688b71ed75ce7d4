"""What recognize.py tells of a reading: a line of text or JSON, the network's input as PNG, a sheet of all inputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.reading.inputs import STDIN, Input
from utils.reading.reader import Reading

MAX_ON_SHEET = 200


def json_line(source: Input, reading: Reading | None) -> str:
    """A JSON object about one input; numbers are rounded to what means something."""
    if reading is None:
        return json.dumps({"input": source.name, "error": source.error}, ensure_ascii=False)
    about = {
        "input": source.name,
        "line": source.line,
        "lines": source.lines,
        "latex": reading.latex,
        "tokens": list(reading.tokens),
        "confidence": round(reading.confidence, 4),
        "confidences": [round(confidence, 4) for confidence in reading.confidences],
        "score": round(reading.score, 4),
        "alternatives": [{"latex": other.latex, "score": round(other.score, 4)} for other in reading.alternatives],
        "warnings": list(reading.warnings),
        "size": list(reading.image.shape),  # height and width of the network's input
        "boxes": [list(box) for box in reading.boxes],
        "is_cleaned": reading.is_cleaned,
        "is_truncated": reading.is_truncated,
    }
    return json.dumps(about, ensure_ascii=False)


def text_line(source: Input, reading: Reading | None, with_name: bool) -> str:
    """The LaTeX, or nothing where there is none; behind the input's name and a tab where there are several inputs."""
    latex = reading.latex if reading else ""
    return f"{source.name}\t{latex}" if with_name else latex


def warn(source: Input, reading: Reading) -> None:
    """Tell on stderr why a reading may be wrong."""
    if reading.warnings:
        line = f", line {source.line}" if source.lines > 1 else ""
        name = "stdin" if source.name == STDIN else source.name
        print(f"{name}{line}: doubtful: {'; '.join(reading.warnings)}", file=sys.stderr, flush=True)


def write_input(folder: Path, name: str, image: np.ndarray, taken: set[str]) -> None:
    """Write the network's input as FOLDER/NAME.png; of equal names, the later ones get a number."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    stem = "stdin" if name == STDIN else Path(name).stem
    unique, number = stem, 1
    while unique in taken:
        number += 1
        unique = f"{stem}-{number}"
    taken.add(unique)
    Image.fromarray(image).save(folder / f"{unique}.png")


def write_sheet(path: Path, rows: Sequence[tuple[Input, str]], draw: Callable[[str], np.ndarray]) -> None:
    """Write a PNG: on the left each input with its name, on the right what was read, as text and drawn.

    draw(latex): uint8 (H, W), dark on light; raises DataError for what cannot be drawn.
    """
    from utils.plots import draw_sheet

    items = []
    for source, latex in rows[:MAX_ON_SHEET]:
        try:
            drawn = 255 - draw(latex)
        except DataError as error:
            drawn, latex = np.zeros((40, 200), np.uint8), f"{latex}   (cannot be drawn: {error})"
        items += [(255 - source.thumbnail, source.name, source.name), (drawn, latex, latex)]
    draw_sheet(items, path, f"{len(items) // 2} inputs and what was read", columns=2)
    more = " (the first inputs only)" if len(rows) > MAX_ON_SHEET else ""
    print(f"sheet {path}{more}", file=sys.stderr)
