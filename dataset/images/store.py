"""The store: all pictures and labels of a split in a few flat files, memory-mapped.

On disk a split is `labels.txt` (UTF-8, a line a picture: `name<TAB>tokens separated by spaces`) and `images/` with
`name.png` or `name.jpg`: the plain form. The store is built from it once, in `SPLIT/store`. Opening it reads no picture
and makes no Python object an item, so a million pictures take as long as ten; workers share the page cache.
"""

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from dataset.vocabulary import UNKNOWN, Vocabulary
from utils.errors import BadItem, DataError
from utils.reading.pictures import normalize, read_picture

if TYPE_CHECKING:
    from dataset.images.strokes import Strokes

T = TypeVar("T")

# Raise this when the files below, or what `normalize` does, change: older stores are then built again.
VERSION = 2
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# The flat files of a store, and what one element of each is. *_ends: where item i ends and item i + 1 begins.
FILES = {
    "pixels": np.uint8,
    "pixel_ends": np.int64,
    "sizes": np.int32,  # height, width
    "tokens": np.int32,
    "token_ends": np.int64,
    "label_hash": np.uint64,
    "names": np.uint8,  # UTF-8
    "name_ends": np.int64,
}


class ImageStore:
    """Pictures and labels of one split, in the order of `labels.txt`.

    sizes: (N, 2) int32, height and width in pixels.   lengths: (N,) int32, tokens a label.
    label_hash: (N,) uint64, equal where the labels are equal.
    Cheap to pickle: a worker gets the folder's name and maps the files again. Raises DataError when they are not whole.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._about, files = map_files(self.folder, FILES, "delete it to have it built again")
        self._pixels, self._pixel_ends = files["pixels"], files["pixel_ends"]
        self._pixel_map = getattr(self._pixels.base, "_mmap", None)  # none where there are no pixels
        if self._pixel_map:
            self._pixel_map.madvise(mmap.MADV_RANDOM)
        self._tokens, self._token_ends = files["tokens"], files["token_ends"]
        self._names, self._name_ends = files["names"], files["name_ends"]
        self.sizes: np.ndarray = files["sizes"].reshape(-1, 2)
        self.label_hash: np.ndarray = files["label_hash"]
        self.lengths: np.ndarray = np.diff(self._token_ends, prepend=0).astype(np.int32)

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self):
        return ImageStore, (self.folder,)

    def picture(self, index: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0: a read-only view on the file."""
        picture = slice_of(self._pixels, self._pixel_ends, index).reshape(self.sizes[index])
        # What is not in memory is read at once, and no more than that: left to itself, the system reads far around
        # each page that it misses, and does so again for the next one.
        end = int(self._pixel_ends[index])
        first = (end - picture.size) // mmap.PAGESIZE * mmap.PAGESIZE
        self._pixel_map.madvise(mmap.MADV_WILLNEED, first, end - first)
        return picture

    def tokens(self, index: int) -> np.ndarray:
        """int32 vocabulary ids of the label, without `<sos>` and `<eos>`; UNKNOWN (-1) outside the vocabulary."""
        return slice_of(self._tokens, self._token_ends, index)

    def name(self, index: int) -> str:
        return slice_of(self._names, self._name_ends, index).tobytes().decode()

    def is_built_from(self, labels: Path, vocabulary: Vocabulary) -> bool:
        """Whether this store still says what labels.txt and the vocabulary say. Changed picture files go unseen."""
        about = self._about
        if about.get("version") != VERSION or about.get("vocabulary") != vocabulary.digest:
            return False
        status = labels.stat()
        if [status.st_size, status.st_mtime_ns] == about["labels_status"]:
            return True
        return _digest(labels) == about["labels_digest"]  # a copied data set has new times but the same text


def map_files(folder: Path, kinds: dict[str, type], remedy: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What a store's writer said about it, and its flat files by name, memory-mapped.

    kinds: what one element of each is.   Raises DataError, which ends with the remedy, when they are not whole.
    """
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        files = {name: _map(folder / f"{name}.bin", kind) for name, kind in kinds.items()}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a whole store ({error}); {remedy}") from None
    if {name: array.nbytes for name, array in files.items()} != about["bytes"]:
        raise DataError(f"{folder}: a file has lost its end; {remedy}")
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
        self._kinds, self._about = kinds, about
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._files = {name: open(self._partial / f"{name}.bin", "wb") for name in kinds}

    def _write(self, name: str, values) -> None:
        self._files[name].write(np.ascontiguousarray(values, self._kinds[name]).tobytes())

    def _written(self, name: str) -> int:
        """Elements of a file so far."""
        return self._files[name].tell() // np.dtype(self._kinds[name]).itemsize

    def close(self) -> None:
        self._about["bytes"] = {name: file.tell() for name, file in self._files.items()}
        for file in self._files.values():
            file.close()
        (self._partial / "store.json").write_text(json.dumps(self._about), encoding="utf-8")
        old = self.folder.with_name(f"{self.folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)  # a folder cannot be renamed over another; readers of the old one keep their maps
        self._partial.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
            return
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._partial, ignore_errors=True)


class StoreWriter(FlatWriter):
    """Writes an ImageStore."""

    def __init__(self, folder: str | Path, **about):
        super().__init__(folder, FILES, version=VERSION, **about)
        self._count = 0

    def add(self, name: str, picture: np.ndarray, ids: Iterable[int]) -> None:
        """picture: uint8 (H, W), ink 255 on paper 0.   ids: the label's vocabulary ids, without `<sos>` and `<eos>`."""
        ids = np.asarray(ids, np.int32)
        self._write("pixels", picture)
        self._write("pixel_ends", self._written("pixels"))
        self._write("sizes", picture.shape)
        self._write("tokens", ids)
        self._write("token_ends", self._written("tokens"))
        self._write("label_hash", int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little"))
        self._write("names", np.frombuffer(name.encode(), np.uint8))
        self._write("name_ends", self._written("names"))
        self._count += 1

    def __len__(self) -> int:
        """Items added so far."""
        return self._count


class Item(NamedTuple):
    """A picture with its label as a package has them.

    where: file and line, for messages.   picture: its file, or the bytes of one, or uint8 (H, W) of any polarity.
    strokes: what the picture was drawn from, where that is known.
    """

    name: str
    tokens: list[str]
    picture: Path | bytes | np.ndarray
    where: str
    strokes: "Strokes | None" = None


class Label(NamedTuple):
    """One line of a label file. problem: what is wrong with it, or empty."""

    name: str
    tokens: list[str]
    where: str
    problem: str = ""


def read_labels(lines: Iterable[str], shown_as: str) -> Iterator[Label]:
    """Read lines `name<TAB>tokens` (any white space will do); empty ones are passed over.

    The name loses the suffix of a picture file. It may occur once, and must do as the name of a file.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        name, _, label = line.partition("\t" if "\t" in line else " ")
        name, tokens, where = stem(name.strip()), label.split(), f"{shown_as}, line {number}"
        if name in seen:
            yield Label(name, tokens, where, f"duplicate name {name!r}, first in line {seen[name]}")
            continue
        seen[name] = number
        if not tokens:
            yield Label(name, tokens, where, f"no label after {name!r}; expected name<TAB>tokens")
        elif not name or name.startswith(".") or set(name) & set("/\\\0"):
            yield Label(name, tokens, where, f"{name!r} cannot be a file's name")
        else:
            yield Label(name, tokens, where)


def stem(file: str) -> str:
    """The name without the suffix of a picture file; a dot elsewhere stays."""
    return file[: file.rindex(".")] if file.lower().endswith(PICTURE_SUFFIXES) else file


def pair(
    labels: Iterable[Label], pictures: dict[str, T], open_picture: Callable[[T], Path | bytes | np.ndarray], place: str
) -> Iterator[Item | BadItem]:
    """Bring every label together with its picture, in the order of the labels; then name the pictures without a label.

    pictures: by name, whatever `open_picture` makes a picture of; emptied on the way.   place: where they are from.
    """
    for label in labels:
        picture = pictures.pop(label.name, None)
        if label.problem:
            yield BadItem(label.where, label.problem)
        elif picture is None:
            yield BadItem(label.where, f"no picture {label.name!r} in {place}")
        else:
            try:
                yield Item(label.name, label.tokens, open_picture(picture), label.where)
            except DataError as error:
                yield BadItem(label.where, str(error))
    for name in pictures:
        yield BadItem(f"{place}, {name}", "a picture without a label")


def read_split(folder: str | Path) -> Iterator[Item | BadItem]:
    """The plain form: `labels.txt` and `images/`. Raises DataError when labels.txt is missing or not UTF-8."""
    folder = Path(folder)
    images = folder / "images"
    labels = read_labels(lines_of(folder / "labels.txt"), f"{folder.name}/labels.txt")
    return pair(labels, picture_files(images), images.joinpath, f"{folder.name}/images")


def picture_files(folder: Path) -> dict[str, str]:
    """The picture files in a folder, sorted: the names without and with the suffix. Empty where there is no folder."""
    if not folder.is_dir():
        return {}
    files = sorted(file for file in os.listdir(folder) if file.lower().endswith(PICTURE_SUFFIXES))
    return by_name(file for file in files if not file.startswith("."))


def by_name(files: Iterable[str]) -> dict[str, str]:
    """Paths of pictures by their names without folder and suffix. A second one of a name is found as one too many."""
    pictures: dict[str, str] = {}
    for file in files:
        name = file.rpartition("/")[2]
        pictures[name if stem(name) in pictures else stem(name)] = file
    return pictures


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, one at a time. Raises DataError where it is missing or other than UTF-8."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from file
    except FileNotFoundError:
        raise DataError(f"{path}: not found") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text ({error})") from None


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """function(item) of every item, in order, worked on ahead in threads: decoding a picture needs no GIL."""
    workers = os.cpu_count() or 1
    running = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 8 * workers:  # so far ahead and no further: decoded pictures take memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def picture_of(item: Item) -> np.ndarray:
    """The item's picture as it came: uint8 (H, W) of any polarity. Raises DataError that begins with its name."""
    if isinstance(item.picture, np.ndarray):
        return item.picture
    return read_picture(item.picture, name_of_picture(item))


def name_of_picture(item: Item) -> str:
    return f"{item.picture.parent.name}/{item.picture.name}" if isinstance(item.picture, Path) else item.name


def _ink_of(item: Item | BadItem) -> tuple[Item | BadItem, np.ndarray | None]:
    """The item with its picture as the network sees it, or what is wrong with it and no picture."""
    if isinstance(item, BadItem):
        return item, None
    try:
        return item, normalize(picture_of(item), name_of_picture(item))
    except DataError as error:
        return BadItem(item.where, str(error)), None


def build_store(
    dataset_folder: str | Path, split: str, vocabulary: Vocabulary, progress: bool = True
) -> tuple[ImageStore, list[BadItem]]:
    """Build `SPLIT/store` from `labels.txt` and `images/`; returns it with the items that had to be left out.

    In the split `train`, a label with a token outside the vocabulary is left out: it could not be learnt. In any other
    split it stays and counts, with the id UNKNOWN. Raises DataError when there are no labels or no good item.
    """
    folder = Path(dataset_folder) / split
    labels = folder / "labels.txt"
    if not labels.is_file() or not (folder / "images").is_dir():
        raise DataError(f"{folder}: expected labels.txt and a folder images/ in it")
    status = labels.stat()
    about = {
        "labels_status": [status.st_size, status.st_mtime_ns],
        "labels_digest": _digest(labels),
        "vocabulary": vocabulary.digest,
    }
    lines = sum(1 for _ in lines_of(labels))
    bad, unknown = [], 0
    with StoreWriter(folder / "store", **about) as writer:
        items = in_threads(_ink_of, read_split(folder))
        for item, ink in tqdm(items, f"{folder.parent.name}/{split}: store", lines, disable=not progress, unit="item"):
            if ink is not None:
                try:
                    ids = vocabulary.encode(item.tokens, unknown=None if split == "train" else UNKNOWN)
                except DataError as error:
                    item = BadItem(item.where, str(error))
                else:
                    writer.add(item.name, ink, ids)
                    unknown += UNKNOWN in ids
            if isinstance(item, BadItem):
                bad.append(item)
        if len(writer) == 0:
            raise DataError(f"{labels}: no good item in it{list_of(bad)}")
    if unknown:
        print(
            f"{folder.parent.name}/{split}: {unknown} of {len(writer)} labels have a token that train lacks; "
            "they stay, and count as wrong",
            file=sys.stderr,
        )
    return ImageStore(folder / "store"), bad


def open_split(dataset_folder: str | Path, split: str, vocabulary: Vocabulary, progress: bool = True) -> ImageStore:
    """Open the store of a split; builds it first, saying so, when it is missing or older than its labels or vocabulary.

    Raises DataError when items would have to be left out of a new store: that takes `prepare.py --skip-bad`.
    """
    folder = Path(dataset_folder) / split
    store = fresh_store(folder, vocabulary)
    if store is None:
        with one_at_a_time(folder):
            store = fresh_store(folder, vocabulary)  # another process may have built it meanwhile
            if store is None:
                print(f"{folder.parent.name}/{split}: building the store, once", file=sys.stderr)
                store, bad = build_store(dataset_folder, split, vocabulary, progress)
                if bad:
                    shutil.rmtree(store.folder)
                    raise DataError(
                        f"{folder}: {len(bad)} bad items{list_of(bad)}\nMend them, or leave them out with: "
                        f"python prepare.py {dataset_folder} --dataset {folder.parent.name} --skip-bad"
                    )
    return store


def fresh_store(folder: Path, vocabulary: Vocabulary) -> ImageStore | None:
    """The store of a split's folder, when it is whole and as new as the labels and the vocabulary."""
    labels = folder / "labels.txt"
    if not labels.is_file() or not (folder / "store" / "store.json").is_file():
        return None
    try:
        store = ImageStore(folder / "store")
    except DataError:
        return None  # a half of a store is no store; it is built again
    return store if store.is_built_from(labels, vocabulary) else None


@contextmanager
def one_at_a_time(folder: Path):
    """Runs that start together prepare a folder once: the others wait. The lock ends with the process that holds it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: not found; expected a folder with data")
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process prepares it; waiting", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_of(bad: list[BadItem], at_most: int = 5) -> str:
    """The first bad items, a line each, to end a message with."""
    rest = [f"… and {len(bad) - at_most} more"] if len(bad) > at_most else []
    return "".join(f"\n  {line}" for line in [*bad[:at_most], *rest])


def split_validation(store: ImageStore, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of train and of validation, each (n,) int64 and rising. All pictures of one label fall on the same side.

    fraction: the share of labels that validates, met on average. Whether a label validates depends on the label and
    the seed alone, so it stays where it is when data are added. No side is empty where there are two labels or more.
    """
    # SplitMix64's finaliser (Steele, Lea, Flood 2014) shuffles the hashes anew for every seed.
    with np.errstate(over="ignore"):
        mixed = store.label_hash + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    is_validation = mixed / 2.0**64 < fraction
    if fraction > 0 and len(mixed) and mixed.min() < mixed.max():
        is_validation |= mixed == mixed.min()
        is_validation &= mixed != mixed.max()
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
