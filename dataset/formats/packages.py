"""Data sets as they are published -> the plain form and its stores.

A package is recognised on sight: a split is a label file with pictures beside it, in a folder or a zip.

    train_labels.txt    train_images.pkl          CROHME as the CAN family ships it; 14_test_… is the split 2014
    train_labels.txt    train_images/*.jpg        HME100K
    train/caption.txt   train/img/*.bmp           CROHME as BTTR and CoMER ship it, in data.zip; also train/*.bmp
    train/labels.txt    train/images/*.png        the plain form
    train/*.inkml                                 pen strokes: CROHME as its organisers ship it

Nothing is left behind half done: a split is written under temporary names that are then renamed, labels.txt last, and
vocabulary.txt says that the whole package is there. Stopped and started again, it goes on with the next split.
"""

import json
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from dataset.formats.inkml import draw_traces, pixel_traces, read_inkml
from dataset.formats.pickles import read_pickle
from dataset.images.store import (
    PICTURE_SUFFIXES,
    Item,
    build_store,
    by_name,
    fresh_store,
    in_threads,
    lines_of,
    list_of,
    name_of_picture,
    one_at_a_time,
    pair,
    picture_of,
    read_labels,
    stem,
)
from dataset.images.strokes import StrokeWriter, open_strokes, strokes_of
from dataset.vocabulary import Vocabulary
from utils.errors import BadItem, DataError
from utils.reading.pictures import normalize

LABEL_FILE = re.compile(r"(?:(?P<split>.+)[_-])?(?:labels?|captions?)\.txt")
VOCABULARY_FILES = ("words_dict.txt", "dictionary.txt", "vocabulary.txt")
# Entries of a package's vocabulary that are not written in labels; every model here has its own.
NOT_TOKENS = {"eos", "sos", "pad", "<eos>", "<sos>", "<pad>"}
# The first bytes of the pictures that are copied as they are; any other kind is saved as PNG.
PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
LOOKED_FOR = (
    "train/labels.txt with train/images/ (the plain form), train_labels.txt with train_images.pkl or train_images/, "
    "train/caption.txt with train/img/, a zip with any of these, or train/*.inkml"
)


class NothingRecognised(DataError):
    """A folder or zip in which there is no data set of a known form."""


class Split(NamedTuple):
    """A split that a package holds.

    place: what it is read from, for messages.   files: change when the data do.   count: items, nearly.
    read: gives the items, anew with every call.   folder: where it is, if it already has the plain form.
    has_strokes: whether its items come with pen strokes.
    """

    name: str
    place: str
    files: list[Path]
    count: int
    read: Callable[[], Iterator[Item | BadItem]]
    folder: Path | None = None
    has_strokes: bool = False


# ------------------------------------------------------------------------------------------------- folders and zips


class _Folder:
    """A folder's files, by their names relative to it."""

    def __init__(self, root: Path):
        self.root = root
        self.files: list[str] = []
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and name != "images.partial"
            )  # half written
            relative = Path(folder).relative_to(root)
            self.files += [(relative / name).as_posix() for name in sorted(files) if not name.startswith(".")]

    def lines(self, file: str) -> Iterator[str]:
        return lines_of(self.root / file)

    def picture(self, file: str) -> Path:
        return self.root / file

    def path(self, file: str) -> Path:
        """The file on disk that changes when this one does."""
        return self.root / file

    def shown(self, file: str) -> str:
        return file or self.root.name


class _Zip:
    """A zip's files. Nothing is unpacked; a name that would lead outside a folder is refused all the same."""

    def __init__(self, root: Path):
        self.root = root
        try:
            self._zip = zipfile.ZipFile(root)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{root}: not a readable zip ({error})") from None
        for name in self._zip.namelist():
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
                raise DataError(f"{root}: {name!r} would unpack outside its folder; the zip is refused")
        names = [name for name in self._zip.namelist() if not name.endswith("/")]
        self.files = [name for name in names if not name.rpartition("/")[2].startswith(".")]  # as macOS adds them

    def _read(self, file: str) -> bytes:
        try:
            return self._zip.read(file)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self.shown(file)}: cannot be unpacked ({error})") from None

    def lines(self, file: str) -> Iterator[str]:
        try:
            yield from self._read(file).decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.shown(file)}: expected UTF-8 text ({error})") from None

    def picture(self, file: str) -> bytes:
        return self._read(file)

    def path(self, file: str) -> Path:
        return self.root

    def shown(self, file: str) -> str:
        return f"{self.root.name}/{file}"


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(source: str | Path, split: str | None = None) -> tuple[list[Split], Vocabulary | None]:
    """What a folder or a zip holds: its splits, `train` first, and its own vocabulary, if it has one.

    split: the name of the one split to take, or to give where the files do not tell it.
    Raises DataError when nothing is recognised, or when a split is not told or told twice.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: not found; expected a folder or a zip with {LOOKED_FOR}")
    if source.is_dir():
        trees = [_Folder(source)]
    elif zipfile.is_zipfile(source):
        trees = [_Zip(source)]
    else:
        raise DataError(
            f"{source}: expected a folder or a zip; unpack other archives, and name the folder of single files"
        )
    found = [part for part in _splits_in(trees[0], split) if not _is_our_output(part)]
    if not found and source.is_dir():
        trees += [_Zip(path) for path in sorted(source.glob("*.zip"))]
        found = [part for tree in trees[1:] for part in _splits_in(tree, split)] or list(_splits_in(trees[0], split))
    if not found:
        raise NothingRecognised(f"{source}: no data recognised in it; looked for {LOOKED_FOR}")
    found = _named(found, split)
    found.sort(key=lambda part: (part.name != "train", part.name))
    for one, other in zip(found, found[1:], strict=False):
        if one.name == other.name:
            raise DataError(f"{source}: two splits {one.name!r}, in {one.place} and in {other.place}; expected one")
    names = list(VOCABULARY_FILES)
    if (source / "train" / "prepared.json").exists() and not any(map(_is_our_output, found)):
        names.remove("vocabulary.txt")  # made by an earlier run, from what may have changed since
    return found, _vocabulary_in(trees, names)


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


def _split_name(text: str) -> str:
    """`train`, `2014` (of 14_test, test_2014, TEST2014 … too), `validation`, `test`; other names stay what they are."""
    year = re.fullmatch(r"(?:test[_-]?)?(?:20)?(\d\d)(?:[_-]?test)?", text, re.IGNORECASE)
    if year:
        return f"20{year[1]}"
    lower = text.lower()
    return "validation" if lower in ("val", "valid", "validation", "dev") else lower


def _splits_in(tree: _Folder | _Zip, split: str | None) -> Iterator[Split]:
    """Every label file with pictures beside it, then the folders of pen strokes."""
    pictures: dict[str, list[str]] = {}  # by folder
    for file in tree.files:
        if file.lower().endswith(PICTURE_SUFFIXES):
            pictures.setdefault(file.rpartition("/")[0], []).append(file)
    for file in tree.files:
        folder, _, name = file.rpartition("/")
        match = LABEL_FILE.fullmatch(name)
        if not match:
            continue
        prefix = match["split"] or folder.rpartition("/")[2]
        pickles = [f"{prefix}_images.pkl", "images.pkl"]
        places = [f"{prefix}_images", f"{prefix}-images", "img", "images", ""]
        pickles, places = ([f"{folder}/{name}".strip("/") for name in names] for names in (pickles, places))
        pickled = next((name for name in pickles if name in tree.files), None) if isinstance(tree, _Folder) else None
        place = next((name for name in places if name in pictures), None)
        if pickled:
            read = partial(_read_pickled, tree, file, pickled)
        elif place is not None:
            read = partial(_read_pictures, tree, file, pictures[place], place)
        else:
            print(f"{tree.shown(file)}: no pictures beside it, passed over", file=sys.stderr)
            continue
        beside = pickled or place
        is_plain = isinstance(tree, _Folder) and name == "labels.txt" and beside.rpartition("/")[2] == "images"
        yield Split(
            name=_split_name(prefix),
            place=tree.shown(beside),
            files=[tree.path(file), tree.path(beside)],
            count=sum(1 for _ in tree.lines(file)),
            read=read,
            folder=tree.root / folder if is_plain else None,
        )
    if isinstance(tree, _Folder):
        yield from _ink_splits(tree, split)


def _ink_splits(tree: _Folder, split: str | None) -> Iterator[Split]:
    groups: dict[str, list[Path]] = {}
    for file in tree.files:
        if file.lower().endswith(".inkml"):
            names = map(_split_name, file.split("/")[:-1])
            known = (name for name in names if re.fullmatch(r"train|validation|test|20\d\d", name))
            groups.setdefault(split or next(known, ""), []).append(tree.path(file))
    for name, paths in groups.items():
        place = tree.shown(os.path.relpath(os.path.commonpath([path.parent for path in paths]), tree.root))
        read = partial(_read_ink, paths, tree.root)
        yield Split(name, f"{place}/*.inkml", paths, len(paths), read, has_strokes=True)


def _vocabulary_in(trees: list[_Folder | _Zip], names: list[str]) -> Vocabulary | None:
    for name in names:
        for tree in trees:
            for file in sorted(tree.files, key=lambda file: file.count("/")):
                if file.rpartition("/")[2] == name:
                    words = (line.split() for line in tree.lines(file))
                    try:
                        return Vocabulary(word[0] for word in words if word and word[0] not in NOT_TOKENS)
                    except DataError as error:
                        raise DataError(f"{tree.shown(file)}: {error}") from None
    return None


# ---------------------------------------------------------------------------------------------------------- reading


def _read_pickled(tree: _Folder, labels: str, pickled: str) -> Iterator[Item | BadItem]:
    pictures = read_pickle(tree.path(pickled))
    if not isinstance(pictures, dict):
        raise DataError(
            f"{tree.shown(pickled)}: expected a dictionary of arrays by name, got {type(pictures).__name__}"
        )
    pictures = {stem(str(name)): picture for name, picture in pictures.items()}
    rows = read_labels(tree.lines(labels), tree.shown(labels))
    yield from pair(rows, pictures, _grey_array, tree.shown(pickled))


def _grey_array(value: object) -> np.ndarray:
    """uint8 (H, W) of the shapes that packages use: also (1, H, W), (H, W, 1) and true/false."""
    array = value if isinstance(value, np.ndarray) else np.empty(0)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[:, :, 0]
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.dtype != np.uint8 or array.ndim != 2 or not array.size:
        kind = f"{array.dtype} {array.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"expected a picture, uint8 (height, width), got {kind}")
    return array


def _read_pictures(tree: _Folder | _Zip, labels: str, pictures: list[str], place: str) -> Iterator[Item | BadItem]:
    rows = read_labels(tree.lines(labels), tree.shown(labels))
    yield from pair(rows, by_name(pictures), tree.picture, tree.shown(place))


def _read_ink(paths: list[Path], root: Path) -> Iterator[Item | BadItem]:
    seen: dict[str, str] = {}
    for path in paths:
        where = path.relative_to(root).as_posix()
        if path.stem in seen:
            yield BadItem(where, f"duplicate name {path.stem!r}, first in {seen[path.stem]}")
            continue
        seen[path.stem] = where
        try:
            ink = read_inkml(path, needs_truth=True)
            traces = pixel_traces(ink.traces)
            yield Item(path.stem, ink.tokens, draw_traces(traces), where, strokes_of(traces, ink.symbols))
        except DataError as error:
            yield BadItem(where, str(error).removeprefix(f"{path}: "))


# ---------------------------------------------------------------------------------------------------------- writing


def prepare(
    source: str | Path, dataset_folder: str | Path, split: str | None = None, progress: bool = True
) -> list[BadItem]:
    """Bring a package, or one split of it, into datasets/NAME: the plain form, the vocabulary, and the stores.

    Returns the items that had to be left out; those of a split are also listed in `SPLIT/left_out.txt`. A split that
    is already there from the same, unchanged files is kept. Raises DataError.
    """
    parts, vocabulary = recognise(source, split)  # before anything is made
    Path(dataset_folder).mkdir(parents=True, exist_ok=True)
    with one_at_a_time(Path(dataset_folder)):
        return _prepare(parts, vocabulary, Path(dataset_folder), progress)


def prepare_if_needed(dataset_folder: str | Path, progress: bool = True) -> None:
    """Make datasets/NAME ready for training: prepares an untouched package in it and says so; else costs nothing.

    Raises DataError when there is nothing (what was looked for, where, and how to get it), or when the package has
    bad items; the good ones are then there, and the next call goes on with them.
    """
    folder = Path(dataset_folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(_nothing_in(folder))
    if not _is_prepared(folder):
        with one_at_a_time(folder):
            if not _is_prepared(folder):  # another process may have done it meanwhile
                _prepare_found(folder, progress)
    for path in sorted(folder.glob("*/left_out.txt")):
        count = sum(1 for _ in lines_of(path))
        print(f"{folder.name}/{path.parent.name}: {count} items are left out, see {path}", file=sys.stderr)


def _is_prepared(folder: Path) -> bool:
    return (folder / "vocabulary.txt").is_file() and (folder / "train" / "labels.txt").is_file()


def _prepare_found(folder: Path, progress: bool) -> None:
    try:
        parts, vocabulary = recognise(folder)
    except NothingRecognised:
        raise DataError(_nothing_in(folder)) from None
    if all(part.folder for part in parts) and (folder / "train" / "labels.txt").is_file():
        _vocabulary_of_train(folder)  # the plain form, by hand
        return
    print(f"{folder}: preparing {', '.join(part.place for part in parts)}, once", file=sys.stderr)
    bad = _prepare(parts, vocabulary, folder, progress)
    if bad:
        raise DataError(
            f"{folder}: {len(bad)} bad items were left out, see {folder}/*/left_out.txt. "
            f"Mend them, or go on without them by running this again{list_of(bad)}"
        )
    if not _is_prepared(folder):
        raise DataError(_nothing_in(folder))


def _nothing_in(folder: Path) -> str:
    return (
        f"{folder}: no training data. Looked in it for {LOOKED_FOR}. README.md says where to get data sets; "
        f"put the download there as it is, or run: python prepare.py DOWNLOAD --dataset {folder.name}"
    )


def _prepare(parts: list[Split], vocabulary: Vocabulary | None, target: Path, progress: bool) -> list[BadItem]:
    left_out: dict[str, list[BadItem]] = {}
    for part in parts:
        folder = target / part.name
        if part.folder and part.folder.resolve() == folder.resolve():
            left_out[part.name] = []  # the plain form, where it belongs
        elif _is_there(part, folder):
            print(f"{target.name}/{part.name}: already there, made from {part.place}", file=sys.stderr)
        else:
            left_out[part.name] = _write_split(part, folder, vocabulary, progress)

    if (target / "train" / "labels.txt").is_file():
        if vocabulary is None and (left_out.keys() & {"train"} or not (target / "vocabulary.txt").exists()):
            vocabulary = _vocabulary_of_train(target)
        elif vocabulary is None:
            vocabulary = Vocabulary.from_file(target / "vocabulary.txt")
        else:
            vocabulary.save(target / "vocabulary.txt")
        for labels in sorted(target.glob("*/labels.txt")):
            folder = labels.parent
            if folder.name in left_out or fresh_store(folder, vocabulary) is None:
                left_out.setdefault(folder.name, []).extend(build_store(target, folder.name, vocabulary, progress)[1])
    else:
        print(f"{target}: no split 'train' yet; with it come the vocabulary and the stores", file=sys.stderr)

    for name, bad in left_out.items():
        _list_left_out(target / name, bad)
    return [item for bad in left_out.values() for item in bad]


def _list_left_out(folder: Path, bad: list[BadItem]) -> None:
    path = folder / "left_out.txt"
    path.unlink(missing_ok=True)
    if bad:
        path.write_text("".join(f"{item}\n" for item in bad), encoding="utf-8")


def _vocabulary_of_train(target: Path) -> Vocabulary:
    labels = read_labels(lines_of(target / "train" / "labels.txt"), "train/labels.txt")
    vocabulary = Vocabulary.from_labels(label.tokens for label in labels if not label.problem)
    vocabulary.save(target / "vocabulary.txt")
    return vocabulary


def _fingerprint(part: Split) -> list[list]:
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in part.files]


def _is_there(part: Split, folder: Path) -> bool:
    """Whether the split was made from these very files, whole and without a bad item."""
    record = folder / "prepared.json"
    if not record.is_file() or not (folder / "labels.txt").is_file():
        return False
    if part.has_strokes and open_strokes(folder) is None:  # made before strokes were kept
        return False
    about = json.loads(record.read_text(encoding="utf-8"))
    return about["left_out"] == 0 and about["files"] == _fingerprint(part)


def _write_split(part: Split, folder: Path, vocabulary: Vocabulary | None, progress: bool) -> list[BadItem]:
    """Write labels.txt, images/ and, where they are known, strokes/ of one split; returns the bad items.

    The pictures keep the polarity they have.
    """
    labels, images, record = folder / "labels.txt", folder / "images", folder / "prepared.json"
    if not record.exists():  # what we have not made, we do not replace
        for path in (labels, images):
            if path.exists():
                raise DataError(
                    f"{path}: is in the way, and was not made by prepare.py; move it, or take another --dataset"
                )
    partial_images, partial_labels = folder / "images.partial", folder / "labels.txt.partial"
    shutil.rmtree(partial_images, ignore_errors=True)
    partial_images.mkdir(parents=True)
    bad, good = [], 0
    save = partial(_save, partial_images, vocabulary if part.name == "train" else None)
    strokes = StrokeWriter(folder / "strokes") if part.has_strokes else None
    with open(partial_labels, "w", encoding="utf-8", newline="\n") as file:
        items = in_threads(save, part.read())
        for item in tqdm(items, f"{folder.parent.name}/{part.name}", part.count, disable=not progress, unit="item"):
            if isinstance(item, BadItem):
                bad.append(item)
            else:
                file.write(f"{item.name}\t{' '.join(item.tokens)}\n")
                if strokes is not None:
                    strokes.add(item.name, item.strokes)
                good += 1
    if not good:
        raise DataError(f"{part.place}: no good item in it{list_of(bad)}")
    labels.unlink(missing_ok=True)
    shutil.rmtree(images, ignore_errors=True)
    shutil.rmtree(folder / "strokes", ignore_errors=True)
    record.write_text(json.dumps({"files": _fingerprint(part), "left_out": len(bad)}), encoding="utf-8")
    _list_left_out(folder, bad)
    partial_images.rename(images)
    if strokes is not None:
        strokes.close()
    partial_labels.rename(labels)
    return bad


def _save(images: Path, vocabulary: Vocabulary | None, item: Item | BadItem) -> Item | BadItem:
    """Check an item and write its picture into `images`; returns it without its pixels, or what is wrong with it."""
    if isinstance(item, BadItem):
        return item
    try:
        if vocabulary:
            vocabulary.encode(item.tokens)
        picture = picture_of(item)
        normalize(picture, name_of_picture(item))
    except DataError as error:
        return BadItem(item.where, str(error))
    data = item.picture.read_bytes() if isinstance(item.picture, Path) else item.picture
    if isinstance(data, bytes) and data.startswith((PNG, JPEG)):
        suffix = "png" if data.startswith(PNG) else "jpg"
    else:
        suffix, data = "png", cv2.imencode(".png", picture)[1].tobytes()
    (images / f"{item.name}.{suffix}").write_bytes(data)
    return item._replace(picture=b"")
