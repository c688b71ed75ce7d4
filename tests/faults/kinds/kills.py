"""kill -9 at random moments of a run of three stages, resumed until it comes through; then every weight is compared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml

from tests.faults.campaign import Case, Kind
from tests.test_scripts import TINY
from utils.project import ROOT
from utils.training.run_folder import load_checkpoint

STAGES = ("standard", "alignment", "handwritten")
MAX_KILLS = 6  # of one run
MODES = {"fixed": (), "adaptive": ("--set", "batch.max_pixels=30000")}


def train(home: Path, mode: str, run: str, resume: bool) -> int:
    """train_stage.py, or train_stage_ABS.py, in this process."""
    import train_stage

    arguments = [
        "--dataset",
        "TINY",
        "--preset",
        "tiny",
        "--run",
        run,
        "--device",
        "cpu",
        "--checkpoints",
        str(home / "runs"),
    ]
    sys.argv = [
        "train_stage.py",
        *arguments,
        "--config",
        str(home / "config.yaml"),
        *MODES[mode],
        *(["--resume"] if resume else []),
    ]
    return train_stage.main("adaptive" if mode == "adaptive" else "fixed")


def forked(work) -> int:
    """Begin work in a process of its own, with quiet streams; returns its id."""
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        quiet = os.open("made/forked.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            code = work() or 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = 3
        sys.stderr.flush()
        os._exit(code)
    return child


def make_home(folder: Path) -> None:
    """A data set of some images, and a configuration of tiny networks that saves at every step."""
    from dataset.images.sample import make_sample

    values = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    values["presets"]["tiny"] = TINY
    values["data"]["root"] = str(folder / "datasets")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    make_sample(folder / "datasets" / "TINY", train_labels=40, test_labels=8, workers=1, progress=False)


def weights_of(folder: Path) -> dict[str, bytes]:
    return {stage: (folder / f"{stage}-best.safetensors").read_bytes() for stage in STAGES}


def make(folder: Path) -> Case:
    make_home(folder)
    whole, seconds = {}, {}
    for mode in MODES:
        started = time.monotonic()
        _, status = os.waitpid(forked(lambda mode=mode: train(folder, mode, f"whole-{mode}", False)), 0)
        assert status == 0, Path("made/forked.txt").read_text()[-2000:]
        seconds[mode] = time.monotonic() - started
        whole[mode] = weights_of(folder / "runs" / f"whole-{mode}")

    def case(random: random.Random, place: Path) -> None:
        mode, run = random.choice(tuple(MODES)), folder / "runs" / "killed"
        shutil.rmtree(run, ignore_errors=True)
        kills = 0
        while True:
            child = forked(lambda: train(folder, mode, "killed", (run / "config.yaml").exists()))
            status = None
            if kills < MAX_KILLS:
                status = _killed_in(
                    child, random.uniform(0.02, 1.1) * seconds[mode], run if random.random() < 0.5 else None, random
                )
            if status is None:
                _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                for path in run.glob("[!.]*.safetensors"):
                    load_checkpoint(path)
                continue
            assert status == 0, Path("made/forked.txt").read_text()[-2000:]
            break
        assert weights_of(run) == whole[mode], (
            f"{mode}: other weights than those of a run never stopped, after {kills} kills"
        )
        os.truncate("made/forked.txt", 0)

    return case


def _killed_in(child: int, seconds: float, run: Path | None, random: random.Random) -> int | None:
    """Kill a process after so many seconds; with `run`, then within its next write. None where it ended by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    waited = time.monotonic() + 0.5
    while run is not None and time.monotonic() < waited and not list(run.glob(".*.partial*")):
        pass
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


KINDS = [Kind("kills", make, share=0, cpu_seconds=120, memory_bytes=4_000_000_000)]
