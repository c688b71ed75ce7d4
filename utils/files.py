"""Files that are whole or not there, locks between processes, and digests: once for the whole project."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from pathlib import Path

from utils.errors import NEEDS_GUARD, UserError


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An OSError that does not say which file it is about, as that of a full disk, says that it is this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with the same suffix, for whoever writes a file by its name.

    When the block ends, the file is flushed to disk and renamed: `path` is either the old file or the new one,
    whenever the power fails. When the block raises, the old file stays and the temporary one goes.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with naming(path):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8, its line ends as they are. See atomic_path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`: of the processes that ask for it, one at a time goes on, the others wait.

    what: says on stderr what is waited for ("another process prepares datasets/CROHME"), once, where it is.
    The lock ends with the process that holds it, killed or not. The file itself may stay.

    Raises UserError in a worker process that imports its caller's script, and is led here by it: who holds the lock may
    wait for this very worker.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if getattr(current_process(), "_inheriting", False):  # multiprocessing asks the same before it starts a process
            raise UserError(NEEDS_GUARD) from None
        print(f"{what}; waiting", file=sys.stderr)
        lock.acquire()
    except NotImplementedError:  # a network drive that has no locks
        print(f"{path}: its disk has no locks; let no other process write here", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b, 0 to 2**64 - 1: the same in every process and on every machine, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
