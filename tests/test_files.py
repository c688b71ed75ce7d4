"""Whole files or none, one process at a time, work in threads and processes, and what a log says of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils import progress
from utils.errors import UserError
from utils.files import atomic_write, file_digest, lock
from utils.hashing import hash64, mix64
from utils.parallel import in_processes

ROOT = Path(__file__).resolve().parents[1]


def test_what_fails_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    atomic_write(path, "old\n")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            atomic_write(path, "new\n")
    assert path.read_bytes() == b"old\n" and list(tmp_path.iterdir()) == [path]
    atomic_write(path, b"new\r\n")
    assert path.read_bytes() == b"new\r\n"


def test_a_digest_tells_contents_apart(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b") and len(file_digest(tmp_path / "a")) == 64


def test_a_second_process_waits_and_says_so(tmp_path):
    code = (
        "import sys, time; from utils.files import lock\n"
        f"with lock({str(tmp_path / 'lock')!r}, 'held by another'): print(time.time())"
    )
    with lock(tmp_path / "lock", "held by another"):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True)
        while "waiting" not in (line := other.stderr.readline()):
            assert line or other.poll() is None
        released = time.time()
    assert float(other.communicate(timeout=60)[0]) >= released


def test_hashes_are_what_they_were_in_stores_made_before():
    assert hash64("x + y") == 0x3282B851904C63AA
    assert mix64(np.array([1], np.uint64))[0] == 0x5692161D100B05E5


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_keep_the_order_and_pass_errors_on(workers):
    assert list(in_processes(abs, [-1, 2, -3], workers)) == [1, 2, 3]
    with pytest.raises(TypeError):
        list(in_processes(abs, [1, "a"], workers))


def test_a_script_that_does_not_guard_its_main_part_ends_with_a_sentence(tmp_path):
    outcomes = []
    for guard in ("if True:", 'if __name__ == "__main__":'):
        code = f"from utils.parallel import in_processes\n{guard}\n    print(list(in_processes(abs, [-1, -2], 2)))\n"
        (tmp_path / "script.py").write_text(code)
        command, environment = [sys.executable, tmp_path / "script.py"], os.environ | {"PYTHONPATH": str(ROOT)}
        outcomes.append(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60))
    assert outcomes[0].returncode != 0
    assert 'must stand under `if __name__ == "__main__":`' in outcomes[0].stderr
    assert outcomes[1].stdout == "[1, 2]\n"


def test_a_worker_that_dies_is_told():
    with pytest.raises(UserError, match="a worker process ended before its work was done"):
        list(in_processes(os._exit, [1], 2))


# ---- progress --------------------------------------------------------------------------------------------------------


def test_a_log_file_gets_a_line_every_half_minute(capsys, monkeypatch):
    now = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert list(progress.counted(range(100), "work", 100)) == list(range(100))
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 5 and lines[0].startswith("work: ") and "of 100 items after" in lines[0]
    assert lines[-1].startswith("work: 100 of 100")


def test_short_work_and_work_without_progress_say_nothing(capsys, monkeypatch):
    list(progress.counted(range(100), "work", 100))
    now = iter(np.arange(0, 10_000, 60.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    list(progress.counted(range(100), "work", 100, is_shown=False))
    assert capsys.readouterr().err == ""
