"""A package -> datasets/NAME: the plain form of every split, its vocabulary, and the stores.

Nothing is left behind half done: a split is written under temporary names that are then renamed, labels.txt last, and
vocabulary.txt says that the whole package is there. Stopped and started again, it goes on with the next split.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from dataset.formats.items import Item, image_of, name_of_image
from dataset.formats.labels import CHARACTERS, Label, read_labels
from dataset.formats.packages import LOOKED_FOR, NothingRecognized, Reading, Split, find_splits
from dataset.formats.text_files import count_lines, lines_of, lines_or_bad
from dataset.images.store import build_store, fresh_store, lock_of
from dataset.images.strokes import StrokeStore, StrokeWriter, open_strokes
from dataset.latex.normalization import normalize as normalize_label
from dataset.vocabulary import Vocabulary
from utils.errors import BadItem, DataError, list_of
from utils.files import atomic_write, naming
from utils.parallel import in_threads
from utils.progress import counted
from utils.reading.frames import levels_of
from utils.reading.images import normalize_image
from utils.reading.photographs import clean_photograph, is_drawn

# The first bytes of the images that are copied as they are; any other kind is saved as PNG.
PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
ALWAYS_READ = 40  # tokens that are read from any image, however small: only longer labels need a look
CLEANED, UNCLEANED = "photographs cleaned", "images of many grey levels, which --clean would clean as recognize.py does"
_EXAMPLES = 3  # that a message of what was changed in reading shows
_CHARACTERS = 20  # that such a message shows, each where it stands first
_NORMALIZED_TO_JUDGE = 5000  # labels, at most, of which it is told what --normalize would change


@dataclass(frozen=True)
class Options:
    """How a package is brought in.

    existing: what becomes of a split that is there, made from something else: an error, or it is replaced, or added to.
    normalize: labels are written in their one spelling (`latex/normalization.py`).
    clean: photographs are cleaned as `recognize.py` cleans them; what was drawn from strokes is left as it is.
    """

    reading: Reading = field(default_factory=Reading)
    existing: Literal["refuse", "replace", "add"] = "refuse"
    normalize: bool = False
    clean: bool = False

    def record(self) -> dict:
        """What decides what a split is made into, as prepared.json keeps it; what is not asked for is left out."""
        return {"normalize": self.normalize} | {
            name: value for name, value in (("truth", self.reading.truth), ("clean", self.clean)) if value
        }


DEFAULT = Options()


def prepare(
    source: str | Path,
    dataset_folder: str | Path,
    split: str | None = None,
    progress: bool = True,
    options: Options = DEFAULT,
) -> list[BadItem]:
    """Bring a package, or one split of it, into datasets/NAME: the plain form, the vocabulary, and the stores.

    Returns the items that had to be left out; those of a split are also listed in `SPLIT/left_out.txt`. A split that
    is already there from the same, unchanged files is kept. Raises DataError, also where a split is there that was made
    from something else, and `options` do not say what becomes of it.
    """
    parts, vocabulary = find_splits(source, split, options.reading)  # before anything is made
    Path(dataset_folder).mkdir(parents=True, exist_ok=True)
    with lock_of(Path(dataset_folder)):
        return _prepare(parts, vocabulary, Path(dataset_folder), progress, options)


def prepare_if_needed(dataset_folder: str | Path, progress: bool = True) -> None:
    """Make datasets/NAME ready for training: prepares an untouched package in it and says so; else costs nothing.

    Raises DataError when there is nothing (what was looked for, where, and how to get it), or when the package has
    bad items; the good ones are then there, and the next call goes on with them.
    """
    folder = Path(dataset_folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(_nothing_in(folder))
    if not _is_prepared(folder):
        with lock_of(folder):
            if not _is_prepared(folder):  # another process may have done it meanwhile
                _prepare_found(folder, progress)
    for path in sorted(folder.glob("*/left_out.txt")):
        count = sum(1 for _ in lines_of(path))
        print(f"{folder.name}/{path.parent.name}: {count} items are left out, see {path}", file=sys.stderr)


def _is_prepared(folder: Path) -> bool:
    return (folder / "vocabulary.txt").is_file() and (folder / "train" / "labels.txt").is_file()


def _prepare_found(folder: Path, progress: bool) -> None:
    try:
        parts, vocabulary = find_splits(folder)
    except NothingRecognized:
        raise DataError(_nothing_in(folder)) from None
    if all(part.folder for part in parts) and (folder / "train" / "labels.txt").is_file():
        _vocabulary_of_train(folder)  # the plain form, by hand
        return
    print(f"{folder}: preparing {', '.join(part.place for part in parts)}, once", file=sys.stderr)
    bad = _prepare(parts, vocabulary, folder, progress, DEFAULT)
    if bad:
        raise DataError(
            f"{folder}: {len(bad)} bad items were left out, see {folder}/*/left_out.txt. "
            f"Mend them, or go on without them by running this again{list_of(bad)}"
        )
    if not _is_prepared(folder):
        raise DataError(_nothing_in(folder))


def _nothing_in(folder: Path) -> str:
    return (
        f"{folder}: no training data. Looked in it for {LOOKED_FOR}. datasets/README.md says where to get data sets; "
        f"put the download there as it is, or run: python prepare.py DOWNLOAD --dataset {folder.name}"
    )


def _prepare(
    parts: list[Split], vocabulary: Vocabulary | None, target: Path, progress: bool, options: Options
) -> list[BadItem]:
    jobs = [_job(part, target / part.name, options) for part in parts]  # all are checked before anything is written
    old = _vocabulary_there(target)
    if old and ("train" not in [job.part.name for job in jobs if job.part] or options.existing == "add"):
        vocabulary = old.extended(vocabulary.tokens) if vocabulary and options.existing == "add" else old
    known = vocabulary or old or Vocabulary([])
    left_out: dict[str, list[BadItem]] = {}
    for job in jobs:
        if job.part is not None:
            wanted = vocabulary if job.part.name == "train" and options.existing != "add" else None
            left_out[job.folder.name] = _write_split(job, known, wanted, progress, options)
        elif job.is_in_place:
            left_out[job.folder.name] = []
    if not (target / "train" / "labels.txt").is_file():
        print(f"{target}: no split 'train' yet; with it come the vocabulary and the stores", file=sys.stderr)
    else:
        vocabulary = _updated_vocabulary(target, vocabulary, old, "train" in left_out, options)
        for labels in sorted(target.glob("*/labels.txt")):
            folder = labels.parent
            with lock_of(folder):
                if folder.name in left_out or fresh_store(folder, vocabulary) is None:
                    bad = build_store(target, folder.name, vocabulary, progress)[1]
                    left_out.setdefault(folder.name, []).extend(bad)
    for name, bad in left_out.items():
        _list_left_out(target / name, bad)
    return [item for bad in left_out.values() for item in bad]


def _list_left_out(folder: Path, bad: list[BadItem]) -> None:
    path = folder / "left_out.txt"
    path.unlink(missing_ok=True)
    if bad:
        atomic_write(path, _text_of(bad))


def _text_of(bad: list[BadItem]) -> bytes:
    """A line for each; their names may hold what UTF-8 does not have."""
    return "".join(f"{item}\n" for item in bad).encode("utf-8", "backslashreplace")


# ---- the vocabulary --------------------------------------------------------------------------------------------------


def _vocabulary_there(target: Path) -> Vocabulary | None:
    path = target / "vocabulary.txt"
    return Vocabulary.from_file(path) if path.is_file() else None


def _updated_vocabulary(
    target: Path, given: Vocabulary | None, old: Vocabulary | None, is_train_new: bool, options: Options
) -> Vocabulary:
    """Write vocabulary.txt: the package's own, else that of the labels of train; what is added goes behind the rest."""
    if options.existing == "add" and old is not None:
        labels = _good_labels(target, given or old)
        vocabulary = (given or old).extended(token for label in labels for token in label.tokens)
        added = vocabulary.tokens[len(old.tokens) :]
        if added:
            print(f"{target.name}: {len(added)} tokens added to the vocabulary: {' '.join(added)}", file=sys.stderr)
    elif given is not None:
        vocabulary = given
    elif is_train_new or old is None:
        return _vocabulary_of_train(target)
    else:
        return old
    if old is None or vocabulary.tokens != old.tokens:
        vocabulary.save(target / "vocabulary.txt")
    return vocabulary


def _vocabulary_of_train(target: Path) -> Vocabulary:
    vocabulary = Vocabulary.from_labels(label.tokens for label in _good_labels(target))
    vocabulary.save(target / "vocabulary.txt")
    return vocabulary


def _good_labels(target: Path, known: Iterable[str] = ()) -> Iterator[Label]:
    labels = read_labels(lines_or_bad(target / "train" / "labels.txt", "train/labels.txt"), "train/labels.txt", known)
    return (label for label in labels if not label.problem)


# ---- one split -------------------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """What is to be done with a split. part: None where nothing is.   adds: whether what is there stays."""

    part: Split | None
    folder: Path
    is_in_place: bool = False
    adds: bool = False


class _Record(NamedTuple):
    """What prepared.json says: the files of every part that a split was made of, and how it was read.

    photographs: how many of its images are photographs that were not cleaned.
    """

    parts: list[list]
    left_out: int
    options: dict
    photographs: int

    @staticmethod
    def of(folder: Path) -> _Record | None:
        path = folder / "prepared.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            return None
        except (ValueError, RecursionError):
            about = None
        try:
            left_out, parts = int(about.pop("left_out")), about.pop("parts", None) or [about["files"]]
            photographs = int(about.pop("photographs", 0))
            about.pop("files", None)  # as an earlier version called the parts
            _ = [Path(file[0]) for part in parts for file in part]
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{path}: damaged; delete it together with {folder / 'labels.txt'} and {folder / 'images'}, and "
                "prepare the split again"
            ) from None
        return _Record(parts, left_out, {"normalize": False} | about, photographs)


def _fingerprint(part: Split) -> list[list]:
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in part.files]


def _job(part: Split, folder: Path, options: Options) -> _Job:
    """What is to be done to bring a split into a folder. Raises DataError where something else is in it."""
    if part.folder and part.folder.resolve() == folder.resolve():
        return _Job(None, folder, is_in_place=True)
    record, labels = _Record.of(folder), folder / "labels.txt"
    if record is None:
        for path in (labels, folder / "images"):  # what we have not made, we do not replace
            if path.exists():
                raise DataError(
                    f"{path}: is in the way, and was not made by prepare.py; move it, or take another --dataset"
                )
        return _Job(part, folder)
    files = _fingerprint(part)
    if not labels.is_file():  # stopped on the way
        others = [str(file[0]) for other in record.parts if other != files for file in other[:1]]
        if others:
            print(
                f"{folder}: an earlier run was stopped while it replaced this split; of what it had been made of, "
                f"this is to be added again (--add): {', '.join(others)}",
                file=sys.stderr,
            )
        return _Job(part, folder)
    is_same = files in record.parts and record.left_out == 0 and record.options == options.record()
    # A split without the strokes that its package has was made before they were kept.
    if is_same and (not part.has_strokes or open_strokes(folder, checked=True) is not None):
        print(f"{folder.parent.name}/{folder.name}: already there, made from {part.place}", file=sys.stderr)
        return _Job(None, folder)
    if options.existing == "add":
        is_clean = record.options.get("clean", False)
        if is_clean != options.clean:
            was, now = ("cleaned", "without --clean") if is_clean else ("not cleaned", "with --clean")
            raise DataError(f"{folder}: its images were {was}; they cannot be added to {now}")
        return _Job(part, folder, adds=True)
    paths = {file[0] for file in files}
    is_of_this_source = len(record.parts) == 1 and not paths.isdisjoint(file[0] for file in record.parts[0])
    count = count_lines(labels)
    if options.existing == "refuse" and not is_of_this_source:
        raise DataError(
            f"{folder}: has {count} items already, made from something else than {part.place}; --add keeps them and "
            "adds the new ones, --replace takes the new ones instead"
        )
    print(f"{folder.parent.name}/{folder.name}: {count} items of an earlier run are replaced", file=sys.stderr)
    return _Job(part, folder)


class _Existing(NamedTuple):
    """The items of a split that is added to. labels: by name.   images: their files, by name."""

    labels: dict[str, str]
    images: dict[str, Path]

    def has(self, name: str, label: str, data: bytes) -> bool:
        """Whether this very item is there. Raises DataError for another one of its name."""
        if name not in self.labels:
            return False
        if self.labels[name] == label and self.images[name].read_bytes() == data:
            return True
        raise DataError(f"{name!r} is there already, with another label or another image; give it another name")


def _write_split(
    job: _Job, known: Vocabulary, wanted: Vocabulary | None, progress: bool, options: Options
) -> list[BadItem]:
    """Write labels.txt, images/ and, where they are known, strokes/ of one split; returns the bad items.

    wanted: a label with a token outside it is bad; None allows all.   The images keep the polarity they have.
    """
    part, folder = job.part, job.folder
    images = folder / "images.partial"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    existing = _copy_existing(folder, images) if job.adds else _Existing({}, {})
    saver = _Saver(images, wanted, existing, options)
    old_strokes = open_strokes(folder, checked=True) if job.adds else None
    strokes = StrokeWriter(folder / "strokes") if part.has_strokes or old_strokes else None
    try:
        return _fill_split(job, known, saver, strokes, old_strokes, progress)
    except OSError:  # a full disk gets back what was taken of it
        if strokes is not None:
            strokes.discard()
        if (folder / "labels.txt").exists() or not job.adds:  # else it has the only copy of what was there
            shutil.rmtree(images, ignore_errors=True)
        for partial in folder.glob("*.*.partial"):
            partial.unlink()
        raise


def _fill_split(
    job: _Job,
    known: Vocabulary,
    saver: _Saver,
    strokes: StrokeWriter | None,
    old_strokes: StrokeStore | None,
    progress: bool,
) -> list[BadItem]:
    """Write what a split consists of under temporary names, and put it in place."""
    part, folder, existing, options = job.part, job.folder, saver.existing, saver.options
    if old_strokes is not None:
        strokes.copy(old_strokes)
    bad, changes, new_labels = [], _Changes(f"{folder.parent.name}/{folder.name}", options.normalize), 0
    writers = _known_writers(folder) if job.adds else {}
    labels = folder / "labels.txt.partial"
    with naming(labels), open(labels, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{name}\t{label}\n" for name, label in existing.labels.items())
        items = in_threads(saver.save, part.read(known))
        for item in counted(items, changes.split, part.count, is_shown=progress):
            if isinstance(item, BadItem):
                bad.append(item)
            elif item is not None:
                file.write(f"{item.name}\t{' '.join(item.tokens)}\n")
                if strokes is not None and item.strokes is not None:
                    strokes.add(item.name, item.strokes)
                if item.writer:
                    writers[item.name] = item.writer
                changes.add(item)
                new_labels += 1
    if not new_labels and not existing.labels:
        raise DataError(f"{part.place}: no good item in it{list_of(bad)}")
    changes.tell()
    if job.adds:
        print(f"{changes.split}: {new_labels} items added to {len(existing.labels)}", file=sys.stderr)
    record = {"left_out": len(bad), **options.record(), "photographs": changes.count(UNCLEANED)}
    record["parts"] = [_fingerprint(part)]
    if job.adds:
        before = _Record.of(folder)
        record["parts"] = before.parts + record["parts"]
        record["photographs"] += before.photographs
    _put_in_place(folder, strokes, writers, record, bad)
    return bad


def _known_writers(folder: Path) -> dict[str, str]:
    """The writer of each image of a split, where somebody knows: writers.txt has lines `name<TAB>writer`."""
    table = folder / "writers.txt"
    rows = (line.rstrip("\n").partition("\t") for line in lines_of(table)) if table.is_file() else ()
    return {name: writer for name, _, writer in rows if name}


def _put_in_place(
    folder: Path, strokes: StrokeWriter | None, writers: dict[str, str], record: dict, bad: list[BadItem]
) -> None:
    """Take away what was there, and give what was written its names; labels.txt goes first and comes last.

    All is written before anything is taken away: where a disk is full, what was there stays.
    """
    texts = {
        "prepared.json": json.dumps(record),
        "left_out.txt": _text_of(bad),
        "writers.txt": "".join(f"{name}\t{writer}\n" for name, writer in writers.items()),
    }
    for name, text in texts.items():
        atomic_write(folder / f"{name}.partial", text)
    if strokes is not None:
        strokes.finish()
    (folder / "labels.txt").unlink(missing_ok=True)
    shutil.rmtree(folder / "images", ignore_errors=True)
    for name, text in texts.items():
        if text:
            (folder / f"{name}.partial").replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
            (folder / f"{name}.partial").unlink()
    (folder / "images.partial").rename(folder / "images")
    if strokes is not None:
        strokes.close()
    else:
        shutil.rmtree(folder / "strokes", ignore_errors=True)
    (folder / "labels.txt.partial").rename(folder / "labels.txt")


def _copy_existing(folder: Path, images: Path) -> _Existing:
    """Link, or copy, the images that are there into another folder."""
    rows = (line.rstrip("\n").partition("\t") for line in lines_of(folder / "labels.txt"))
    labels = {name: label for name, _, label in rows if name}
    files = {}
    for path in (folder / "images").iterdir():
        files[path.name.rpartition(".")[0]] = images / path.name
        try:
            os.link(path, images / path.name)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(path, images / path.name)
    return _Existing(labels, files)


@dataclass(frozen=True)
class _Saver:
    """Checks items and writes their images into `images`."""

    images: Path
    wanted: Vocabulary | None
    existing: _Existing
    options: Options

    def save(self, item: Item | BadItem) -> Item | BadItem | None:
        """The item without its pixels, or what is wrong with it; None where this very item is there already."""
        if isinstance(item, BadItem):
            return item
        try:
            if self.options.normalize:
                item = item._replace(tokens=normalize_label(item.tokens) or item.tokens)
            if self.wanted:
                self.wanted.encode(item.tokens)
            image, data = image_of(item), item.image
            if item.strokes is None and self._is_photograph(image):
                item, image = self._photograph(item, image)
                data = item.image
            normalize_image(image, name_of_image(item))
            data = data.read_bytes() if isinstance(data, Path) else data
            if isinstance(data, bytes) and data.startswith((PNG, JPEG)):
                suffix = "png" if data.startswith(PNG) else "jpg"
            else:
                suffix, data = "png", cv2.imencode(".png", image)[1].tobytes()
            if self.existing.has(item.name, " ".join(item.tokens), data):
                return None
        except DataError as error:
            return BadItem(item.where, str(error))
        path = self.images / f"{item.name}.{suffix}"
        with naming(path):
            path.write_bytes(data)
        return item._replace(image=b"")

    def _is_photograph(self, image: np.ndarray) -> bool:
        """As recognize.py tells it. To count those that stay as they are, grey levels are enough to go by."""
        if self.options.clean:
            return not is_drawn(image)
        return len(levels_of(image)) > 2

    def _photograph(self, item: Item, image: np.ndarray) -> tuple[Item, np.ndarray]:
        """The item and its image, cleaned where that is wanted, with a note of what was done, or could be."""
        if not self.options.clean:
            return item._replace(notes=(*item.notes, (UNCLEANED, name_of_image(item)))), image
        ink = 255 - clean_photograph(image, name_of_image(item))[0].image
        (height, width), (tall, wide) = image.shape, ink.shape
        note = f"{width} x {height} pixels -> {wide} x {tall}"
        return item._replace(image=ink, notes=(*item.notes, (CLEANED, note))), ink


class _Changes:
    """What was changed in reading the labels of a split, and what --normalize would change, told in a few lines."""

    def __init__(self, split: str, normalizes: bool):
        self.split, self._normalizes = split, normalizes
        self._of_kind: dict[str, list[str]] = {}
        self._characters: dict[str, str] = {}  # what each was read as, and where first
        self._labels: dict[str, str] = {}  # the first different ones, and where each is

    def add(self, item: Item) -> None:
        for kind, detail in item.notes:
            self._of_kind.setdefault(kind, []).append(f"{item.where}: {detail}")
            if kind == CHARACTERS:
                self._characters.setdefault(detail, f"{item.where}: {detail}")
        if len(self._labels) < _NORMALIZED_TO_JUDGE:
            self._labels.setdefault(" ".join(item.tokens), item.where)

    def count(self, kind: str) -> int:
        return len(self._of_kind.get(kind, []))

    def tell(self) -> None:
        for kind, changes in self._of_kind.items():
            count = f"{len(changes)} time{'s' if len(changes) > 1 else ''}"
            listed = _listed(list(self._characters.values()), _CHARACTERS) if kind == CHARACTERS else _listed(changes)
            print(f"{self.split}: {kind}, {count}{listed}", file=sys.stderr)
        if self._normalizes:
            return
        spellings = ((label, " ".join(normalize_label(label.split())), where) for label, where in self._labels.items())
        others = [f"{where}: {label} -> {other}" for label, other, where in spellings if other and other != label]
        if others:
            first = "" if len(self._labels) < _NORMALIZED_TO_JUDGE else "the first "
            print(
                f"{self.split}: --normalize would write {len(others)} of {first}{len(self._labels)} different labels "
                f"in their one spelling{_listed(others)}",
                file=sys.stderr,
            )


def _listed(lines: list[str], most: int = _EXAMPLES) -> str:
    rest = ["…"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *rest])


def cleaning_of(folder: Path) -> str | None:
    """What a reader should do to images, as a split that it was trained on had them: see Reader.prepare.

    "auto": photographs were cleaned.   "never": most are photographs that were not.   None: neither is known.
    """
    record = _Record.of(folder)
    if record is None:
        return None
    if record.options.get("clean"):
        return "auto"
    return "never" if 2 * record.photographs > count_lines(folder / "labels.txt") else None


def photographs_as_they_are(folder: Path) -> int:
    """How many images of a split are photographs that were not cleaned, as far as is known."""
    record = _Record.of(folder)
    return record.photographs if record else 0


def long_labels(
    dataset_folder: str | Path, limit_of: Callable[[int, int], int], splits: Iterable[str] | None = None
) -> list[str]:
    """Labels that a reading could not reach the end of, a line for each split that has any.

    limit_of: the most tokens that are read from an image of (height, width) pixels.
    """
    folder, told = Path(dataset_folder), []
    vocabulary = _vocabulary_there(folder)
    for path in sorted(folder.glob("*/labels.txt")) if vocabulary else ():
        store = fresh_store(path.parent, vocabulary)
        if store is None or (splits is not None and path.parent.name not in splits):
            continue
        lengths = store.lengths.tolist()
        candidates = np.flatnonzero(store.lengths > ALWAYS_READ)
        long = [index for index in candidates if lengths[index] > limit_of(*store.sizes[index].tolist())]
        if long:
            first = int(long[0])
            told.append(
                f"{folder.name}/{path.parent.name}: {len(long)} labels are longer than what is read from their image, "
                f"so they cannot be right: {store.name(first)!r} has {lengths[first]} tokens in "
                f"{store.sizes[first][1]} x {store.sizes[first][0]} pixels; a larger image may have more"
            )
    return told
