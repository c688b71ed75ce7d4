"""What a split is scored by: every line of its labels.txt, and the image of each.

An item that cannot be read, or that nobody predicted, stays in the manifest and counts as wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dataset.formats.packages import prepare_if_needed
from dataset.images.store import lines_of, picture_files, read_labels
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.evaluation.scores import Reference


def open_references(folder: Path, split: str) -> list[Reference]:
    """Every item of a split, in the order of its labels.txt, which is all that scoring needs.

    Raises DataError when there is no such split.
    """
    path = folder / split / "labels.txt"
    if not path.exists():
        prepare_if_needed(folder)  # it may be a package that nobody has prepared yet
    if not path.exists():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/labels.txt")))
        raise DataError(f"{folder}: no split {split}; there are: {known}")
    references, names = [], set()
    for label in read_labels(lines_of(path), f"{split}/labels.txt"):
        name = label.name if label.name not in names else f"{label.name} ({label.where})"
        names.add(name)
        references.append(Reference(name, label.tokens, label.where, label.problem))
    if not references:
        raise DataError(f"{path}: no item in it; expected lines name<TAB>tokens")
    return references


def find_images(folder: Path, split: str, references: Sequence[Reference]) -> tuple[dict[str, Path], dict[str, str]]:
    """The image file of each item by its name, and why those of some items are missing: {name: reason}."""
    images = folder / split / "images"
    files = picture_files(images)
    found, missing = {}, {}
    for reference in references:
        if reference.problem:
            missing[reference.name] = reference.problem
        elif reference.name in files:
            found[reference.name] = images / files[reference.name]
        else:
            missing[reference.name] = f"no image {reference.name!r} in {split}/images"
    _tell_left_out(folder / split / "left_out.txt", references)
    return found, missing


def _tell_left_out(path: Path, references: Sequence[Reference]) -> None:
    """Items that prepare.py left out of labels.txt are no part of the scores, which is told."""
    if not path.exists():
        return
    # a line is "labels.txt, line 7: reason", so its place ends at the first colon
    places = {line.strip().partition(": ")[0] for line in lines_of(path)}
    others = len(places - {reference.where for reference in references})
    if others:
        print(f"{path}: {others} items that prepare.py left out are not in labels.txt, and not scored", file=sys.stderr)


def known_tokens(folder: Path) -> tuple[str, ...]:
    """The tokens of a data set's vocabulary; none where it has no vocabulary."""
    path = folder / "vocabulary.txt"
    return Vocabulary.from_file(path).tokens if path.exists() else ()
