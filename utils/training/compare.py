"""Compare runs: their curves in one picture, the settings in which they differ, and their best scores.

python -m utils.training.compare CROHME CROHME-2 --out comparison.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.loading import load_yaml, of_this_version
from utils.config.schema import FORMER_LOSSES
from utils.errors import CheckpointError
from utils.files import atomic_path
from utils.plots import new_figure
from utils.script import run_script
from utils.tables import table
from utils.training.epoch_log import read_line, with_exprate

# Runs that differ in one of these were validated on different images.
VALIDATED_BY = ("dataset", "seed", "data.validation_share", "training.validation_images")
NOT_SET = "-"


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder says. name: for tables and legends.   lines: of log.jsonl, at least one, under today's names.

    config: plain values under today's keys, the stages by their names.   splits: {test split: scores}, empty for a run
    that has not come to its end.
    """

    name: str
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    splits: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BestOfStage:
    """The best validation of a stage. epoch: that it came after, None where nothing was validated."""

    stage: str
    epochs: int
    minutes: float
    epoch: int | None = None
    exprate: float | None = None
    token_error_rate: float | None = None


# ---- reading ---------------------------------------------------------------------------------------------------------


def open_runs(names: Sequence[str], checkpoints: str | Path = "checkpoints") -> list[FinishedRun]:
    """Read runs, each named by its folder in `checkpoints` or by a path.

    A run may still be training. Raises CheckpointError for a folder without a run, or without a finished epoch.
    """
    folders = [_folder_of(name, Path(checkpoints)) for name in names]
    last_parts = [folder.resolve().name for folder in folders]
    titles = last_parts if len(set(last_parts)) == len(folders) else [str(folder) for folder in folders]
    return [_open_run(folder, title) for folder, title in zip(folders, titles, strict=True)]


def _folder_of(name: str, checkpoints: Path) -> Path:
    for folder in (checkpoints / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder
    raise CheckpointError(f"{name}: no run; expected a folder with config.yaml, in {checkpoints} or by its path")


def _open_run(folder: Path, title: str) -> FinishedRun:
    lines = list(_lines(folder / "log.jsonl"))
    if not lines:
        raise CheckpointError(f"{folder / 'log.jsonl'}: no epoch of this run is finished yet")
    return FinishedRun(title, _config(folder / "config.yaml"), lines, _test_scores(folder / "summary.json"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: expected lines of UTF-8 text ({error})") from None
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):  # being written, or half written when the run was killed
            return
        try:
            read = read_line(line)
            yield read | {"losses": _with_present_names(read["losses"])}
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}: expected an epoch as a JSON object ({error})") from None


def _with_present_names(losses: dict[str, float]) -> dict[str, float]:
    return {FORMER_LOSSES.get(name, name): value for name, value in losses.items()}


def _config(path: Path) -> dict[str, Any]:
    """A run's settings; keys that an older file lacks have the values that they have by default."""
    try:
        values = of_this_version(load_yaml(path.read_text(encoding="utf-8")))
        stages = {stage["name"]: stage for stage in values.pop("stages")}
        for stage in stages.values():
            del stage["name"]
            stage["losses"] = _with_present_names(stage["losses"])
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected the configuration of a run ({type(error).__name__})") from None
    return values | {"stages": stages}


def _test_scores(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():
        return {}
    try:
        splits = json.loads(path.read_text(encoding="utf-8")).get("splits", {})
        return {name: with_exprate(scores) for name, scores in splits.items() if name != "validation"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected the scores of a run ({type(error).__name__})") from None


# ---- tables ----------------------------------------------------------------------------------------------------------


def different_settings(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The dotted keys in which configurations differ, each with its value in every one of them.

    A key that only some have is NOT_SET in the others. Of a table that only some have, such as a stage, one row says
    which, and further rows compare it among those.
    """
    return list(_differences(configs, ""))


def _differences(tables: Sequence[dict[str, Any] | None], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    for name in dict.fromkeys(name for each in tables if each is not None for name in each):
        values = [NOT_SET if each is None else each.get(name, NOT_SET) for each in tables]
        if any(isinstance(value, dict) for value in values):
            below = [value if isinstance(value, dict) else None for value in values]
            owners = [value for value, each in zip(below, tables, strict=True) if each is not None]
            if None in owners:
                yield prefix + name, [NOT_SET if value is None else "yes" for value in below]
            yield from _differences(below, f"{prefix}{name}.")
        else:
            known = [value for value, each in zip(values, tables, strict=True) if each is not None]
            if any(value != known[0] for value in known):
                yield prefix + name, values


def best_of_stages(lines: Sequence[dict[str, Any]]) -> list[BestOfStage]:
    """The best validation of every stage of a log: most expressions right; among equals, fewest wrong tokens."""
    found = []
    for stage in dict.fromkeys(line["stage"] for line in lines):
        own = [line for line in lines if line["stage"] == stage]
        scored = [(line["epoch"], line[kind]) for line in own for kind in ("validation", "validation_of_swa")
                  if kind in line]  # fmt: skip
        minutes = sum(line.get("seconds", 0.0) for line in own) / 60
        if not scored:
            found.append(BestOfStage(stage, len(own), minutes))
            continue
        epoch, best = max(scored, key=lambda one: (one[1]["exprate"], -one[1]["token_error_rate"]))
        found.append(BestOfStage(stage, len(own), minutes, epoch, best["exprate"], best["token_error_rate"]))
    return found


def table_of_settings(runs: Sequence[FinishedRun]) -> str:
    """A row for each setting in which the runs differ, a column for each run."""
    rows = different_settings([run.config for run in runs])
    if not rows:
        return "no setting differs"
    return table([("setting", *(run.name for run in runs)), *((key, *map(_shown, values)) for key, values in rows)])


def table_of_scores(runs: Sequence[FinishedRun]) -> str:
    """A row for each stage of each run; scores on test splits, of the final weights, stand beside the last stage."""
    splits = list(dict.fromkeys(name for run in runs for name in run.splits))
    head = ("run", "stage", "epochs", "minutes", "validation ExpRate %", "in epoch", "wrong tokens %")
    rows: list[tuple] = [(*head, *(f"{name} ExpRate %" for name in splits))]
    for run in runs:
        stages = best_of_stages(run.lines)
        for best in stages:
            is_last = best is stages[-1]
            tests = [run.splits[name]["exprate"] if is_last and name in run.splits else None for name in splits]
            rows.append((run.name, best.stage, best.epochs, f"{best.minutes:.1f}", _percent(best.exprate),
                         best.epoch or NOT_SET, _percent(best.token_error_rate), *map(_percent, tests)))  # fmt: skip
    return table(rows)


def _percent(value: float | None) -> str:
    return NOT_SET if value is None else f"{value:.2f}"


def _shown(value: Any, at_most: int = 32) -> str:
    text = {None: "null", True: "true", False: "false"}.get(value, "") if not isinstance(value, list | float) else ""
    text = text or (f"{value:g}" if isinstance(value, float) else str(value))
    return text if len(text) <= at_most else f"{text[: at_most - 1]}…"


# ---- the picture -----------------------------------------------------------------------------------------------------


def draw_comparison(runs: Sequence[FinishedRun], path: Path) -> None:
    """Validation ExpRate and every loss, against epochs on the left and minutes of training on the right, as PNG.

    Epochs of all stages are counted through. A curve is interrupted, and a dotted line drawn, where a stage begins,
    because stages may differ in images and losses.
    """
    losses = dict.fromkeys(name for run in runs for line in run.lines for name in line["losses"] if name != "total")
    figure = new_figure(11, 2.6 * (1 + len(losses)) + 0.6)
    grid = figure.subplots(1 + len(losses), 2, sharex="col", squeeze=False)
    for number, run in enumerate(runs):
        look = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "marker": "."}
        for column, positions in enumerate((np.arange(1, len(run.lines) + 1), _minutes(run.lines))):
            exprates = [line.get("validation", {}).get("exprate", np.nan) for line in run.lines]
            _draw_curve(grid[0, column], run, positions, exprates, look)
            for axes, name in zip(grid[1:, column], losses, strict=True):
                values = [line["losses"].get(name, np.nan) for line in run.lines]
                _draw_curve(axes, run, positions, values, look)
    for axes, name in zip(grid[:, 0], ["validation ExpRate (%)", *(f"loss: {name}" for name in losses)], strict=True):
        axes.set_ylabel(name)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    for axes in grid[1:].flat:
        axes.set_yscale("log")
    grid[0, 0].legend(fontsize="small")
    grid[-1, 0].set_xlabel("epoch")
    grid[-1, 1].set_xlabel("minutes of training")
    figure.suptitle("a dotted line: the next stage begins", fontsize="small")
    figure.savefig(path, format="png", dpi=110)


def _minutes(lines: Sequence[dict[str, Any]]) -> np.ndarray:
    """Minutes of training when each epoch ended; validations are not counted."""
    return np.cumsum([line.get("seconds", np.nan) for line in lines]) / 60


def _draw_curve(axes: Any, run: FinishedRun, positions: np.ndarray, values: Sequence[float], look: dict) -> None:
    """A curve of one run; epochs that were not validated are passed over."""
    stages = [line["stage"] for line in run.lines]
    label = run.name
    for stage in dict.fromkeys(stages):
        own = [index for index, name in enumerate(stages) if name == stage]
        drawn = [index for index in own if np.isfinite(values[index])]
        axes.plot(positions[drawn], [values[index] for index in drawn], label=label, **look)
        label = None  # one entry of the legend for each run
        if own[0]:
            axes.axvline(positions[own[0] - 1], color=look["color"], linestyle=":", linewidth=0.8)


# ---- the script ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's name in checkpoints/, or its folder")
    parser.add_argument("--out", default="comparison.png", metavar="FILE", help="the curves; default: %(default)s")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args()
    if len(options.runs) < 2:
        parser.error("expected at least two runs")
    if not options.out.lower().endswith(".png"):
        parser.error(f"--out {options.out}: expected a name that ends in .png")
    runs = open_runs(options.runs, options.checkpoints)
    print(table_of_settings(runs) + "\n\n" + table_of_scores(runs))
    changed = {key for key, _ in different_settings([run.config for run in runs])}.intersection(VALIDATED_BY)
    if changed:
        print(f"not validated on the same images ({', '.join(sorted(changed))}): compare test splits", file=sys.stderr)
    with atomic_path(options.out) as path:
        draw_comparison(runs, path)
    print(f"\ncurves  {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
