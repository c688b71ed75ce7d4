"""All that a quarter of an hour on a GPU can tell, by one command: make gpu

    MINUTES=8 make gpu                          for a call that may take ten minutes
    MINUTES=8 make gpu ARGS='--preset further --init checkpoints/crohme.safetensors'
                                                weights learn on
    MINUTES=8 make gpu ARGS=--resume            goes on where a call before was cut off, on the same machine, and adds
                                                to its summary
    make gpu MINUTES=3 ARGS='--preset small'    the same on a CPU

Parts, the most valuable first, each with a limit of its own:

    data     the InkML of datasets/train.tar.xz and 2014.tar.xz -> datasets/CROHME_INK; without them, SAMPLE
    tests    pytest -m gpu, beside the preparation of the data
    speed    seconds a step of a few settings, and a profile; see tests/benchmarks/gpu_speed.py
    stages   the preset by minutes, all its stages, with the fastest settings; scores on validation and test
    ink      if time is left (--train-minutes), ink alone for the same minutes

The folder of results ($OUT, else results/gpu, whose former content is moved aside) holds seven files: summary.json
(times, settings and speeds, scores; written again after each part), log.txt, tests.txt, runs.jsonl (a line an epoch),
stages.safetensors and ink.safetensors (16 bits, ready to read with), stages.png (curves). They are brought up to date
while a run goes on, so nothing is lost when the whole is killed. What is missing in this Python is installed from
datasets/wheels, see make gpu-wheels.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
DATASETS, CHECKPOINTS = ROOT / "datasets", ROOT / "checkpoints"
WHEELS = DATASETS / "wheels"
# Modules of requirements.txt and of the tests that a Python made for GPUs may lack, and their packages.
MODULES = {"pydantic": "pydantic", "filelock": "filelock", "jinja2": "jinja2", "rapidfuzz": "rapidfuzz",
           "hypothesis": "hypothesis", "pytest": "pytest", "safetensors": "safetensors", "tqdm": "tqdm"}  # fmt: skip
PARTS = ("data", "tests", "speed", "stages", "ink")
# Seconds at most, and as a share of all the time.
LIMITS = {"data": (150, 0.6), "tests": (90, 0.25), "speed": (60, 0.25)}
TEST_PROCESSES, TEST_THREADS = 4, 2  # that run tests side by side, where pytest-xdist is there; of a CPU, in each
# Of the time that is left, a run needs seconds (at most this share) to start, and to read validation and test; and its
# minutes of training come with validations between them.
STARTING, SCORING, SHARE, VALIDATING = 30, 40, 0.4, 1.25
COLLECT_EVERY = 15  # seconds
STOPPING = 25  # seconds that a run may take to save its state and end


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="for everything; default: %(default)s")
    parser.add_argument("--train-minutes", type=float, help="of `stages`; default: what is left for it")
    each = "that share the GPU and a step; batch.max_pixels and data.workers are of each; default: %(default)s"
    parser.add_argument("--processes", type=int, default=1, metavar="N", help=each)
    parser.add_argument("--preset", default="gpu", help="default: %(default)s")
    parser.add_argument("--init", type=os.path.abspath, help="weights that parts `stages` and `ink` start from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--validation-only", action="store_true", help="leave the test split unread")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run, without tests and speed")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.init and not os.path.exists(options.init):
        parser.error(f"--init {options.init}: not found")
    if options.processes > 1 and options.device == "auto":
        options.device = "cuda:0"  # the same for all
    if options.resume:
        options.parts = [part for part in options.parts if part not in ("tests", "speed")]
    return options


class Report:
    """The folder of results, and what summary.json says; the file is whole at any time."""

    def __init__(self, folder: Path, minutes: float, goes_on: bool = False):
        """goes_on: add to what an earlier call has left in the folder; otherwise that is moved aside."""
        self.folder, self.started, self.seconds = folder, time.monotonic(), 60 * minutes
        earlier: dict[str, Any] = {}
        if (folder / "summary.json").is_file():
            earlier = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            if not goes_on:
                folder.rename(free_name(folder, earlier["begun"]))
                earlier = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.log = open(folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115
        now = {
            "command": sys.argv[1:],
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        }
        began = datetime.now().isoformat(timespec="seconds")
        self.summary: dict[str, Any] = {"begun": began, "times": []} | earlier | now
        self.seconds_before = earlier.get("seconds", 0.0)

    @property
    def left(self) -> float:
        """Seconds of the whole."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, part: str, started: float, limit: float, outcome: str) -> None:
        row = {"part": part, "seconds": round(time.monotonic() - started, 1), "limit": round(limit), "outcome": outcome}
        self.summary["times"].append(row)
        self.say(f"{part}: {outcome}, {row['seconds']} s")
        self.write()

    def say(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.log, flush=True)

    def write(self) -> None:
        self.summary["seconds"] = round(self.seconds_before + time.monotonic() - self.started, 1)
        write(self.folder / "summary.json", json.dumps(self.summary, indent=1) + "\n")

    def table(self) -> str:
        rows = [("part", "seconds", "limit", "outcome")]
        rows += [(row["part"], f"{row['seconds']:.1f}", row["limit"], row["outcome"]) for row in self.summary["times"]]
        rows.append(("all", f"{self.summary['seconds']:.1f}", round(self.seconds_before + self.seconds), ""))
        return "\n".join(f"{part:8}  {seconds:>7}  {limit:>5}  {outcome}" for part, seconds, limit, outcome in rows)


def free_name(folder: Path, begun: str) -> Path:
    """Beside the folder: gpu-2026-01-31T12.00.00, or the same with a number."""
    names = (f"{folder.name}-{begun.replace(':', '.')}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(path for name in names if not (path := folder.with_name(name)).exists())


def write(path: Path, text: str) -> None:
    """Under a temporary name, then renamed."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


# ---- programs with a limit -------------------------------------------------------------------------------------------


class Program:
    """A Python program that runs beside this one and writes to a file."""

    running: list[Program] = []

    def __init__(self, name: str, limit: float, arguments: list[str], output: Any, threads: int | None = None):
        """threads: that compute on the CPU in a process; None: as many as torch likes."""
        self.name, self.limit, self.started = name, limit, time.monotonic()
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        command = [sys.executable, *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            process_group=0,
        )  # fmt: skip
        Program.running.append(self)

    def wait(self, report: Report, meanwhile: Any = None) -> str:
        """Until it ends or its limit is there: then it is told to stop, and after a while made to. Says which."""
        while self.process.poll() is None and self.seconds_left > 0:
            try:
                self.process.wait(max(0.1, min(COLLECT_EVERY, self.seconds_left)))
            except subprocess.TimeoutExpired:
                if meanwhile:
                    meanwhile()
        outcome = self.stop()
        report.add(self.name, self.started, self.limit, outcome)
        return outcome

    @property
    def seconds_left(self) -> float:
        return self.limit - (time.monotonic() - self.started)

    def stop(self, patience: float = STOPPING - 5) -> str:
        was_running = self.process.poll() is None
        if was_running:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError):  # what it had started, and left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        Program.running.remove(self)
        return "stopped at its limit" if was_running else "done" if not self.process.returncode else self.failure()

    def failure(self) -> str:
        return f"failed with code {self.process.returncode}, see log.txt"


def stop_all(number: int, frame: Any) -> None:
    """What was started ends with this program; trainings save their state."""
    for program in list(Program.running):
        program.stop(patience=5)
    sys.exit(128 + number)


# ---- the parts -------------------------------------------------------------------------------------------------------


def install_what_is_missing(report: Report) -> None:
    missing = [package for module, package in MODULES.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return
    started, site = time.monotonic(), WHEELS / "site"
    if not WHEELS.is_dir():
        raise SystemExit(f"{sys.executable} lacks {', '.join(missing)}: make gpu-wheels brings them to {WHEELS}")
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(WHEELS), "--target", str(site)]
    subprocess.run([sys.executable, *install, "--upgrade", *missing], check=True)
    sys.path.append(str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)]))
    report.add("wheels", started, 0, f"installed {', '.join(missing)}")


def choose_dataset() -> str:
    is_there = (DATASETS / "CROHME_INK" / "vocabulary.txt").is_file()
    return "CROHME_INK" if is_there or (DATASETS / "train.tar.xz").is_file() else "SAMPLE"


def configuration(options: argparse.Namespace, dataset: str) -> Config:
    """What train_stage_ABS.py makes of --preset, --init and --set."""
    from utils.config.loading import load_config
    from utils.training.initialization import settings_of_weights

    weights = settings_of_weights(options.init) if options.init else None
    return load_config(ROOT / "config.yaml", dataset, options.preset, options.set, weights=weights)


def passed_on(options: argparse.Namespace) -> list[str]:
    """The flags that every program takes alike, but for --set."""
    flags = ["--preset", options.preset, "--device", options.device]
    return flags + (["--init", options.init] if options.init else [])


def prepare_data(options: argparse.Namespace) -> None:
    """Runs in a program of its own: the data set, and what every stage of the configuration draws from."""
    started, dataset = time.monotonic(), choose_dataset()
    if dataset == "CROHME_INK" and not (DATASETS / dataset / "vocabulary.txt").is_file():
        inkml = DATASETS / "inkml"
        for archive in sorted(DATASETS.glob("*.tar.xz")):
            print(f"unpacking {archive.name}", flush=True)
            with tarfile.open(archive) as files:
                files.extractall(inkml, filter="data")
        print(f"unpacked after {time.monotonic() - started:.1f} s", flush=True)
        subprocess.run([sys.executable, "prepare.py", inkml, "--dataset", dataset, "--skip-bad"], cwd=ROOT, check=True)
        shutil.rmtree(inkml)
        print(f"prepared after {time.monotonic() - started:.1f} s", flush=True)
    sys.path.insert(0, str(ROOT))
    from dataset.loading.loaders import make_loaders, open_data

    config = configuration(options, dataset)
    data = open_data(config.data, dataset, config.seed)
    for stage in {stage.images: stage for stage in config.stages}.values():
        make_loaders(data, stage, config, "fixed", 16)
    print(f"{dataset}: {data.describe()}; ready after {time.monotonic() - started:.1f} s", flush=True)


def train(report: Report, options: argparse.Namespace, name: str, run: str, arguments: list[str]) -> None:
    """One run: train_stage_ABS.py with a limit, its results brought over while it goes on."""
    collector = Collector(report, CHECKPOINTS / run, name)
    command = ["train_stage_ABS.py", "--run", run, *arguments]
    if options.processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.processes}", "--"]
        command = torchrun + command
    report.say(f"{name}: {' '.join(command)}")
    program = Program(name, report.left - STOPPING, command, report.log)
    try:
        is_done = program.wait(report, collector.collect) == "done"
    finally:  # when all is told to stop, too
        collector.collect(is_last=True)
    collector.add_scores(options, is_done)


class Collector:
    """Brings what a run has so far into the folder of results."""

    def __init__(self, report: Report, folder: Path, name: str):
        self.report, self.run, self.name = report, folder, name
        self.weights = report.folder / f"{name}.safetensors"
        self.published = 0  # when the weights were written that are there
        self.of_others = [line for line in self._lines() if line["run"] != name]

    def collect(self, is_last: bool = False) -> None:
        """Never an error: the run matters more."""
        best = self._best_weights()
        has_changed = best is not None and best.stat().st_mtime_ns != self.published
        for work in (self._log, *([self._publish] if has_changed else []), *([self._curves] if is_last else [])):
            try:
                work()
            except Exception as error:
                self.report.say(f"{self.name}: {type(error).__name__}: {error}")

    def _lines(self) -> list[dict]:
        path = self.report.folder / "runs.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def _log(self) -> None:
        if (self.run / "log.jsonl").is_file():
            lines = (self.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
            own = [{"run": self.name, **json.loads(line)} for line in lines]
            text = "".join(json.dumps(line) + "\n" for line in self.of_others + own)
            write(self.report.folder / "runs.jsonl", text)

    def _publish(self) -> None:
        from utils.training.publish import publish

        best = self._best_weights()
        self.published = best.stat().st_mtime_ns
        size = publish(best, self.weights)
        self.report.say(f"{self.name}: weights of {best.name}, {size / 1e6:.1f} MB")

    def _best_weights(self) -> Path | None:
        """Of the last stage so far that has taught the encoder of handwriting."""
        import yaml

        if not (self.run / "config.yaml").is_file():
            return None
        stages = yaml.safe_load((self.run / "config.yaml").read_text(encoding="utf-8"))["stages"]
        taught = [stage["name"] for stage in stages if "handwritten_encoder" in stage["trains"]]
        found = [path for name in taught if (path := self.run / f"{name}-best.safetensors").is_file()]
        return found[-1] if found else None

    def _curves(self) -> None:
        from utils.plots import draw_curves

        lines = [line for line in self._lines() if line["run"] == self.name]
        if self.name == "stages" and lines:
            draw_curves(lines, self.report.folder / "stages.png", self.run.name)

    def add_scores(self, options: argparse.Namespace, is_done: bool) -> None:
        """Those that the run has found; for one that did not come to its end, of the test split with its weights."""
        about = self.report.summary.setdefault(self.name, {"run": self.run.name})
        if is_done and (self.run / "summary.json").is_file():
            summary = json.loads((self.run / "summary.json").read_text(encoding="utf-8"))
            about |= {"scores": summary["splits"], "config": summary["config"]}
        elif self.weights.is_file() and self.report.left > SCORING / 2:
            dataset = choose_dataset()
            split, folder = "test" if dataset == "SAMPLE" else "2014", self.run / "scores"
            split = "validation" if options.validation_only else split
            command = ["evaluate.py", "--checkpoint", str(self.weights), "--dataset", dataset, "--split", split]
            command += ["--device", options.device, "--out", str(folder)]
            Program(f"{self.name} scores", self.report.left - 5, command, self.report.log).wait(self.report)
            if (folder / "scores.json").is_file():
                scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
                about["scores"] = {split: {name: x for name, x in scores.items() if isinstance(x, int | float)}}
        self.report.write()


def ink_alone(options: argparse.Namespace) -> str:
    """An assignment of `stages`: one stage that shows the images of ink alone, with the losses that they have."""
    stage = next(stage for stage in configuration(options, choose_dataset()).stages if stage.images == "ink")
    ink = {"name": "handwritten", "images": "ink", "trains": ["handwritten_encoder", "decoder"], "augment": True}
    ink |= {"losses": stage.losses, "epochs": stage.epochs, "learning_rate": stage.learning_rate}
    return f"stages={json.dumps([ink])}"


def newest_run(name: str) -> str | None:
    runs = sorted(path.parent.name for path in CHECKPOINTS.glob(f"gpu-{name}-*/config.yaml"))
    return runs[-1] if runs else None


def train_all(report: Report, options: argparse.Namespace, chosen: list[str]) -> None:
    """Parts `stages` and `ink`."""
    stamp = f"{datetime.now():%m%d-%H%M%S}"
    common = ["--dataset", choose_dataset(), *passed_on(options)]
    reads = ["--validation-only"] if options.validation_only else []
    minutes = options.train_minutes
    for name in ("stages", "ink"):
        old = newest_run(name) if options.resume else None
        if name not in options.parts or (name == "ink" and minutes is None and not old):
            continue
        if old:
            arguments = ["--resume", *reads] + (["--minutes", str(minutes)] if minutes else [])
            train(report, options, name, old, arguments)
            continue
        left = max(report.left - STARTING - SCORING, (1 - SHARE) * report.left) / VALIDATING / 60
        if left < min(0.25, minutes or 1) or (name == "ink" and left < minutes):
            report.add(name, time.monotonic(), report.left, "no time left")
            continue
        planned = round(minutes or left, 2)
        assignments = chosen + options.set + ([ink_alone(options)] if name == "ink" else [])
        arguments = [*common, *reads, "--minutes", str(planned)] + (["--set", *assignments] if assignments else [])
        train(report, options, name, f"gpu-{name}-{stamp}", arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, stop_all)
    signal.signal(signal.SIGINT, stop_all)
    report = Report(Path(os.environ.get("OUT") or ROOT / "results" / "gpu"), options.minutes, options.resume)
    install_what_is_missing(report)
    sys.path.insert(0, str(ROOT))
    settings = passed_on(options) + (["--set", *options.set] if options.set else [])
    limits = {part: min(seconds, share * report.seconds) for part, (seconds, share) in LIMITS.items()}

    data = tests = None
    if "data" in options.parts:
        prepare = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu; gpu.prepare_data(gpu.parse())"
        )
        data = Program("data", limits["data"], ["-c", prepare, *settings], report.log)
    if "tests" in options.parts:
        with open(report.folder / "tests.txt", "w", encoding="utf-8") as output:
            command = ["-m", "pytest", "-m", "gpu", "-vv", "-p", "no:cacheprovider", "--tb=short", "tests/gpu"]
            if importlib.util.find_spec("xdist"):
                command += ["-n", str(TEST_PROCESSES)]
            tests = Program("tests", limits["tests"], command, output, TEST_THREADS)
    if tests:
        tests.wait(report)
    if data:
        data.wait(report)

    speed = report.folder / "speed.json"
    if "speed" in options.parts:
        command = ["tests/benchmarks/gpu_speed.py", "--dataset", choose_dataset(), "--out", str(speed)]
        command += ["--seconds", f"{limits['speed'] - 25:.0f}", "--training-seconds", f"{report.left - 120:.0f}"]
        Program("speed", limits["speed"], [*command, *settings], report.log).wait(report)
    if speed.is_file():
        report.summary["speed"] = json.loads(speed.read_text(encoding="utf-8"))
        report.write()
        speed.unlink()
    train_all(report, options, report.summary.get("speed", {}).get("chosen", []))
    report.write()
    report.say("\n" + report.table())
    for name in ("stages", "ink"):
        for split, scores in report.summary.get(name, {}).get("scores", {}).items():
            report.say(
                f"{name}, {split}: ExpRate {scores['exprate']:.2f} %, wrong tokens {scores['token_error_rate']:.2f} %"
            )


if __name__ == "__main__":
    main()
