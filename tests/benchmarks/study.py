"""Does the bridge carry? Trains every arm of results/study/arms.yaml with every seed, one core a run: make study

    make study                                    18 runs of 40 minutes: results/study/ARM-SEED.json
    make study MINUTES=3 SEEDS=0                  cut down: results/study/3-minutes/ARM-SEED.json
    python tests/benchmarks/study.py --arms ink bridge --jobs 2
    python tests/benchmarks/study.py --list       the minutes of each stage; trains nothing
    python tests/benchmarks/study.py --test 2014  once, when all is decided: reads that split with every run's weights

Stopped (Ctrl-C, SIGTERM, a power cut), the same command goes on: a run that has its file is not run again, one that was
begun is resumed. Each run keeps to one core and one thread, and its minutes are CPU minutes; what else runs on the
machine still slows memory down, so arms that are to be compared run side by side: all of a seed, then the next seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.config.loading import differences, load_config  # noqa: E402
from utils.errors import ConfigError, UserError  # noqa: E402
from utils.evaluation.study import compare  # noqa: E402
from utils.files import atomic_write  # noqa: E402
from utils.project import CHECKPOINTS, CONFIG, from_root  # noqa: E402
from utils.script import run_script  # noqa: E402
from utils.tables import table  # noqa: E402
from utils.training.run_folder import MAY_CHANGE  # noqa: E402

ARMS = ROOT / "results" / "study" / "arms.yaml"


@dataclass(frozen=True)
class Study:
    """What arms.yaml says, and what the command line has changed.

    arms: by name, `about` and the stages in full.   stages: the names of all stages, in the order of the file.
    """

    dataset: str
    preset: str
    minutes: float
    planned_minutes: float  # of arms.yaml
    baseline: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    arms: Mapping[str, dict[str, Any]]
    stages: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One run: an arm and a seed.   config: as the run's folder will keep it.   folder: the run's, in checkpoints/.

    result: the JSON that is left when it has ended.   arguments: of train_stage_ABS.py.
    """

    arm: str
    about: str
    seed: int
    minutes: float
    config: dict[str, Any]
    folder: Path
    result: Path
    arguments: tuple[str, ...]


# ---- what is to be run -----------------------------------------------------------------------------------------------


def read_study(path: Path, minutes: float | None, seeds: Sequence[int] | None, arms: Sequence[str] | None,
               dataset: str | None, settings: Sequence[str]) -> Study:  # fmt: skip
    """None takes what the file says.   arms: names.   settings: KEY=VALUE, beside the file's own.

    Raises ConfigError for an arm, or a stage of one, that the file does not describe.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in arms or ():
        if name not in values["arms"]:
            raise ConfigError(f"--arms {name}: unknown; {path} has: {', '.join(values['arms'])}")
    chosen = {name: arm for name, arm in values["arms"].items() if not arms or name in arms}
    for name, arm in chosen.items():
        missing = [stage for stage in arm["stages"] if stage not in values["stages"]]
        if missing:
            raise ConfigError(f"{path}: arms.{name}: no stage is called {', '.join(missing)}")
    described = {
        name: {"about": arm["about"], "stages": stages_of([{"name": n} | values["stages"][n] for n in arm["stages"]])}
        for name, arm in chosen.items()
    }
    return Study(
        dataset or values["dataset"],
        values["preset"],
        values["minutes"] if minutes is None else minutes,
        values["minutes"],
        values["baseline"],
        tuple(values["seeds"] if seeds is None else seeds),
        (*values["settings"], *settings),
        described,
        tuple(values["stages"]),
    )


def stages_of(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """An arm's stages; where one trains the standard encoder, the first that trains the other one copies it."""
    stages = [dict(stage) for stage in stages]
    if any("standard_encoder" in stage["trains"] for stage in stages):
        next(stage for stage in stages if "handwritten_encoder" in stage["trains"])["starts_from_standard"] = True
    return stages


def plan(study: Study, config_path: Path, checkpoints: Path, out: Path) -> Iterator[PlannedRun]:
    """Every arm of the first seed, then every arm of the next. Raises ConfigError for settings that make no sense."""
    for seed in study.seeds:
        for arm, described in study.arms.items():
            stages = f"stages={json.dumps(described['stages'])}"
            settings = [*study.settings, f"seed={seed}", stages]
            minutes = f"{study.minutes:g}"
            config = load_config(config_path, study.dataset, study.preset, settings, minutes=minutes).as_dict()
            name = f"study-{minutes}min-{arm}-{seed}"
            arguments = ["--dataset", study.dataset, "--config", str(config_path), "--preset", study.preset]
            arguments += ["--minutes", minutes, "--validation-only", "--set", *settings]
            yield PlannedRun(
                arm, described["about"], seed, study.minutes, config, checkpoints / name, out / f"{arm}-{seed}.json",
                tuple(arguments),
            )  # fmt: skip


def folder_of_results(study: Study) -> Path:
    """results/study for the minutes of arms.yaml; what is cut down, or longer, lies in a folder of its own there."""
    whole = ARMS.parent
    return whole if study.minutes == study.planned_minutes else whole / f"{study.minutes:g}-minutes"


def describe(study: Study) -> str:
    """The minutes of each stage in each arm."""
    used = {stage["name"] for arm in study.arms.values() for stage in arm["stages"]}
    names = [name for name in study.stages if name in used]
    rows = [("arm", *names)]
    for arm, described in study.arms.items():
        shares = {stage["name"]: stage["share"] for stage in described["stages"]}
        whole = sum(shares.values())
        rows.append((arm, *(f"{study.minutes * shares[n] / whole:.1f}" if n in shares else "" for n in names)))
    return table(rows)


# ---- running ---------------------------------------------------------------------------------------------------------


class Runner:
    """Trains runs beside each other, each on a core of its own, and ends with all that it has started."""

    def __init__(self, cores: Sequence[int]):
        """cores: their numbers; as many runs go at once."""
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for core in cores:
            self.free.put(core)
        self.jobs = len(cores)
        self.running: set[subprocess.Popen] = set()
        self.is_stopped = False

    def run(self, runs: Sequence[PlannedRun]) -> list[str]:
        """All of them. Returns what went wrong, a line each."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return [failure for failure in pool.map(self.finish, runs) if failure]
            except BaseException:  # Ctrl-C and SIGTERM: trainings save their state
                self.is_stopped = True
                for process in list(self.running):
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGTERM)
                raise

    def finish(self, run: PlannedRun) -> str | None:
        """Begin or resume a run, or take it as it is, and write its result. Returns what went wrong."""
        if self.is_stopped:  # a signal came before pool.map had handed all over, so it could not take them back
            return None
        name = f"{run.arm}, seed {run.seed}"
        try:
            if is_done(run):
                print(f"{name}: done before, {run.result}", flush=True)
                return None
            if not (run.folder / "summary.json").is_file() and (failure := self.train(run, name)):
                return failure
            result = result_of(run)
        except (OSError, KeyError, ValueError) as error:  # a broken file of one run; the other runs go on
            return f"{name}: {error if isinstance(error, UserError) else repr(error)}"
        write_result(run.result, result)
        found = result["splits"]["validation"]
        print(f"{name}: ExpRate {found['exprate']:.2f} %, wrong tokens {found['token_error_rate']:.2f} %", flush=True)
        return None

    def train(self, run: PlannedRun, name: str) -> str | None:
        """One training on one core. Returns what went wrong."""
        core = self.free.get()
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            is_begun = (run.folder / "config.yaml").is_file()
            print(f"{name}: {'resumed' if is_begun else 'begun'} on core {core}; {run.folder}", flush=True)
            note_commit(run.folder)
            code = self._run_script(run, is_begun, core)
        finally:
            self.free.put(core)
        if not code:
            return None
        said = (run.folder / "output.txt").read_text(encoding="utf-8").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")
        what = "stopped" if self.is_stopped else f"failed with code {code}"
        return f"{name}: {what}; {run.folder}/output.txt: {last}"

    def _run_script(self, run: PlannedRun, is_begun: bool, core: int) -> int:
        command = [sys.executable, str(ROOT / "train_stage_ABS.py"), *run.arguments]
        command += ["--checkpoints", str(run.folder.parent), "--run", run.folder.name]
        command += ["--resume"] if is_begun else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with open(run.folder / "output.txt", "a", encoding="utf-8") as output:
            hold(output, run)
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes through this process alone, once
            )  # fmt: skip
            keep_to_core(process.pid, core)
            self.running.add(process)
            try:
                if self.is_stopped:  # in the meantime
                    process.send_signal(signal.SIGTERM)
                return process.wait()
            finally:
                self.running.discard(process)


def hold(output: TextIO, run: PlannedRun) -> None:
    """Lock the run's output. The training inherits it, and so keeps it locked as long as it lives, longer than this
    process if need be.   Raises UserError where another training has it.
    """
    with suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another program trains it at this moment, see {run.folder}/output.txt") from None


def keep_to_core(process: int, core: int) -> None:
    """Where the system can; elsewhere one thread at a time is all that a run uses."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, {core})


def cores_for(jobs: int | None) -> list[int]:
    """Of the cores that this process may use, the last `jobs`; all where it is None.   Raises ConfigError for more."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if jobs is not None and not 1 <= jobs <= len(cores):
        raise ConfigError(f"--jobs {jobs}: expected 1 to {len(cores)}, the cores that this program may use")
    return cores[-jobs:] if jobs else cores


def is_done(run: PlannedRun) -> bool:
    """Whether its result is there. Raises ConfigError where that is one of other settings."""
    if not run.result.is_file():
        return False
    kept = json.loads(run.result.read_text(encoding="utf-8"))["config"]
    changed = [key for key, *_ in differences(kept, run.config) if key not in MAY_CHANGE]
    if changed:
        raise ConfigError(f"{run.result}: made with other settings, {', '.join(changed)}; move it away to run it again")
    return True


# ---- what a run leaves -----------------------------------------------------------------------------------------------


def result_of(run: PlannedRun) -> dict[str, Any]:
    """All of a finished run that the study compares; utils/evaluation/study.py reads it."""
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = (run.folder / "validation-predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "arm": run.arm,
        "about": run.about,
        "seed": run.seed,
        "minutes": run.minutes,
        "commit": ", ".join((run.folder / "commits.txt").read_text(encoding="utf-8").split()),
        "hardware": hardware(),
        "versions": summary["versions"],
        "images": sum(line["images"] for line in lines),
        "stages": seconds_of_stages(lines),
        "curve": curve_of(lines, [stage["name"] for stage in run.config["stages"] if stage["images"] != "standard"]),
        "splits": {"validation": summary["splits"]["validation"] | right_and_wrong(map(json.loads, rows))},
        "config": run.config,
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """As JSON, a line for each key: hundreds of names one below the other would be no easier to read."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in result.items())
    atomic_write(path, "{" + ",\n ".join(lines) + "}\n")


def seconds_of_stages(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of training by stage, in order, from the lines of log.jsonl."""
    return {line["stage"]: line["seconds_used"] for line in lines}  # each line has the stage's so far


def curve_of(lines: Sequence[Mapping[str, Any]], on_ink: Sequence[str]) -> list[dict[str, Any]]:
    """Every validation of a log on ink, in the order of time: stage, seconds of training in all stages, and scores.

    on_ink: the stages that are validated on ink.
    """
    points, before, stages = [], 0.0, seconds_of_stages(lines)
    for stage, seconds in stages.items():
        for line in (line for line in lines if line["stage"] == stage and stage in on_ink):
            found = list(line.get("validations_inside", []))
            found += [{"seconds_used": line["seconds_used"]} | line["validation"]] if "validation" in line else []
            points += [
                {"stage": stage, "seconds": round(before + one["seconds_used"], 2)}
                | {name: one[name] for name in ("exprate", "at_most_1", "token_error_rate")}
                for one in found
            ]
        before += seconds
    return points


def right_and_wrong(rows: Iterator[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the items that were read token-exactly, and of the others.   rows: of predictions.jsonl."""
    found: dict[str, list[str]] = {"right": [], "wrong": []}
    for row in rows:
        found["right" if row["prediction"] and row["errors"] == 0 else "wrong"].append(row["id"])
    return found


def note_commit(folder: Path) -> None:
    """In commits.txt: which commit a run is begun with, and others with which it goes on."""
    path, now = folder / "commits.txt", commit()
    noted = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if now not in noted:
        atomic_write(path, "".join(f"{each}\n" for each in [*noted, now]))


def commit() -> str:
    """Of this checkout, with a + where files differ from it; "unknown" outside of one."""
    with suppress(OSError, subprocess.CalledProcessError):
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    return "unknown"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> dict[str, Any]:
    """The kind of CPU, and how many cores there are."""
    kind = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), kind)
    return {"cpu": kind, "cores": os.cpu_count(), "system": platform.system()}


# ---- the test split --------------------------------------------------------------------------------------------------


def read_test(run: PlannedRun, split: str) -> None:
    """Read a test split with the run's final weights and add what was right to its result.   Raises UserError."""
    result = json.loads(run.result.read_text(encoding="utf-8"))
    if split in result["splits"]:
        print(f"{run.arm}, seed {run.seed}: {split} was read before", flush=True)
        return
    weights, out = run.folder / f"{run.config['stages'][-1]['name']}-best.safetensors", run.folder / split
    command = [sys.executable, str(ROOT / "evaluate.py"), "--checkpoint", str(weights), "--out", str(out)]
    command += ["--dataset", run.config["dataset"], "--split", split, "--gallery", "0"]
    command += ["--root", str(from_root(run.config["data"]["root"]))]
    print(f"{run.arm}, seed {run.seed}:", flush=True)
    if subprocess.run(command, cwd=ROOT).returncode:
        raise UserError(f"{run.arm}, seed {run.seed}: {split} could not be read with {weights}; see above")
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    rows = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    exact = {name: value for name, value in scores["exact"].items() if name != "interval"}
    result["splits"][split] = {"items": scores["items"]} | exact | right_and_wrong(map(json.loads, rows))
    write_result(run.result, result)


# ---- the script ------------------------------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="of training a run; default: those of arms.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="default: those of arms.yaml")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="default: all")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once, each on a core; default: all cores")
    parser.add_argument("--dataset", metavar="NAME", help="default: that of arms.yaml")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for all arms")
    parser.add_argument("--study", type=Path, default=ARMS, metavar="FILE", help="default: results/study/arms.yaml")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="default: config.yaml")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="FOLDER", help="of the runs")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the results; default: beside arms.yaml")
    parser.add_argument("--list", action="store_true", help="show the minutes of each stage, and train nothing")
    parser.add_argument("--test", metavar="SPLIT", help="read this split with the weights of runs that are done")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    chosen = options.minutes, options.seeds, options.arms, options.dataset, options.set
    study = read_study(options.study, *chosen)
    print(describe(study) + "\n", flush=True)
    out = options.out or folder_of_results(study)
    runs = list(plan(study, options.config, options.checkpoints, out))
    if options.list:
        return 0
    if options.test:
        unfinished = [run for run in runs if not is_done(run)]
        if unfinished:
            names = ", ".join(f"{run.arm} with seed {run.seed}" for run in unfinished)
            raise ConfigError(f"--test {options.test}: first all runs, then the test split; not done: {names}")
        for run in runs:
            read_test(run, options.test)
        compare(sorted(out.glob("*.json")), study.baseline, out / "curves.png")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    failures = Runner(cores_for(options.jobs)).run(runs)
    if any(run.result.is_file() for run in runs if run.arm == study.baseline):
        compare(sorted(out.glob("*.json")), study.baseline, out / "curves.png")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_script(main, go_on="the same command goes on")
