"""Flat files: arrays of many items end to end, written item by item and memory-mapped.

A folder holds a file `NAME.bin` for each array, and `store.json`, with their lengths, checksums (CRC-32), and what
their writer wants to be known. Opening it reads nothing and makes no Python object for an item; workers share the page
cache.
"""

import json
import shutil
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.errors import DataError
from utils.files import naming


def map_files(
    folder: Path, kinds: dict[str, type], remedy: str, checked: Collection[str] = ()
) -> tuple[dict, dict[str, np.ndarray]]:
    """What a store's writer said about it, and its flat files by name, memory-mapped.

    kinds: what one element of each is.   checked: files that are read, and compared with their checksums, which stores
    of older versions do not have.   Raises DataError, which ends with the remedy, when they are not whole.
    """
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        files = {name: _map(folder / f"{name}.bin", kind) for name, kind in kinds.items()}
        lengths = about["bytes"]
        checked = checked if "checksums" in about else ()
        damaged = [name for name in checked if about["checksums"][name] != zlib.crc32(files[name])]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{folder}: not a whole store ({error}); {remedy}") from None
    if {name: array.nbytes for name, array in files.items()} != lengths:
        raise DataError(f"{folder}: a file has lost its end; {remedy}")
    if damaged:
        raise DataError(f"{folder}: {damaged[0]}.bin is damaged; {remedy}")
    return about, files


def _map(path: Path, kind: type) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, mode="r"))


def slice_of(values: np.ndarray, ends: np.ndarray, index: int) -> np.ndarray:
    """What item `index` has of a flat file, ends being where each item ends."""
    index = range(len(ends))[index]  # an IndexError where there is no such item, and -1 is the last
    return values[ends[index - 1] if index else 0 : ends[index]]


class FlatWriter:
    """Writes flat files item by item, under a temporary name; `close` renames it to `folder`, replacing an older one.

    Used in a `with` block it closes by itself, and leaves the older folder untouched when the block raises.
    """

    def __init__(self, folder: str | Path, kinds: dict[str, type], **about):
        """kinds: what one element of each file is.   about: what map_files() is to return."""
        self.folder = Path(folder)
        self._partial = self.folder.with_name(f"{self.folder.name}.partial")
        self._kinds, self._about, self._is_finished = kinds, about, False
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._paths = {name: str(self._partial / f"{name}.bin") for name in kinds}  # once, as there are many writes
        self._files = {name: open(path, "wb") for name, path in self._paths.items()}
        self._checksums = dict.fromkeys(kinds, 0)

    def _write(self, name: str, values) -> None:
        data = np.ascontiguousarray(values, self._kinds[name]).tobytes()
        self._checksums[name] = zlib.crc32(data, self._checksums[name])
        with naming(self._paths[name]):
            self._files[name].write(data)

    def _written(self, name: str) -> int:
        """Elements of a file so far."""
        return self._files[name].tell() // np.dtype(self._kinds[name]).itemsize

    def finish(self) -> None:
        """Write all that is to be written, still under the temporary name; close() then needs no more room on disk."""
        if self._is_finished:
            return
        self._about["bytes"] = {name: file.tell() for name, file in self._files.items()}
        self._about["checksums"] = self._checksums
        with naming(self._partial):
            for file in self._files.values():
                file.close()
            (self._partial / "store.json").write_text(json.dumps(self._about), encoding="utf-8")
        self._is_finished = True

    def close(self) -> None:
        self.finish()
        old = self.folder.with_name(f"{self.folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)  # a folder cannot be renamed over another; readers of the old one keep their maps
        self._partial.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the files, and take away what was written under the temporary name, if it is still there."""
        for file in self._files.values():
            with suppress(OSError):  # what is not written yet may find no room
                file.close()
        shutil.rmtree(self._partial, ignore_errors=True)
