"""Ctrl-C and SIGTERM, in real processes: a script ends with the right exit code and leaves no half-written file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.training.stopping import Stopped, StopSignals, Terminated, exit_code_of

ROOT = Path(__file__).resolve().parents[1]
# Writes a file, forks a child that does nothing, says that it is ready, and waits.
SCRIPT = """
import os, sys, time
from utils.files import atomic_path
from utils.script import run_script

def main():
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    with atomic_path("written.txt") as path:
        path.write_text("half")
        print(child, flush=True)
        time.sleep(60)

run_script(main, *sys.argv[1:])
"""


def stopped_process(folder: Path, number: int, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the script after a signal."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def as_in_a_terminal() -> None:  # in the background, shells let processes ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, preexec_fn=as_in_a_terminal, **pipes)
    child = int(process.stdout.readline())
    process.send_signal(number)
    code = process.wait(timeout=300)
    os.kill(child, signal.SIGTERM)
    _, errors = process.communicate(timeout=300)  # ends only when the child, which holds the pipes, has ended too
    return code, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("arguments", "told"), [([], "stopped"), (["--resume continues"], "stopped; --resume continues")]
)
def test_a_signal_outside_of_training_ends_the_script_and_leaves_nothing_half_written(
    tmp_path, number, code, arguments, told
):
    returned, errors = stopped_process(tmp_path, number, *arguments)
    assert returned == code
    assert errors.strip() == told
    assert os.listdir(tmp_path) == []


def test_scripts_that_catch_ctrl_c_catch_sigterm_and_tell_them_apart():
    assert issubclass(Terminated, KeyboardInterrupt)
    assert (exit_code_of(KeyboardInterrupt()), exit_code_of(Terminated())) == (130, 143)


def test_a_second_signal_ends_at_once_and_does_not_claim_that_the_state_is_saved():
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped, match="stopped by SIGTERM, a second time, so not saved") as stopped:
            signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert str(Stopped(signal.SIGINT)) == "stopped by SIGINT, state saved"


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no SIGCHLD")
def test_the_end_of_a_worker_is_noted_before_a_stop_signal_and_is_nothing_after_it():
    def as_torch_does(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    before = signal.signal(signal.SIGCHLD, as_torch_does)
    try:
        with StopSignals() as signals:
            for _ in range(2):  # in each epoch
                signals.let_workers_end()
            signal.raise_signal(signal.SIGCHLD)  # in the middle of a step: nothing is raised there
            assert "(pid 1) is killed" in str(signals.worker_error)
        with StopSignals() as signals:
            signals.let_workers_end()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGCHLD)
            assert signals.number == signal.SIGTERM and signals.worker_error is None
        assert signal.getsignal(signal.SIGCHLD) is as_torch_does
    finally:
        signal.signal(signal.SIGCHLD, before)
