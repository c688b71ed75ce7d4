"""Where a package lies: a folder, or a zip that is read without being unpacked."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from dataset.formats.text_files import BadLine, decoded_lines, guessed_encoding, lines_or_bad
from utils.errors import DataError


class Source(Protocol):
    """root: the folder or the zip.   files: their names in it, with `/` between folders."""

    root: Path
    files: list[str]

    def lines(self, file: str, encoding: str | None = None) -> Iterator[str | BadLine]:
        """The lines of a text file; a BadLine for each that cannot be decoded."""
        ...

    def guessed_encoding(self, file: str) -> str | None:
        """The encoding of a text file where nothing in it makes sure of it."""
        ...

    def image(self, file: str) -> Path | bytes:
        """An image's file, or its bytes."""
        ...

    def path(self, file: str) -> Path:
        """The file on disk that changes when this one does."""
        ...

    def shown(self, file: str) -> str:
        """The file's name in messages."""
        ...


class Folder:
    """A folder's files, by their names relative to it."""

    def __init__(self, root: Path):
        self.root = root
        self.files: list[str] = []
        for folder, folders, files in os.walk(root):
            # Half written ones are no part of it.
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "images.partial")
            relative = Path(folder).relative_to(root)
            self.files += [(relative / name).as_posix() for name in sorted(files) if not name.startswith(".")]

    def lines(self, file: str, encoding: str | None = None) -> Iterator[str | BadLine]:
        return lines_or_bad(self.root / file, self.shown(file), encoding)

    def guessed_encoding(self, file: str) -> str | None:
        return guessed_encoding((self.root / file).read_bytes())

    def image(self, file: str) -> Path:
        return self.root / file

    def path(self, file: str) -> Path:
        return self.root / file

    def shown(self, file: str) -> str:
        return file or self.root.name


# What is larger, and was packed to less than so small a part, was made to fill a memory. Images pack better than text.
MAX_PACKED_TEXT, MAX_PACKED_IMAGE, MAX_PACKING = 2_000_000, 50_000_000, 100  # bytes, bytes, times


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises DataError for what is no zip, or a broken one."""
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # of any kind: broken records raise whatever their numbers lead to
        raise DataError(f"{path}: not a readable zip ({error or type(error).__name__})") from None


def read_packed(archive: zipfile.ZipFile, name: str, shown_as: str, max_bytes: int = MAX_PACKED_TEXT) -> bytes:
    """A file of a zip. Raises DataError where it cannot be unpacked, or would grow out of all proportion.

    max_bytes: that it may have however small it was packed.
    """
    entry = archive.getinfo(name)
    if entry.file_size > max(max_bytes, MAX_PACKING * entry.compress_size):
        raise DataError(
            f"{shown_as}: is packed {entry.compress_size:,} bytes small and says that it unpacks to "
            f"{entry.file_size:,}; more than {MAX_PACKING} times as much is refused"
        )
    try:
        return archive.read(entry)
    except Exception as error:  # of any kind, as above, and of every kind of packing
        raise DataError(f"{shown_as}: cannot be unpacked ({error or type(error).__name__})") from None


class Zip:
    """A zip's files. Nothing is unpacked; a name that would lead outside a folder is refused all the same."""

    def __init__(self, root: Path):
        self.root = root
        self._zip = open_zip(root)
        for name in self._zip.namelist():
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
                raise DataError(f"{root}: {name!r} would unpack outside its folder; the zip is refused")
        names = [name for name in self._zip.namelist() if not name.endswith("/")]
        self.files = [name for name in names if not name.rpartition("/")[2].startswith(".")]  # as macOS adds them

    def lines(self, file: str, encoding: str | None = None) -> Iterator[str | BadLine]:
        return decoded_lines(read_packed(self._zip, file, self.shown(file)), self.shown(file), encoding)

    def guessed_encoding(self, file: str) -> str | None:
        return guessed_encoding(read_packed(self._zip, file, self.shown(file)))

    def image(self, file: str) -> bytes:
        return read_packed(self._zip, file, self.shown(file), MAX_PACKED_IMAGE)

    def path(self, file: str) -> Path:
        return self.root

    def shown(self, file: str) -> str:
        return f"{self.root.name}/{file}"
