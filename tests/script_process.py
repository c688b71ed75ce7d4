"""The scripts in processes of their own that start at once: forked from one that has imported what they need.

A process that imports torch and all that training imports takes seconds before it does anything. Here one process per
run of the suite imports them, and each script is a fork of it (or a fresh process, where there is no fork). For a
script nothing else differs: it is run as `__main__`, with its own arguments, folder, streams, signals and exit code.
That a script imports all it needs by itself is told by those that start fresh: one or two of each.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# torch._dynamo: every optimizer imports it. matplotlib: the curves and the sheet of a run.
IMPORTED = ["torch", "torch._dynamo", "cv2", "matplotlib.backends.backend_agg", "matplotlib.figure",
            "dataset.loading.loaders", "models.recognizer", "utils.reading.reader", "utils.training.trainer",
            "utils.training.report"]  # fmt: skip
CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()
QUICK = multiprocessing.get_context("forkserver" if CAN_FORK else "spawn")
if CAN_FORK:
    QUICK.set_forkserver_preload(IMPORTED)


class ScriptProcess:
    """A script that runs, with the methods of subprocess.Popen that tests use.

    arguments: of the command line.   folder: where it is started.   before: called in the process before the script,
    such as os.setsid.
    """

    def __init__(self, script: str, *arguments: str, folder: Path, before: Callable[[], object] | None = None):
        self.streams = [tempfile.NamedTemporaryFile() for _ in ("stdout", "stderr")]  # noqa: SIM115
        names = [stream.name for stream in self.streams]
        self.process = QUICK.Process(target=_run, args=(script, arguments, str(folder), names, before))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while the script runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 400) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended. Raises subprocess.TimeoutExpired."""
        self.process.join(timeout)
        if self.poll() is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        output, errors = (stream.read().decode() for stream in self.streams)
        for stream in self.streams:
            stream.close()
        return output, errors


def run_script(
    script: str, *arguments: str, folder: Path, expected: int | None = 0, fresh: bool = False, **options
) -> subprocess.CompletedProcess:
    """Run a script to its end, which is to have the exit code `expected`; None: any.

    fresh: with an interpreter of its own, as a person starts it.   options: those of ScriptProcess, or of
    subprocess.run for a fresh one.
    """
    if fresh:
        command = [sys.executable, ROOT / script, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, **options)
    else:
        process = ScriptProcess(script, *arguments, folder=folder, **options)
        output, errors = process.communicate()
        done = subprocess.CompletedProcess([script, *arguments], process.poll(), output, errors)
    assert expected in (None, done.returncode), done.stderr
    return done


def _run(script: str, arguments: tuple[str, ...], folder: str, streams: list[str], before) -> None:
    """In the process: as the interpreter runs a script that a person names."""
    for number, name in enumerate(streams, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # that of its own processes: the platform's, not QUICK's
    if before:
        before()
    path = str(ROOT / script)
    sys.argv = [path, *map(str, arguments)]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(path, run_name="__main__")
