"""Runs a kind of fault many times over, in a process with limits, and says what was not as it should be.

A case is good when the program gave a result, told when it refused in words (a UserError), and a finding otherwise:
another exception, more time or memory than the kind allows, a process that ended, a file outside the case's folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from utils.errors import UserError

# case(random, folder): puts one fault in and looks at what the program makes of it. `folder` is empty, and its own.
Case = Callable[[random.Random, Path], object]
# Named in data that tries to get code run, or a file written elsewhere: nothing by this name may ever exist.
CANARY = "canary-of-the-campaign"
STALLED_SECONDS = 7200  # without a word from the process that runs the cases


class Kind(NamedTuple):
    """A kind of fault.

    name: on the command line.   make(folder): sets up, once in a process, and returns what runs a case.   share: cases
    in the suite's run.   cpu_seconds, memory_bytes: what a case may take, and more memory than before it.
    """

    name: str
    make: Callable[[Path], Case]
    share: int
    cpu_seconds: float = 1.0
    memory_bytes: int = 500_000_000


class Finding(NamedTuple):
    """What went wrong. number: of the case; with the kind and the seed, it is the same again."""

    number: int
    what: str
    where: str = ""


@dataclass
class Result:
    """Of so many cases of a kind: how many were good, told or findings, and the findings."""

    kind: str
    seed: int
    counts: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __str__(self) -> str:
        cases = sum(self.counts.values())
        told = ", ".join(f"{number} {name}" for name, number in sorted(self.counts.items()))
        return f"{self.kind}: seed {self.seed}, {cases} cases in {self.cpu_seconds:.0f} s of CPU: {told}"


class Hang(BaseException):
    """A case took far too long. No Exception, so that nobody who catches those mistakes it for a broken file."""


def run(kind: Kind, seed: int, numbers: range, folder: Path) -> Result:
    """Run the cases of these numbers. A process that ends on the way is a finding, and another one goes on."""
    result = Result(kind.name, seed)
    remaining = list(numbers)
    while remaining:
        done = _run_in_process(kind, seed, remaining, folder, result)
        remaining = remaining[done:]
    return result


def random_of(kind: str, seed: int, number: int) -> random.Random:
    """What decides a case: the same on every machine."""
    chosen = random.Random(f"{kind} {seed} {number}")
    chosen.number = number  # for kinds that go through a list
    return chosen


def _run_in_process(kind: Kind, seed: int, numbers: list[int], folder: Path, result: Result) -> int:
    """Run cases in a process of their own, which has limits. Returns how many of them are done with."""
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(read_end)
        with open(write_end, "w", buffering=1) as told:
            try:
                _tell_cases(kind, seed, numbers, folder, told)
            except BaseException:
                told.write(json.dumps({"broken": traceback.format_exc()}) + "\n")
        os._exit(0)  # nothing of the parent's is flushed or cleaned up twice
    os.close(write_end)
    done = 0
    with open(read_end, "rb", buffering=0) as pipe:
        for line in _lines(pipe, child):
            report = json.loads(line)
            if "outcome" in report:
                result.counts[report["outcome"]] += 1
                done += 1
            elif "broken" in report:
                raise RuntimeError(f"{kind.name} cannot be run: {report['broken']}")
            elif "cpu" in report:
                result.cpu_seconds += report["cpu"]
            else:
                result.findings.append(Finding(**report))
    _, status = os.waitpid(child, 0)
    if status and done < len(numbers):
        code = os.waitstatus_to_exitcode(status)
        result.findings.append(Finding(numbers[done], f"the process ended with {code}, or stalled"))
        result.counts["finding"] += 1
        done += 1
    return done


def _lines(pipe: IO[bytes], child: int) -> Iterator[bytes]:
    """What the process says; one that says nothing for too long is ended."""
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], STALLED_SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
            return
        data = pipe.read(65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


# ---- in the process --------------------------------------------------------------------------------------------------


def _tell_cases(kind: Kind, seed: int, numbers: list[int], folder: Path, told: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "made").mkdir(parents=True)
    os.chdir(folder)
    quiet = open(folder / "printed.txt", "w+", encoding="utf-8")  # noqa: SIM115
    for stream in (1, 2):  # what libraries of C print, too
        os.dup2(quiet.fileno(), stream)
    faulthandler.enable(quiet)
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        case = kind.make(folder / "made")
        kept = _names(folder)
        started = time.process_time()
        with _limits(kind):
            for number in numbers:
                quiet.seek(0)
                quiet.truncate()
                outcome = run_case(kind, case, seed, number, folder / "case")
                outcome = _strangers(folder, kept, number) or outcome
                if isinstance(outcome, Finding):
                    told.write(json.dumps(outcome._asdict()) + "\n")
                told.write(json.dumps({"outcome": outcome if isinstance(outcome, str) else "finding"}) + "\n")
        told.write(json.dumps({"cpu": time.process_time() - started}) + "\n")


def run_case(kind: Kind, case: Case, seed: int, number: int, folder: Path) -> Finding | str:
    """Run one case in a folder that is empty before and gone after. Returns "good", "told", or what went wrong."""
    folder.mkdir()
    measure_memory_from_here()
    started = time.process_time()
    outcome: Finding | str = "good"
    try:
        with _watched(kind.cpu_seconds):
            case(random_of(kind.name, seed, number), folder)
    except UserError as error:
        outcome = "told"
        if not str(error).strip():
            outcome = Finding(number, f"{type(error).__name__} without a word", _where(error))
    except (Exception, Hang) as error:
        outcome = Finding(number, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", _where(error))
    seconds, taken = time.process_time() - started, _memory_peak() - _memory_before
    if isinstance(outcome, str) and seconds > kind.cpu_seconds:
        outcome = Finding(number, f"took {seconds:.1f} s of CPU")
    if isinstance(outcome, str) and taken > kind.memory_bytes:
        outcome = Finding(number, f"took {taken / 1e6:.0f} MB of memory")
    shutil.rmtree(folder)
    return outcome


def _where(error: BaseException) -> str:
    """The last lines of our own code that it came through."""
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return " > ".join(frames[-5:])


@contextlib.contextmanager
def _watched(cpu_seconds: float) -> Iterator[None]:
    """Raises Hang in what takes five times as long as it may, and in what waits.

    Waiting is told from a machine that has no time for this process by its length alone.
    """

    def give_up(number: int, _: object) -> None:
        raise Hang("takes far too long" if number == signal.SIGPROF else "waits for something that does not come")

    handlers = {number: signal.signal(number, give_up) for number in (signal.SIGPROF, signal.SIGALRM)}
    limits = resource.getrlimit(resource.RLIMIT_CPU)
    signal.setitimer(signal.ITIMER_PROF, 5 * cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, 300 + 100 * cpu_seconds)
    used = int(time.process_time())
    resource.setrlimit(
        resource.RLIMIT_CPU, (used + int(20 * cpu_seconds) + 1, resource.RLIM_INFINITY)
    )  # in C code, too
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_CPU, limits)  # else what comes later in this process is killed
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _limits(kind: Kind) -> Iterator[None]:
    """At most some gigabytes more than now, so that a case that asks for all memory hurts nobody else."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * kind.memory_bytes + 1_000_000_000, resource.RLIM_INFINITY))
    yield


_memory_before = 0


def measure_memory_from_here() -> None:
    """What a case took until now was for making its fault, and does not count.

    What is free goes back to the system: the C library keeps some, which a case could take without a new page.
    """
    global _memory_before
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    _memory_before = _memory_peak()


def _memory_peak() -> int:
    """The most memory that this process had since measure_memory_from_here(), in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _names(folder: Path) -> set[str]:
    return {path.as_posix() for path in folder.iterdir()}


def _strangers(folder: Path, kept: set[str], number: int) -> Finding | None:
    strangers = sorted(_names(folder) - kept) + [name for name in (CANARY,) if Path("/tmp", name).exists()]
    return Finding(number, f"written outside its folder: {', '.join(strangers)}") if strangers else None
