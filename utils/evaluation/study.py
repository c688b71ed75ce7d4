"""The study's runs beside each other: scores over seeds, paired tests against one arm, and curves over training time.

python -m utils.evaluation.study results/study/*.json --out curves.png

tests/benchmarks/study.py writes the files, one a run. Tables come as Markdown, for results/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.config.loading import differences
from utils.errors import DataError
from utils.evaluation.metrics import mcnemar, percent
from utils.files import atomic_path
from utils.plots import new_figure
from utils.script import run_script

VALIDATION = "validation"
# What may differ between runs of a study; what else differs is no matter of its arms.
MAY_DIFFER = ("seed", "stages", "training.minutes", "device", "data.root", "training.save_minutes")


class Point(NamedTuple):
    """A validation on ink while a run trained.   seconds: of training so far, in all stages, by the run's clock."""

    seconds: float
    exprate: float


@dataclass(frozen=True)
class StudyRun:
    """One run as its file tells it.

    scores: by split, in percent.   right: by split, each item's name and whether it was read token-exactly.
    curve: in the order of time.
    """

    path: Path
    arm: str
    about: str
    seed: int
    minutes: float
    commit: str
    config: dict[str, Any]
    curve: tuple[Point, ...]
    scores: dict[str, dict[str, float]]
    right: dict[str, dict[str, bool]]

    def first_at_least(self, exprate: float) -> float | None:
        """Seconds of training until a validation first found this score, or None where none did."""
        return next((point.seconds for point in self.curve if point.exprate >= exprate), None)

    @property
    def best(self) -> float:
        """The best ExpRate of the curve."""
        return max(point.exprate for point in self.curve)


class Group(NamedTuple):
    """Runs that differ in nothing but their seed, by seed."""

    arm: str
    about: str
    minutes: float
    runs: dict[int, StudyRun]


class PairedTest(NamedTuple):
    """Two groups on the same items, pooled over the seeds that both have.

    points: difference of their ExpRates, by seed.   only_here, only_there: items that one of them alone got right.
    p: of the exact McNemar test over the pooled items.
    """

    points: list[float]
    only_here: int
    only_there: int
    p: float


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_run(path: Path) -> StudyRun:
    """Raises DataError for a file that no study has written, naming what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        splits = values["splits"]
        right = {
            split: {name: True for name in found["right"]} | {name: False for name in found["wrong"]}
            for split, found in splits.items()
        }
        lists = ("right", "wrong")
        scores = {split: {key: found[key] for key in found if key not in lists} for split, found in splits.items()}
        curve = tuple(Point(point["seconds"], point["exprate"]) for point in values["curve"])
        plain = {key: values[key] for key in ("arm", "about", "seed", "minutes", "commit", "config")}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected a run of the study ({type(error).__name__}: {error})") from None
    if VALIDATION not in scores or not curve:
        raise DataError(f"{path}: expected scores of {VALIDATION} and a curve of at least one validation on ink")
    return StudyRun(path=path, curve=curve, scores=scores, right=right, **plain)


def read_groups(paths: Sequence[Path]) -> list[Group]:
    """The runs by arm and minutes, in the order of the files.

    Raises DataError for files that do not belong together: two of one run, settings beside the stages that differ,
    stages of an arm that differ, or other items for the same seed.
    """
    groups: dict[tuple[str, float], Group] = {}
    runs = [read_run(path) for path in paths]
    for run in runs:
        group = groups.setdefault((run.arm, run.minutes), Group(run.arm, run.about, run.minutes, {}))
        if run.seed in group.runs:
            raise DataError(f"{run.path} and {group.runs[run.seed].path}: both are {run.arm} with seed {run.seed}")
        group.runs[run.seed] = run
        _check_settings(runs[0], run)
        for other in group.runs.values():
            if other.config["stages"] != run.config["stages"]:
                raise DataError(f"{run.path} and {other.path}: the stages of {run.arm} are not the same in both")
    for run in runs:
        _check_items(next(other for other in runs if other.seed == run.seed), run)
    return list(groups.values())


def _check_settings(one: StudyRun, other: StudyRun) -> None:
    found = [key for key, *_ in differences(one.config, other.config)]
    wrong = [key for key in found if not any(f"{key}.".startswith(f"{allowed}.") for allowed in MAY_DIFFER)]
    if wrong:
        raise DataError(f"{one.path} and {other.path}: only the stages may differ, not {', '.join(wrong)}")


def _check_items(one: StudyRun, other: StudyRun) -> None:
    for split in one.right.keys() & other.right.keys():
        if one.right[split].keys() != other.right[split].keys():
            raise DataError(f"{one.path} and {other.path}: one seed, but other images in {split}")


def choose_baseline(groups: Sequence[Group], arm: str) -> Group:
    """The group of this arm that was trained longest.   Raises DataError where there is none."""
    found = [group for group in groups if group.arm == arm]
    if not found:
        raise DataError(f"no run of {arm} to compare with; there are: {', '.join(group.arm for group in groups)}")
    return max(found, key=lambda group: group.minutes)


# ---- figures ---------------------------------------------------------------------------------------------------------


def paired_test(group: Group, baseline: Group, split: str) -> PairedTest | None:
    """The group against the baseline; None where they share no seed."""
    points, only_here, only_there = [], 0, 0
    for seed in sorted(group.runs.keys() & baseline.runs.keys()):
        here, there = group.runs[seed].right[split], baseline.runs[seed].right[split]
        gained = sum(here[name] and not there[name] for name in here)
        lost = sum(there[name] and not here[name] for name in here)
        points.append(percent(gained - lost, len(here)))
        only_here, only_there = only_here + gained, only_there + lost
    return PairedTest(points, only_here, only_there, mcnemar(only_here, only_there)) if points else None


def time_to_best(group: Group, baseline: Group) -> list[float | None]:
    """By seed: after which share of the baseline's time a run first reaches the best score of the baseline's run.

    None for a seed whose run does not. Scores are known where validation was read, so a share is late by up to the
    time between two validations, never early.
    """
    seeds = sorted(group.runs.keys() & baseline.runs.keys())
    seconds = [group.runs[seed].first_at_least(baseline.runs[seed].best) for seed in seeds]
    return [None if found is None else found / (60 * baseline.minutes) for found in seconds]


def mean_and_spread(values: Sequence[float]) -> str:
    """`20.0 ± 1.5`: mean and standard deviation of a sample; of one value, the value alone."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(groups: Sequence[Group], baseline: Group, split: str) -> str:
    """A table in Markdown, the baseline first, then the others from the best ExpRate down.

    Only groups all of whose runs have read the split. The time column is of validation alone, which has a curve.
    """
    groups = [group for group in groups if all(split in run.scores for run in group.runs.values())]
    groups = sorted(groups, key=lambda group: (group is not baseline, -statistics.fmean(_scores(group, split))))
    head = ["arm", "stages", "seeds", "ExpRate, %", "wrong tokens, %", "points (by seed)", "right alone", "p"]
    rows = [head + ([f"reaches the best of {baseline.arm} after"] if split == VALIDATION else [])]
    for group in groups:
        row = [title(group, groups), group.about, str(len(group.runs)), mean_and_spread(_scores(group, split))]
        row += [mean_and_spread(_scores(group, split, "token_error_rate")), *_test_cells(group, baseline, split)]
        rows.append(row + ([_time_cell(group, baseline)] if split == VALIDATION else []))
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def title(group: Group, groups: Sequence[Group]) -> str:
    """The arm's name, with its minutes where not all groups have the same."""
    is_timed = len({each.minutes for each in groups}) > 1
    return f"{group.arm}, {group.minutes:g} min" if is_timed else group.arm


def _scores(group: Group, split: str, name: str = "exprate") -> list[float]:
    return [run.scores[split][name] for run in group.runs.values()]


def _test_cells(group: Group, baseline: Group, split: str) -> list[str]:
    test = None if group is baseline else paired_test(group, baseline, split)
    if test is None:
        return ["", "", ""]
    points = ", ".join(f"{value:+.1f}" for value in test.points)
    mean = f"{statistics.fmean(test.points):+.1f}" + (f" ({points})" if len(test.points) > 1 else "")
    return [mean, f"{test.only_here}, {test.only_there}", f"{test.p:.2g}"]


def _time_cell(group: Group, baseline: Group) -> str:
    if not all(run.best for run in baseline.runs.values()):  # nothing was read: every arm reaches that at once
        return ""
    shares = time_to_best(group, baseline)
    reached = [share for share in shares if share is not None]
    if not reached:
        return "not reached" if shares else ""
    of = "" if len(reached) == len(shares) else f" ({len(reached)} of {len(shares)} seeds)"
    return f"{100 * statistics.fmean(reached):.0f} %{of}"


def notes(groups: Sequence[Group], baseline: Group) -> list[str]:
    """What a reader of the tables must know."""
    others = len(groups) - 1
    found = [
        f"±: standard deviation over seeds. p: exact McNemar against {baseline.arm}, items pooled over the seeds; "
        f"not corrected for {others} comparison{'s' * (others != 1)}."
    ]
    missing = [title(group, groups) for group in groups if group.runs.keys() != baseline.runs.keys()]
    if missing:
        found.append(f"Other seeds than {baseline.arm}: {', '.join(missing)}. Their means are of other images.")
    commits = {run.commit for group in groups for run in group.runs.values()}
    if len(commits) > 1:
        found.append(f"Runs of {len(commits)} commits: {', '.join(sorted(commits))}.")
    return found


# ---- the picture -----------------------------------------------------------------------------------------------------


def mean_curve(runs: Sequence[StudyRun], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Minutes (points,), and the ExpRate of every run at each of them (runs, points), straight between validations.

    From where all runs have been validated once, to where the first of them ends: nothing is extrapolated.
    """
    first, last = max(run.curve[0].seconds for run in runs), min(run.curve[-1].seconds for run in runs)
    seconds = np.linspace(first, max(first, last), points)
    values = [np.interp(seconds, *zip(*run.curve, strict=True)) for run in runs]
    return seconds / 60, np.array(values)


def draw_curves(groups: Sequence[Group], baseline: Group, path: Path) -> None:
    """Validation ExpRate against minutes of training: the mean over seeds, and the range from the worst to the best."""
    figure = new_figure(9, 5.5)
    axes = figure.subplots()
    for number, group in enumerate(groups):
        color, runs = f"C{number % 10}", list(group.runs.values())
        minutes, values = mean_curve(runs)
        axes.plot(minutes, values.mean(axis=0), color=color, label=f"{title(group, groups)}: {group.about}")
        if len(runs) > 1:
            axes.fill_between(minutes, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        for run in runs:
            axes.plot([point.seconds / 60 for point in run.curve], [point.exprate for point in run.curve],
                      ".", color=color, markersize=3, alpha=0.5)  # fmt: skip
    best = statistics.fmean(run.best for run in baseline.runs.values())
    axes.axhline(best, color="0.5", linestyle="--", linewidth=1, label=f"best of {title(baseline, groups)}, mean")
    axes.set_xlim(0, max(group.minutes for group in groups))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes of training on one core")
    axes.set_ylabel("validation ExpRate (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, format="png", dpi=110)


# ---- the script ------------------------------------------------------------------------------------------------------


def compare(paths: Sequence[Path], arm: str, out: Path) -> None:
    """Print the tables of all splits that the baseline has read, and draw the curves.   arm: the baseline's."""
    groups = read_groups(paths)
    baseline = choose_baseline(groups, arm)
    splits = dict.fromkeys(split for group in groups for run in group.runs.values() for split in run.scores)
    for split in splits:
        if all(split in run.scores for run in baseline.runs.values()):
            print(f"{split}:\n\n{table(groups, baseline, split)}\n")
        else:
            print(f"{split}: not read by every run of {arm}, so there is no table of it", file=sys.stderr)
    print("\n".join(notes(groups, baseline)))
    with atomic_path(out) as path:
        draw_curves(groups, baseline, path)
    print(f"\ncurves  {out}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="FILE", help="runs of the study, .json")
    parser.add_argument("--baseline", default="ink", metavar="ARM", help="that the others are compared with (ink)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the curves; default: curves.png beside the first run")
    options = parser.parse_args()
    compare(options.runs, options.baseline, options.out or options.runs[0].parent / "curves.png")
    return 0


if __name__ == "__main__":
    run_script(main)
