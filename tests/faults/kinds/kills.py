"""kill -9 at random moments of a run of three stages, resumed until it comes through; then every weight is compared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import yaml

from tests.faults.campaign import Case, Kind
from tests.tiny_training import TINY
from utils.project import ROOT
from utils.training.distributed import DistributedContext
from utils.training.run_folder import load_checkpoint

STAGES = ("standard", "alignment", "handwritten")
MAX_KILLS = 6  # of one run
MODES = {"fixed": (), "adaptive": ("--set", "batch.max_pixels=30000"), "two": ()}  # two: processes that train together
SECONDS_TO_MEET = 2  # for one that was about to, when the other one was killed
SECONDS_TO_END = 60  # for what is left of a run of two processes, one of which was killed


def train(home: Path, mode: str, run: str, resume: bool) -> int:
    """train_stage.py, or train_stage_ABS.py, in this process."""
    import train_stage

    places = ["--checkpoints", str(home / "runs"), "--config", str(home / "config.yaml")]
    arguments = ["--dataset", "TINY", "--preset", "tiny", "--run", run, "--device", "cpu", *places, *MODES[mode]]
    sys.argv = ["train_stage.py", *arguments, *(["--resume"] if resume else [])]
    return train_stage.main("adaptive" if mode == "adaptive" else "fixed")


def begin(home: Path, mode: str, run: str, resume: bool) -> list[int]:
    """Begin a training in a process of its own, or in two that torchrun would begin; returns their ids."""
    if mode != "two":
        return [forked(lambda: train(home, mode, run, resume))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def train_as(rank: int) -> int:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        join = DistributedContext.join

        def join_and_say(device: torch.device) -> DistributedContext:
            context = join(device)
            met(os.getpid()).touch()
            return context

        DistributedContext.join = join_and_say
        return train(home, mode, run, resume)

    return [forked(lambda rank=rank: train_as(rank)) for rank in range(2)]


def met(child: int) -> Path:
    """There when this process has met the other one."""
    return Path(f"made/met-{child}")


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


def make(folder: Path, modes: Sequence[str] = ("fixed", "adaptive")) -> Case:
    make_home(folder)
    whole, seconds = {}, {}
    for mode in modes:
        started = time.monotonic()
        for child in begin(folder, mode, f"whole-{mode}", False):
            assert os.waitpid(child, 0)[1] == 0, Path("made/forked.txt").read_text()[-2000:]
        seconds[mode] = time.monotonic() - started
        whole[mode] = weights_of(folder / "runs" / f"whole-{mode}")

    def case(random: random.Random, place: Path) -> None:
        mode, run = random.choice(modes), folder / "runs" / "killed"
        shutil.rmtree(run, ignore_errors=True)
        kills = 0
        while True:
            children = begin(folder, mode, "killed", (run / "config.yaml").exists())
            if kills < MAX_KILLS:
                watched = run if random.random() < 0.5 else None
                kill_in(children, random.uniform(0.02, 1.1) * seconds[mode], watched, random)
            statuses = wait_for(children)
            if any(map(os.WIFSIGNALED, statuses)):
                kills += 1
                for path in run.glob("[!.]*.safetensors"):
                    load_checkpoint(path)
                continue
            assert not any(statuses), Path("made/forked.txt").read_text()[-2000:]
            break
        same = weights_of(run) == whole[mode]
        assert same, f"{mode}: other weights than those of a run never stopped, after {kills} kills"
        os.truncate("made/forked.txt", 0)

    return case


def kill_in(children: list[int], seconds: float, run: Path | None, random: random.Random) -> None:
    """Kill all processes of a run, or one of them, after so many seconds; with `run`, then within its next write."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if has_ended(children[0]):
            return
        time.sleep(0.002)
    waited = time.monotonic() + 0.5
    while run is not None and time.monotonic() < waited and not list(run.glob(".*.partial*")):
        pass
    for child in random.choice([children, *([child] for child in children)]):
        os.kill(child, signal.SIGKILL)


def has_ended(child: int) -> bool:
    """Without taking its status, which wait_for() returns."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_for(children: list[int]) -> list[int]:
    """The statuses of processes. Where one was killed, the others must end by themselves, and soon.

    One that waits for a process killed before they met would wait for minutes. torchrun ends it; so does this.
    """
    statuses: dict[int, int] = {}
    first_end = None
    while len(statuses) < len(children):
        for child in set(children) - statuses.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses[child] = status
        if first_end is None and any(statuses.values()):
            first_end = time.monotonic()
        waited = time.monotonic() - first_end if first_end is not None else 0
        for child in set(children) - statuses.keys():
            if waited > (SECONDS_TO_END if met(child).exists() else SECONDS_TO_MEET):
                os.kill(child, signal.SIGKILL)
                if met(child).exists():
                    raise AssertionError(f"one process was killed, and the other still waits after {SECONDS_TO_END} s")
        time.sleep(0.002)
    return [statuses[child] for child in children]


KINDS = [
    Kind("kills", make, share=0, cpu_seconds=120, memory_bytes=4_000_000_000),
    Kind("kills_of_two", partial(make, modes=["two"]), share=0, cpu_seconds=120, memory_bytes=4_000_000_000),
]
