"""Files that are either whole or not there, that one process writes at a time, and their digests."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it: nobody ever sees half of it. Text is UTF-8, lines end in LF.

    Raises OSError, and then leaves what was there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock(path: str | Path, waiting_for: str) -> Iterator[None]:
    """Hold the lock file `path`; a process that has to wait for another one says so on stderr.

    waiting_for: what the other process does, such as `datasets/MINE: another process prepares it`.
    The lock ends with the block, and with the process that holds it, however that ends.
    """
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"{waiting_for}; waiting", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
