"""What a split is scored by: every line of its labels.txt, and the image of each.

An item that cannot be read, or that nobody predicted, stays in the manifest and counts as wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.formats.items import NamedImages, is_image
from dataset.formats.labels import read_labels
from dataset.formats.preparation import prepare_if_needed
from dataset.formats.text_files import lines_of
from dataset.loading.validation import HeldOut, split_validation
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.evaluation.scores import Reference
from utils.files import hash64


def open_references(folder: Path, split: str, held_out: HeldOut | None = None) -> list[Reference]:
    """Every item of a split, in the order of its labels.txt, which is all that scoring needs.

    held_out: what of `train` is the split validation, where the data set has none of its own. Raises DataError when
    there is no such split.
    """
    if not (folder / split / "labels.txt").exists():
        prepare_if_needed(folder)  # it may be a package that nobody has prepared yet
    if held_out and _source(folder, split) != split:
        references = open_references(folder, "train")
        texts = [" ".join(reference.tokens) for reference in references]
        hashes = np.array([hash64(text.encode()) for text in texts], np.uint64)
        return [references[index] for index in split_validation(hashes, held_out)[1]]
    path = folder / split / "labels.txt"
    if not path.exists():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/labels.txt")))
        raise DataError(f"{folder}: no split {split}; there are: {known}")
    references, names = [], set()
    for label in read_labels(lines_of(path), f"{split}/labels.txt", known_tokens(folder)):
        name = label.name if label.name not in names else f"{label.name} ({label.where})"
        names.add(name)
        references.append(Reference(name, label.tokens, label.where, label.problem, label.path))
    if not references:
        raise DataError(f"{path}: no item in it; expected lines name<TAB>tokens")
    return references


def _source(folder: Path, split: str) -> str:
    """Where the items of a split are: those of `validation` are in train, unless they have a folder of their own."""
    is_there = [(folder / name / "labels.txt").exists() for name in (split, "train")]
    return "train" if split == "validation" and is_there == [False, True] else split


def find_images(folder: Path, split: str, references: Sequence[Reference]) -> tuple[dict[str, Path], dict[str, str]]:
    """The image file of each item by its name, and why those of some items are missing: {name: reason}."""
    split = _source(folder, split)
    folder_of_images = folder / split / "images"
    files = sorted(folder_of_images.iterdir()) if folder_of_images.is_dir() else []
    images = NamedImages({file.name: file for file in files if is_image(file.name)}, f"{split}/images")
    found, missing = {}, {}
    for reference in references:
        image, told = (None, "") if reference.problem else images.take(reference.path or reference.name)
        if image is not None:
            found[reference.name] = image
        else:
            missing[reference.name] = reference.problem or told or f"no image {reference.name!r} in {images.place}"
    _tell_left_out(folder / split / "left_out.txt", references)
    return found, missing


def _tell_left_out(path: Path, references: Sequence[Reference]) -> None:
    """Items that prepare.py left out of labels.txt are no part of the scores, which is told."""
    if not path.exists():
        return
    # a line is "labels.txt, line 7: reason", so its place ends at the first colon
    indices = {line.strip().partition(": ")[0] for line in lines_of(path)}
    others = len(indices - {reference.where for reference in references})
    if others:
        print(f"{path}: {others} items that prepare.py left out are not in labels.txt, and not scored", file=sys.stderr)


def known_tokens(folder: Path) -> tuple[str, ...]:
    """The tokens of a data set's vocabulary; none where it has no vocabulary."""
    path = folder / "vocabulary.txt"
    return Vocabulary.from_file(path).tokens if path.exists() else ()
