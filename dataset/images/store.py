"""The store: all images and labels of a split in a few flat files, memory-mapped.

On disk a split is `labels.txt` and `images/`: the plain form (see `formats/items.py`). The store is built from it once,
in `SPLIT/store`. Opening it reads no image and makes no Python object for an item, so a million images take as long as
ten; workers share the page cache.
"""

import mmap
import shutil
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from dataset.formats.items import Item, image_of, name_of_image, read_split
from dataset.formats.labels import read_labels
from dataset.formats.text_files import count_lines, lines_or_bad
from dataset.images.flat_files import FlatWriter, map_files, slice_of
from dataset.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from utils.errors import BadItem, DataError, list_of
from utils.files import file_digest, hash64, locked
from utils.parallel import in_threads
from utils.progress import counted
from utils.reading.images import normalize_image

# Raise this when the files below, or what `normalize_image` does, change: older stores are then built again.
VERSION = 5
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
    """Images and labels of one split, in the order of `labels.txt`.

    sizes: (N, 2) int32, height and width in pixels.   lengths: (N,) int32, tokens in each label.
    label_hash: (N,) uint64, of the label's text: equal where the labels are equal, whatever the vocabulary.
    Cheap to pickle: a worker gets the folder's name and maps the files again. Raises DataError when they are not whole.
    """

    def __init__(self, folder: str | Path, tokens: np.ndarray | None = None, checked: bool = False):
        """tokens: int32, the ids of all labels one after the other, in place of those that the store was built with.

        checked: compare all files with their checksums, but the pixels, by far the largest.
        """
        self.folder = Path(folder)
        to_check = [name for name in FILES if name != "pixels"] if checked else []
        self._about, files = map_files(self.folder, FILES, "delete it to have it built again", to_check)
        self._pixels, self._pixel_ends = files["pixels"], files["pixel_ends"]
        self._pixel_map = getattr(self._pixels.base, "_mmap", None)  # none where there are no pixels
        self._can_advise = self._pixel_map is not None and hasattr(self._pixel_map, "madvise")  # Windows has none
        if self._can_advise:
            self._pixel_map.madvise(mmap.MADV_RANDOM)
        self._tokens, self._token_ends = files["tokens"] if tokens is None else tokens, files["token_ends"]
        self._other_tokens = tokens
        self._names, self._name_ends = files["names"], files["name_ends"]
        self.sizes: np.ndarray = files["sizes"].reshape(-1, 2)
        self.label_hash: np.ndarray = files["label_hash"]
        lengths = np.diff(self._token_ends, prepend=0)
        self.lengths: np.ndarray = lengths.astype(np.int32)
        if not self._fits_together(lengths):
            raise DataError(f"{self.folder}: its files do not fit together; delete it to have it built again")

    def _fits_together(self, lengths: np.ndarray) -> bool:
        """Whether each item has its pixels, tokens and name; on a bad disk, files of the right length may not."""
        names, areas = np.diff(self._name_ends, prepend=0), np.multiply(*self.sizes.T, dtype=np.int64)
        if not len(lengths) == len(names) == len(self.label_hash) == len(areas) == len(self._pixel_ends):
            return False
        return bool(
            np.array_equal(np.diff(self._pixel_ends, prepend=0), areas)
            and (self.sizes > 0).all()
            and (lengths >= 0).all()
            and (names >= 0).all()
            and (lengths.sum(), names.sum(), areas.sum()) == (len(self._tokens), len(self._names), len(self._pixels))
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def __reduce__(self):
        return ImageStore, (self.folder, self._other_tokens)

    def in_vocabulary(self, vocabulary: Vocabulary, built_with: Vocabulary, labels: Path) -> "ImageStore":
        """The same images, their labels in the ids of another vocabulary than the store was built with.

        labels: labels.txt, which is looked at for the tokens that were unknown until now.
        """
        ids = vocabulary.encode(built_with.tokens, unknown=UNKNOWN)
        # The specials keep their ids; the last entry is found by the index UNKNOWN, -1.
        new_id = np.array([*range(len(SPECIALS)), *ids, UNKNOWN], np.int32)
        store = ImageStore(self.folder, new_id[self._tokens])
        unknown = {store.name(i): i for i in range(len(store)) if UNKNOWN in store.tokens(i)}
        if unknown:
            for label in read_labels(lines_or_bad(labels, str(labels)), str(labels), built_with):
                if not label.problem and label.name in unknown:
                    store.tokens(unknown[label.name])[:] = vocabulary.encode(label.tokens, unknown=UNKNOWN)
        return store

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0: a read-only view on the file."""
        image = slice_of(self._pixels, self._pixel_ends, index).reshape(self.sizes[index])
        # What is not in memory is read at once, and no more than that: left to itself, the system reads far around
        # each page that it misses, and does so again for the next one.
        if self._can_advise:
            end = int(self._pixel_ends[index])
            first = (end - image.size) // mmap.PAGESIZE * mmap.PAGESIZE
            self._pixel_map.madvise(mmap.MADV_WILLNEED, first, end - first)
        return image

    def tokens(self, index: int) -> np.ndarray:
        """int32 vocabulary ids of the label, without `<sos>` and `<eos>`; UNKNOWN (-1) outside the vocabulary."""
        return slice_of(self._tokens, self._token_ends, index)

    def name(self, index: int) -> str:
        return slice_of(self._names, self._name_ends, index).tobytes().decode()

    def is_built_from(self, labels: Path, vocabulary: Vocabulary) -> bool:
        """Whether this store still says what labels.txt and the vocabulary say. Changed image files go unseen."""
        about = self._about
        if about.get("version") != VERSION or about.get("vocabulary") != vocabulary.digest:
            return False
        status = labels.stat()
        if [status.st_size, status.st_mtime_ns] == about.get("labels_status"):
            return True
        return file_digest(labels) == about.get("labels_digest")  # a copied data set has new times but the same text


class StoreWriter(FlatWriter):
    """Writes an ImageStore."""

    def __init__(self, folder: str | Path, **about):
        super().__init__(folder, FILES, version=VERSION, **about)
        self._count = 0

    def add(self, name: str, image: np.ndarray, ids: Iterable[int], label: str) -> None:
        """image: uint8 (H, W), ink 255 on paper 0.   ids: the label's vocabulary ids, without `<sos>` and `<eos>`.

        label: its text, the tokens with a space between them.
        """
        ids = np.asarray(ids, np.int32)
        self._write("pixels", image)
        self._write("pixel_ends", self._written("pixels"))
        self._write("sizes", image.shape)
        self._write("tokens", ids)
        self._write("token_ends", self._written("tokens"))
        self._write("label_hash", hash64(label.encode()))
        self._write("names", np.frombuffer(name.encode(), np.uint8))
        self._write("name_ends", self._written("names"))
        self._count += 1

    def __len__(self) -> int:
        """Items added so far."""
        return self._count


def _ink_of(item: Item | BadItem) -> tuple[Item | BadItem, np.ndarray | None]:
    """The item with its image as the network sees it, or what is wrong with it and no image."""
    if isinstance(item, BadItem):
        return item, None
    try:
        return item, normalize_image(image_of(item), name_of_image(item))
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
        "labels_digest": file_digest(labels),
        "vocabulary": vocabulary.digest,
    }
    title = f"{folder.parent.name}/{split}: store"
    bad, unknown = [], 0
    with StoreWriter(folder / "store", **about) as writer:
        items = in_threads(_ink_of, read_split(folder, vocabulary))
        for item, ink in counted(items, title, count_lines(labels), is_shown=progress):
            if ink is not None:
                try:
                    ids = vocabulary.encode(item.tokens, unknown=None if split == "train" else UNKNOWN)
                except DataError as error:
                    item = BadItem(item.where, str(error))
                else:
                    writer.add(item.name, ink, ids, " ".join(item.tokens))
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

    Its labels have the ids of `vocabulary`; it is built with the data set's own, where that has another.
    Raises DataError when items would have to be left out of a new store: that takes `prepare.py --skip-bad`.
    """
    path = Path(dataset_folder) / "vocabulary.txt"
    own = Vocabulary.from_file(path) if path.is_file() else vocabulary
    store = _open_own(Path(dataset_folder) / split, own, progress)
    if own.tokens == vocabulary.tokens:
        return store
    return store.in_vocabulary(vocabulary, own, store.folder.parent / "labels.txt")


def _open_own(folder: Path, vocabulary: Vocabulary, progress: bool) -> ImageStore:
    store = fresh_store(folder, vocabulary)
    if store is None:
        with lock_of(folder):
            store = fresh_store(folder, vocabulary)  # another process may have built it meanwhile
            if store is None:
                print(f"{folder.parent.name}/{folder.name}: building the store, once", file=sys.stderr)
                store, bad = build_store(folder.parent, folder.name, vocabulary, progress)
                if bad:
                    shutil.rmtree(store.folder)
                    raise DataError(
                        f"{folder}: {len(bad)} bad items{list_of(bad)}\nMend them, or leave them out with: "
                        f"python prepare.py {folder.parent} --dataset {folder.parent.name} --skip-bad"
                    )
    return store


def lock_of(folder: Path) -> AbstractContextManager[None]:
    """Held by who makes what is in a data set's folder, or in that of a split; others wait for it."""
    return locked(folder / ".lock", f"{folder}: another process prepares it")


def fresh_store(folder: Path, vocabulary: Vocabulary) -> ImageStore | None:
    """The store of a split's folder, when it is whole and as new as the labels and the vocabulary."""
    labels = folder / "labels.txt"
    if not labels.is_file() or not (folder / "store" / "store.json").is_file():
        return None
    try:
        store = ImageStore(folder / "store", checked=True)
    except DataError:
        return None  # a half of a store is no store; it is built again
    return store if store.is_built_from(labels, vocabulary) else None
