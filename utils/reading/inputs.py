"""What recognize.py is given -> images that are ready to be read, in order, with what is wrong with the others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import DataError
from utils.reading.images import read_image, resize
from utils.reading.reader import INK_SUFFIXES, Prepared, Reader

STDIN = "-"
IMAGES = "png jpg jpeg jpe jfif webp bmp tif tiff gif heic heif avif pgm ppm pbm".split()
SUFFIXES = frozenset(f".{kind}" for kind in (*IMAGES, "inkml"))  # of what is read in a folder
MAX_AT_ONCE = 64  # inputs in memory; the first ones come in small portions, so that the first line comes soon
MAX_THUMBNAIL = 900  # pixels of its larger side


class Input(NamedTuple):
    """One line of writing of one input, or what is wrong with it.

    line, lines: which of how many.   thumbnail: uint8 (H, W), the whole image as it was given, where it is asked for.
    """

    name: str
    prepared: Prepared | None = None
    line: int = 1
    lines: int = 1
    thumbnail: np.ndarray | None = None
    error: str = ""


def open_inputs(reader: Reader, names: Sequence[str], options: argparse.Namespace) -> Iterator[Input]:
    """Find and clean every input. What is wrong is told on stderr, too.

    options: clean; lines, "split" or "join"; sheet, which needs thumbnails.
    """
    for name in names:
        try:
            files = files_of(name)
        except DataError as error:
            yield _complain(name, error)
            continue
        for file in files:
            try:
                yield from _open(reader, file, options)
            except DataError as error:
                yield _complain(file, error)


def files_of(name: str) -> list[str]:
    """An input itself, or what is in it: a folder's images and .inkml files, by name."""
    folder = Path(name)
    if name == STDIN or not folder.is_dir():
        return [name]
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None
    if not files:
        raise DataError(f"{name}: a folder without images or .inkml files")
    return [str(path) for path in files]


def portions(inputs: Iterator[Input]) -> Iterator[list[Input]]:
    """1, 2, 4 … inputs at a time: those of a portion are read in batches of like size."""
    portion, size = [], 1
    for one in inputs:
        portion.append(one)
        if len(portion) >= size:
            yield portion
            portion, size = [], min(2 * size, MAX_AT_ONCE)
    if portion:
        yield portion


def _complain(name: str, error: DataError) -> Input:
    message = " ".join(str(error).split())
    print(message, file=sys.stderr, flush=True)
    return Input(name, error=message)


def _open(reader: Reader, file: str, options: argparse.Namespace) -> Iterator[Input]:
    name = "stdin" if file == STDIN else file
    is_ink = file.lower().endswith(INK_SUFFIXES)
    if is_ink:
        prepared = reader.prepare(file, name)
        given = 255 - prepared.views[0].image
    else:
        given = read_image(sys.stdin.buffer.read() if file == STDIN else file, name)
        prepared = reader.prepare(given, name, options.clean)
    thumbnail = resize(given, min(1.0, MAX_THUMBNAIL / max(given.shape))) if options.sheet else None
    parts = prepared.each_line() if options.lines == "split" else (prepared,)
    if len(parts) > 1:
        print(f"{name}: {len(parts)} lines of writing, each read by itself (--lines join reads them as one formula)",
              file=sys.stderr, flush=True)  # fmt: skip
    for number, part in enumerate(parts, 1):
        yield Input(file, part, number, len(parts), thumbnail)
