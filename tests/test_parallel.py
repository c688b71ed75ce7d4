"""Work in processes, and what a log says of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import progress
from utils.errors import UserError
from utils.parallel import in_processes

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_keep_the_order_and_pass_errors_on(workers):
    assert list(in_processes(abs, [-1, 2, -3], workers)) == [1, 2, 3]
    with pytest.raises(TypeError):
        list(in_processes(abs, [1, "a"], workers))


def test_a_script_that_does_not_guard_its_main_part_ends_with_a_sentence(tmp_path):
    """Also where it holds a lock that its workers would wait for."""
    lock = (tmp_path / "lock").as_posix()
    outcomes = []
    for guard in ("if True:", 'if __name__ == "__main__":'):
        code = "from utils.files import locked\nfrom utils.parallel import in_processes\n"
        code += f"{guard}\n    with locked({lock!r}, 'busy'):\n        print(list(in_processes(abs, [-1, -2], 2)))\n"
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
