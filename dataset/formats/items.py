"""Items: an image with its label, however a package keeps them; and the plain form of a split.

On disk a split is `labels.txt` (UTF-8, a line for each image: `name<TAB>tokens separated by spaces`) and `images/` with
`name.png` or `name.jpg`: the plain form.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from dataset.formats.labels import IMAGE_SUFFIXES, Label, read_labels, stem
from dataset.formats.text_files import lines_or_bad
from utils.errors import BadItem, DataError
from utils.reading.images import read_image

if TYPE_CHECKING:
    from dataset.images.strokes import Strokes

T = TypeVar("T")


class Item(NamedTuple):
    """An image with its label as a package has them.

    where: file and line, for messages.   image: its file, or the bytes of one, or uint8 (H, W) of any polarity.
    strokes: what the image was drawn from, where that is known.   notes: see `Label`.   writer: who wrote it, "" where
    that is not known.
    """

    name: str
    tokens: list[str]
    image: Path | bytes | np.ndarray
    where: str
    strokes: Strokes | None = None
    notes: tuple[tuple[str, str], ...] = ()
    writer: str = ""


class NamedImages(Generic[T]):
    """Images, found by what labels call them: with or without folders and suffix, in either Unicode form.

    Small and capital letters are told apart only where images differ in them.

    images: by file, such as `a/f00.png`, or by name.   place: where they are from, for messages.
    """

    def __init__(self, images: Mapping[str, T], place: str):
        self.images, self.place = dict(images), place
        self._files: dict[str, list[str]] = {}  # of each name without folder and suffix
        for file in sorted(self.images):
            self._files.setdefault(_key(file), []).append(file)
        self._keys: dict[str, list[str]] = {}  # of each name in small letters
        for key in self._files:
            self._keys.setdefault(key.lower(), []).append(key)
        self._is_taken: set[str] = set()

    def __len__(self) -> int:
        return len(self.images)

    def named(self, path: str) -> list[str]:
        """The files that may be meant by `path`."""
        key = _key(path)
        if key not in self._files and len(alike := self._keys.get(key.lower(), [])) == 1:
            key = alike[0]
        return self._files.get(key, [])

    def take(self, path: str) -> tuple[T | None, str]:
        """The image that a label calls `path`, None where there is none; and what is to be told about the choice."""
        files = self.named(path)
        likeness = [_likeness(path, file) for file in files]
        best = [file for file, each in zip(files, likeness, strict=True) if each == max(likeness)]
        if not best:
            return None, ""
        told = ""
        if len(best) > 1:
            self._is_taken.update(best)
            told = f"{len(best)} images are called {path!r}: {', '.join(best)}; {best[0]} is taken"
        elif best[0] in self._is_taken:
            return None, f"{best[0]} has a label already"
        self._is_taken.add(best[0])
        return self.images.pop(best[0], None), told

    def left(self) -> list[str]:
        """The files that no label asked for."""
        return [file for files in self._files.values() for file in files if file not in self._is_taken]


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", stem(path.rpartition("/")[2]))


def _likeness(path: str, file: str) -> tuple[bool, int]:
    """How well a file fits what a label calls it: by its suffix, then by how many folders they have in common."""
    path, file = (unicodedata.normalize("NFC", each) for each in (path, file))
    has_suffix = path.lower().endswith(IMAGE_SUFFIXES)
    is_same_suffix = has_suffix and path.lower().rpartition(".")[2] == file.lower().rpartition(".")[2]
    folders, others = (reversed(each.split("/")[:-1]) for each in (path, file))
    common = 0
    for one, other in zip(folders, others, strict=False):
        if one != other:
            break
        common += 1
    return is_same_suffix, common


def match_labels(
    labels: Iterable[Label],
    images: NamedImages[T],
    open_image: Callable[[T], Path | bytes | np.ndarray],
    has_all: bool = True,
) -> Iterator[Item | BadItem]:
    """Bring every label together with its image, in the order of the labels; then name the images without a label.

    open_image: makes an image of what `images` holds.   has_all: False where other labels ask for some of them.
    Raises DataError where no label names an image.
    """
    labels = list(labels)
    _check_names(labels, images)
    for label in labels:
        if not label.path and label.problem:
            yield BadItem(label.where, label.problem)
            continue
        image, told = images.take(label.path) if "duplicate name" not in label.problem else (None, "")
        if label.problem:
            yield BadItem(label.where, label.problem)
            continue
        if image is None:
            yield BadItem(label.where, told or f"no image {label.path!r} in {images.place}")
            continue
        if told:
            yield BadItem(label.where, told)
        try:
            yield Item(label.name, label.tokens, open_image(image), label.where, notes=label.notes)
        except DataError as error:
            yield BadItem(label.where, str(error))
    for file in images.left() if has_all else ():
        yield BadItem(f"{images.place}, {file}", "an image without a label")


def _check_names(labels: list[Label], images: NamedImages) -> None:
    """Raise DataError where there are images, and not one label names one of them."""
    named = [label for label in labels if label.path]
    if not named or not len(images) or any(images.named(label.path) for label in named):
        return
    first = images.left()[0]
    raise DataError(
        f"{named[0].where.rpartition(', ')[0]}: none of its {len(named)} lines begins with the name of an image of "
        f"{images.place} (there are {len(images)}, {first!r} is the first); expected lines name<TAB>label, such as "
        f"{stem(first.rpartition('/')[2])}<TAB>x ^ {{ 2 }}. If line n is the label of the n-th image in the order of "
        "their names, say so with --in-order"
    )


def in_order_of_names(files: Iterable[str]) -> list[str]:
    """Files as people count them: f2 before f10."""
    return sorted(files, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.lower())])


def read_split(folder: str | Path, known: Container[str] = ()) -> Iterator[Item | BadItem]:
    """The plain form: `labels.txt` and `images/`. known: tokens that are kept as they are written.

    Raises DataError when labels.txt is missing.
    """
    folder = Path(folder)
    shown_as, images = f"{folder.name}/labels.txt", folder / "images"
    files = {file: images / file for file in os.listdir(images) if is_image(file)} if images.is_dir() else {}
    labels = read_labels(lines_or_bad(folder / "labels.txt", shown_as), shown_as, known)
    return match_labels(labels, NamedImages(files, f"{folder.name}/images"), lambda path: path)


def is_image(file: str) -> bool:
    """Whether a file is an image by its suffix, and not one of those that macOS adds."""
    return file.lower().endswith(IMAGE_SUFFIXES) and not file.rpartition("/")[2].startswith(".")


def image_of(item: Item) -> np.ndarray:
    """The item's image as it came: uint8 (H, W) of any polarity. Raises DataError that begins with its name."""
    if isinstance(item.image, np.ndarray):
        return item.image
    return read_image(item.image, name_of_image(item))


def name_of_image(item: Item) -> str:
    return f"{item.image.parent.name}/{item.image.name}" if isinstance(item.image, Path) else item.name
