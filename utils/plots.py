"""Plots: the curves of a run, and sheets of images with what was read in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def new_figure(width: float, height: float) -> Any:
    """A figure that needs no screen and touches no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(lines: Sequence[dict], path: Path, title: str) -> None:
    """Losses and validation scores of a log, epoch by epoch, the stages beside each other."""
    figure = new_figure(10, 6)
    above, below = figure.subplots(2, 1, sharex=True)
    xs = np.arange(1, len(lines) + 1)
    for name in dict.fromkeys(name for line in lines for name in line["losses"] if name != "total"):
        values = [line["losses"].get(name, np.nan) for line in lines]
        above.plot(xs, values, marker=".", label=name)
    above.set_ylabel("loss (mean of an epoch)")
    above.set_yscale("log")
    scored = [(x, line["validation"]) for x, line in zip(xs, lines, strict=True) if "validation" in line]
    for name, label in (("exprate", "ExpRate"), ("token_error_rate", "wrong tokens")):
        below.plot([x for x, _ in scored], [score[name] for _, score in scored], marker=".", label=label)
    below.set_ylabel("validation (%)")
    below.set_ylim(0, 100)
    below.set_xlabel("epoch")
    starts = [i for i, line in enumerate(lines) if i == 0 or line["stage"] != lines[i - 1]["stage"]]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        for axes in (above, below):
            axes.axvline(start + 0.5, color="0.7", linewidth=1)
        middle, above_it = (start + end + 1) / 2, above.get_xaxis_transform()
        above.text(middle, 1.02, lines[start]["stage"], ha="center", transform=above_it)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right", fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=110)


def draw_sheet(
    items: Sequence[tuple[np.ndarray, str, str]], path: Path | BinaryIO, title: str, columns: int = 3
) -> None:
    """Images with the label and the prediction under each; what is wrong is red.

    items: (image uint8 (H, W) with ink 255, label, prediction).   path: of a PNG, or an open file.
    """
    rows = -(-len(items) // columns)
    figure = new_figure(5 * columns, 1.5 * rows + 0.4)
    grid = np.atleast_2d(figure.subplots(rows, columns, squeeze=False))
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("W")  # images start where their text does
    for axes, (image, label, prediction) in zip(grid.flat, items, strict=False):
        axes.imshow(255 - image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        is_right = label == prediction
        text = _short(label) if is_right else f"label  {_short(label)}\nread   {_short(prediction)}"
        axes.set_title(text, fontsize=7, family="monospace", loc="left", color="black" if is_right else "firebrick",
                       parse_math=False)  # fmt: skip
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=110)


def _short(text: str, length: int = 64) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
