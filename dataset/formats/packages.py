"""Packages: data sets as they are published, recognized on sight.

A split is a label file with images beside it, in a folder or a zip, or a folder of pen strokes.

    train_labels.txt    train_images.pkl          CROHME as the CAN family ships it; 14_test_… is the split 2014
    train_labels.txt    train_images/*.jpg        HME100K
    train/caption.txt   train/img/*.bmp           CROHME as BTTR and CoMER ship it, in data.zip; also train/*.bmp
    train/labels.txt    train/images/*.png        the plain form
    labels.csv          photos/*.jpg              a table of names and labels
    train.jsonl         images/*.jpg              objects with a name and a label, a line each: M2E
    train/*.inkml                                 pen strokes: CROHME and MathWriting as their makers ship them
"""

import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.formats.inkml import TRUTHS, draw_traces, pixel_traces, read_inkml
from dataset.formats.items import Item, NamedImages, in_order_of_names, is_image, match_labels
from dataset.formats.labels import TABLE_SUFFIXES, Label, read_labels
from dataset.formats.pickles import read_pickle
from dataset.formats.sources import Folder, Source, Zip
from dataset.formats.text_files import BadLine
from dataset.images.strokes import strokes_of
from dataset.vocabulary import Vocabulary
from utils.errors import BadItem, DataError
from utils.reading.images import MAX_PIXELS

_SPLITS = r"train|valid(?:ation)?|val|dev|test|symbols|synthetic|20\d\d"
LABEL_FILE = re.compile(
    r"(?:(?P<split>.+)[_-])?(?:labels?|captions?|annotations?|metadata)\.(?:txt|csv|tsv|jsonl)"
    rf"|(?P<table>{_SPLITS}|formulas?|data)\.(?:csv|tsv|jsonl)",
    re.IGNORECASE,
)
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
VOCABULARY_FILES = ("words_dict.txt", "dictionary.txt", "vocabulary.txt")
# Entries of a package's vocabulary that are not written in labels; every model here has its own.
NOT_TOKENS = {"eos", "sos", "pad", "<eos>", "<sos>", "<pad>"}
LOOKED_FOR = (
    "train/labels.txt with train/images/ (the plain form), train_labels.txt with train_images.pkl or train_images/, "
    "train/caption.txt with train/img/, labels.csv or train.jsonl with images, a zip with any of these, or "
    "train/*.inkml"
)


class NothingRecognized(DataError):
    """A folder or zip in which there is no data set of a known form."""


class Reading(NamedTuple):
    """How labels are read.

    encoding: of the files; None recognizes the usual ones.
    in_order: lines have no names: line n is the label of the n-th image, in the order of the images' names.
    truth: the type of the annotation that holds the label of InkML; None takes what CROHME, then MathWriting, calls it.
    """

    encoding: str | None = None
    in_order: bool = False
    truth: str | None = None


DEFAULT = Reading()


class Split(NamedTuple):
    """A split that a package holds.

    place: what it is read from, for messages.   files: change when the data do.   count: items, nearly.
    read: gives the items; its argument holds the tokens that are kept as they are written.
    folder: where it is, if it already has the plain form.   has_strokes: whether its items come with pen strokes.
    """

    name: str
    place: str
    files: list[Path]
    count: int
    read: Callable[[Container[str]], Iterator[Item | BadItem]]
    folder: Path | None = None
    has_strokes: bool = False


# ---- recognizing -----------------------------------------------------------------------------------------------------


def find_splits(
    source: str | Path, split: str | None = None, reading: Reading = DEFAULT
) -> tuple[list[Split], Vocabulary | None]:
    """What a folder or a zip holds: its splits, `train` first, and its own vocabulary, if it has one.

    split: the name of the one split to take, or to give where the files do not tell it.
    Raises DataError when nothing is recognized, or when a split is not told or told twice.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: not found; expected a folder or a zip with {LOOKED_FOR}")
    if source.is_dir():
        sources: list[Source] = [Folder(source)]
    elif zipfile.is_zipfile(source):
        sources = [Zip(source)]
    else:
        raise DataError(
            f"{source}: expected a folder or a zip; unpack other archives, and name the folder of single files"
        )
    found = [part for part in _splits_in(sources[0], split, reading) if not _is_our_output(part)]
    if not found and source.is_dir():
        sources += [Zip(path) for path in sorted(source.glob("*.zip"))]
        found = [part for each in sources[1:] for part in _splits_in(each, split, reading)]
        found = found or list(_splits_in(sources[0], split, reading))
    if not found:
        raise NothingRecognized(f"{source}: no data recognized in it{_tables_in(sources[0])}; looked for {LOOKED_FOR}")
    found = _named(found, split)
    found.sort(key=lambda part: (part.name != "train", part.name))
    for one, other in zip(found, found[1:], strict=False):
        if one.name == other.name:
            raise DataError(f"{source}: two splits {one.name!r}, in {one.place} and in {other.place}; expected one")
    names = list(VOCABULARY_FILES)
    if (source / "train" / "prepared.json").exists() and not any(map(_is_our_output, found)):
        names.remove("vocabulary.txt")  # made by an earlier run, from what may have changed since
    return found, _vocabulary_in(sources, names)


def _tables_in(source: Source) -> str:
    """The files that may be meant as labels, for a message."""
    sheets = [source.shown(file) for file in source.files if file.lower().endswith(SPREADSHEETS)]
    if sheets:
        return f" ({', '.join(sheets[:3])}: save the spreadsheet as labels.csv, with the columns name,label)"
    files = [source.shown(file) for file in source.files if file.endswith((".csv", ".tsv", ".json", ".jsonl", ".txt"))]
    return f" (of {', '.join(files[:3])} the name does not say that they are labels)" if files else ""


def _is_our_output(part: Split) -> bool:
    return part.folder is not None and (part.folder / "prepared.json").exists()


def _named(found: list[Split], split: str | None) -> list[Split]:
    if split is None:
        for part in found:
            if not part.name:
                raise DataError(f"{part.place}: of which split is it? Name it with --split, for example --split train")
        return found
    if len(found) == 1:
        return [found[0]._replace(name=split)]
    chosen = [part for part in found if part.name == split]
    if not chosen:
        raise DataError(f"no split {split!r} in it; there are {', '.join(part.name or '?' for part in found)}")
    return chosen


def split_name(text: str) -> str:
    """`train`, `2014` (of 14_test, test_2014, TEST2014 … too), `validation`, `test`; other names stay what they are."""
    year = re.fullmatch(r"(?:test[_-]?)?(?:20)?(\d\d)(?:[_-]?test)?", text, re.IGNORECASE)
    if year:
        return f"20{year[1]}"
    lower = text.lower()
    return "validation" if lower in ("val", "valid", "validation", "dev") else lower


def _splits_in(source: Source, split: str | None, reading: Reading) -> Iterator[Split]:
    """Every label file with images beside it, then the folders of pen strokes."""
    images: dict[str, list[str]] = {}  # by folder
    for file in filter(is_image, source.files):
        images.setdefault(file.rpartition("/")[0], []).append(file)
    label_files = [file for file in source.files if LABEL_FILE.fullmatch(file.rpartition("/")[2])]
    beside = {file: _beside(source, file, images, label_files) for file in label_files}
    users = Counter(place for place, _ in beside.values())
    for file, (place, files) in beside.items():
        folder, _, name = file.rpartition("/")
        match = LABEL_FILE.fullmatch(name)
        is_split = match["table"] and re.fullmatch(_SPLITS, match["table"], re.IGNORECASE)
        prefix = match["split"] or (match["table"] if is_split else folder.rpartition("/")[2])
        if place is None:
            print(f"{source.shown(file)}: no images beside it, passed over", file=sys.stderr)
            continue
        if not files:
            read = partial(_read_pickled, source, file, place, reading)
        else:
            read = partial(_read_images, source, file, files, place, reading, users[place] == 1)
        is_plain = isinstance(source, Folder) and name == "labels.txt" and place.rpartition("/")[2] == "images"
        count = sum(1 for _ in source.lines(file, reading.encoding))
        if reading.encoding is None and (guess := source.guessed_encoding(file)):
            print(
                f"{source.shown(file)}: no UTF-8; read as {guess}. If signs are wrong, name the encoding: --encoding "
                "big5, shift_jis …",
                file=sys.stderr,
            )
        yield Split(
            name=split_name(prefix),
            place=source.shown(place),
            files=[source.path(file), source.path(place)],
            count=count,
            read=read,
            folder=source.root / folder if is_plain and not reading.in_order else None,
        )
    if isinstance(source, Folder):
        yield from _ink_splits(source, split, (reading.truth,) if reading.truth else TRUTHS)


def _beside(
    source: Source, file: str, images: dict[str, list[str]], label_files: list[str]
) -> tuple[str | None, list[str]]:
    """Where the images of a label file are, and which they are: none where they are in a pickle; None: nowhere."""
    folder, _, name = file.rpartition("/")
    match = LABEL_FILE.fullmatch(name)
    prefix = match["split"] or match["table"] or folder.rpartition("/")[2]
    if isinstance(source, Folder):
        for pickled in (f"{prefix}_images.pkl", "images.pkl"):
            if (place := f"{folder}/{pickled}".strip("/")) in source.files:
                return place, []
    for each in (f"{prefix}_images", f"{prefix}-images", prefix, f"{prefix}/images", "img", "images", ""):
        place = f"{folder}/{each}".strip("/")
        if place in images:
            return place, [path for path in images[place] if path]
    # Anywhere below, such as photos/, unless another label file is nearer to them.
    inside = f"{folder}/" if folder else ""
    nearer = [other.rpartition("/")[0] + "/" for other in label_files if other.rpartition("/")[0].startswith(inside)]
    nearer = [other for other in nearer if other not in ("/", inside)]
    below = [path for paths in images.values() for path in paths if path.startswith(inside)]
    below = [path for path in below if not path.startswith(tuple(nearer))]
    return (folder, below) if below else (None, [])


def _ink_splits(source: Folder, split: str | None, truths: tuple[str, ...]) -> Iterator[Split]:
    groups: dict[str, list[Path]] = {}
    for file in source.files:
        if file.lower().endswith(".inkml"):
            names = map(split_name, file.split("/")[:-1])
            known = (name for name in names if re.fullmatch(_SPLITS, name))
            groups.setdefault(split or next(known, ""), []).append(source.path(file))
    for name, paths in groups.items():
        place = source.shown(os.path.relpath(os.path.commonpath([path.parent for path in paths]), source.root))
        read = partial(_read_ink, paths, source.root, truths)
        yield Split(name, f"{place}/*.inkml", paths, len(paths), read, has_strokes=True)


def _vocabulary_in(sources: list[Source], names: list[str]) -> Vocabulary | None:
    for name in names:
        for source in sources:
            for file in sorted(source.files, key=lambda file: file.count("/")):
                if file.rpartition("/")[2] == name:
                    words = (getattr(line, "text", line).split() for line in source.lines(file))
                    try:
                        return Vocabulary(word[0] for word in words if word and word[0] not in NOT_TOKENS)
                    except DataError as error:
                        raise DataError(f"{source.shown(file)}: {error}") from None
    return None


# ---- reading ---------------------------------------------------------------------------------------------------------


def _labels(source: Source, file: str, reading: Reading, files: list[str], known: Container[str]) -> Iterator[Label]:
    lines = source.lines(file, reading.encoding)
    if reading.in_order:
        lines = _with_names(lines, in_order_of_names(files), source.shown(file))
    kind = "table" if file.lower().endswith(TABLE_SUFFIXES) else "json" if file.lower().endswith(".jsonl") else None
    return read_labels(lines, source.shown(file), known, kind)


def _with_names(lines: Iterator[str | BadLine], files: list[str], shown_as: str) -> list[str | BadLine]:
    """Lines without names, with the name of the n-th file before the n-th line."""
    written = [line for line in lines if isinstance(line, BadLine) or line.strip()]
    if len(written) != len(files):
        raise DataError(f"{shown_as}: {len(written)} lines for {len(files)} images; expected one for each")
    print(f"{shown_as}: line 1 is read as the label of {files[0]}, the last as that of {files[-1]}", file=sys.stderr)
    rows = zip(written, files, strict=True)
    named = []
    for line, file in rows:
        is_bad = isinstance(line, BadLine)
        text = f"{file}\t{(line.text if is_bad else line).strip()}"
        named.append(line._replace(text=text) if is_bad else text)
    return named


def _read_pickled(
    source: Folder, file: str, pickled: str, reading: Reading, known: Container[str]
) -> Iterator[Item | BadItem]:
    images = read_pickle(source.path(pickled))
    if not isinstance(images, dict):
        kind = type(images).__name__
        raise DataError(f"{source.shown(pickled)}: expected a dictionary of arrays by name, got {kind}")
    images = {str(name): image for name, image in images.items()}
    labels = _labels(source, file, reading, list(images), known)
    yield from match_labels(labels, NamedImages(images, source.shown(pickled)), _grey_array)


def _grey_array(value: object) -> np.ndarray:
    """uint8 (H, W) of the shapes that packages use: also (1, H, W), (H, W, 1) and true/false."""
    array = value if isinstance(value, np.ndarray) else np.empty(0)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[:, :, 0]
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.dtype != np.uint8 or array.ndim != 2 or not array.size:
        kind = f"{array.dtype} {array.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"expected an image, uint8 (height, width), got {kind}")
    if array.size > MAX_PIXELS:
        raise DataError(f"has {array.shape[1]} x {array.shape[0]} pixels; expected at most {MAX_PIXELS:,}")
    return array


def _read_images(
    source: Source, file: str, files: list[str], place: str, reading: Reading, has_all: bool, known: Container[str]
) -> Iterator[Item | BadItem]:
    """has_all: whether no other label file uses the images; then one without a label is told."""
    labels = _labels(source, file, reading, files, known)
    start = len(place) + 1 if place else 0
    images = NamedImages({path[start:]: path for path in files}, source.shown(place))
    yield from match_labels(labels, images, source.image, has_all)


def _read_ink(
    paths: list[Path], root: Path, truths: tuple[str, ...], known: Container[str]
) -> Iterator[Item | BadItem]:
    seen: dict[str, str] = {}
    for path in paths:
        where = path.relative_to(root).as_posix()
        if path.stem in seen:
            yield BadItem(where, f"duplicate name {path.stem!r}, first in {seen[path.stem]}")
            continue
        seen[path.stem] = where
        try:
            ink = read_inkml(path, True, truths)
            traces = pixel_traces(ink.traces)
            strokes = strokes_of(traces, ink.symbols)
            yield Item(path.stem, ink.tokens, draw_traces(traces), where, strokes, writer=ink.writer)
        except DataError as error:
            yield BadItem(where, str(error).removeprefix(f"{path}: "))
