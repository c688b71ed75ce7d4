"""Files that are whole or not there, and locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.files import atomic_path, atomic_write, file_digest, hash64, locked, text_digest

ROOT = Path(__file__).resolve().parents[1]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    atomic_write(tmp_path / "file", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    atomic_write(path := tmp_path / "curve.png", b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".png"  # libraries choose the format by it
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["curve.png"]


def test_line_ends_are_written_as_they_are(tmp_path):
    atomic_write(tmp_path / "labels.txt", "α\nβ\n")
    assert (tmp_path / "labels.txt").read_bytes() == "α\nβ\n".encode()


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from utils.files import locked
with locked({path!r}, "held"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_waited_for_and_ends_with_the_process_that_holds_it(tmp_path, capsys):
    path = str(tmp_path / "lock")
    script = HOLDER.format(root=str(ROOT), path=path)
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        waiting = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert waiting.stderr.readline() == b"held; waiting\n"
            holder.kill()
            assert waiting.stdout.readline() == b"held\n"
        finally:
            waiting.kill()
            waiting.communicate()
    finally:
        holder.kill()
        holder.communicate()
    with locked(path, "held"):
        pass
    assert "waiting" not in capsys.readouterr().err


def test_digests_are_those_that_other_programs_know(tmp_path):
    atomic_write(tmp_path / "a", "abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "a") == text_digest("abc") == known
    assert hash64(b"abc") == 0x5995D533D814BBD8  # what lies on disk is found by it
