"""What a split is scored by: every line of its labels.txt, the picture of each, and the predictions of anybody.

An item that cannot be read, or that nobody predicted, stays in the manifest and counts as wrong.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.formats.labels import read_labels
from dataset.formats.preparation import prepare_if_needed
from dataset.formats.text_files import lines_of
from dataset.images.store import ImageStore, build_store, fresh_store
from dataset.latex.parser import tokenize
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.files import locked

MOST_TOLD = 5  # mistakes in a file of predictions that one message lists
DOLLARS = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)


class Truth(NamedTuple):
    """One line of labels.txt. where: for messages.   problem: why nothing can be read for it, or empty."""

    name: str
    tokens: list[str]
    where: str
    problem: str = ""


class Prediction(NamedTuple):
    """What was read. score: per token, larger is better.   alternatives: (tokens, score) of others, best first."""

    tokens: list[str]
    score: float | None = None
    is_cut: bool = False
    alternatives: tuple[tuple[list[str], float], ...] = ()


def open_manifest(folder: Path, split: str) -> list[Truth]:
    """Every item of a split, in the order of its labels.txt. Raises DataError when there is no such split."""
    prepare_if_needed(folder)
    path = folder / split / "labels.txt"
    if not path.exists():
        known = ", ".join(sorted(path.parent.name for path in folder.glob("*/labels.txt")))
        raise DataError(f"{folder}: no split {split}; there are: {known}")
    truths, names = [], set()
    for label in read_labels(lines_of(path), f"{split}/labels.txt"):
        name = label.name if label.name not in names else f"{label.name} ({label.where})"
        names.add(name)
        truths.append(Truth(name, label.tokens, label.where, label.problem))
    if not truths:
        raise DataError(f"{path}: no item in it; expected lines name<TAB>tokens")
    return truths


def open_pictures(
    folder: Path, split: str, truths: Sequence[Truth], vocabulary: Vocabulary
) -> tuple[ImageStore, dict[str, str]]:
    """The pictures of a split, and why those of some items are missing: {name: reason}.

    Unlike `store.open_split` this goes on without a picture that cannot be read. A store made so is not left behind:
    training must not take it for whole. Raises DataError where no picture can be read.
    """
    place = folder / split
    store, bad = fresh_store(place, vocabulary), []
    if store is None:
        with locked(place / ".lock", f"{place}: another process prepares it"):
            store, bad = build_store(folder, split, vocabulary)
            if bad:
                shutil.rmtree(store.folder)  # it is mapped: it can be read until the last map of it is closed
        reasons = {item.where: item.reason for item in bad}
    else:
        listed = place / "left_out.txt"
        lines = [line.strip() for line in lines_of(listed)] if listed.exists() else []
        # a place is "labels.txt, line 7", so its end is the first colon
        reasons = {where: reason for where, _, reason in (line.partition(": ") for line in lines)}
        others = len(reasons.keys() - {truth.where for truth in truths})
        if others:
            print(f"{listed}: {others} items that prepare.py left out are not in labels.txt, and not scored",
                  file=sys.stderr)  # fmt: skip
    present = {store.name(index) for index in range(len(store))}
    missing = [truth for truth in truths if truth.problem or truth.name not in present]
    return store, {
        truth.name: truth.problem or reasons.get(truth.where, "its picture could not be read") for truth in missing
    }


# ---- predictions -----------------------------------------------------------------------------------------------------


def read_predictions(path: Path, truths: Sequence[Truth], known: Collection[str]) -> dict[str, Prediction]:
    r"""Anybody's predictions, by name: a file of lines name<TAB>tokens, a folder of NAME.txt, or a predictions.jsonl.

    A prediction is tokens between spaces where all of them are `known` (or in the truths); else it is LaTeX as people
    write it, and is cut into tokens. `$ … $`, `\( … \)` around it, and lines in a NAME.txt that begin with %, are not
    part of it. Raises DataError, with file and line, for a name that the split lacks, and for one that comes twice.
    """
    found: dict[str, Prediction] = {}
    places: dict[str, str] = {}
    wrong: list[str] = []
    names = {truth.name for truth in truths}
    known = {*known, *(token for truth in truths for token in truth.tokens)}
    for name, prediction, where in _entries(path):
        if isinstance(prediction, str):
            prediction = Prediction(tokens_of(prediction, known))
        if name in places:
            wrong.append(f"{where}: a second prediction for {name!r}, the first: {places[name]}")
        elif name not in names:
            wrong.append(f"{where}: {name!r} is not in the split")
        elif prediction is not None:
            found[name] = prediction
        places.setdefault(name, where)
    if wrong:
        more = f"; and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        raise DataError("; ".join(wrong[:MOST_TOLD]) + more)
    if not found:
        raise DataError(f"{path}: no predictions in it; expected lines name<TAB>tokens, or a folder of NAME.txt files")
    return found


def _entries(path: Path) -> Iterator[tuple[str, str | Prediction | None, str]]:
    """(name, prediction, where it is from) of every prediction in a file or folder."""
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            lines = [line for line in lines_of(file) if not line.lstrip().startswith("%")]
            yield file.stem, " ".join(lines), str(file)
    elif path.suffix == ".jsonl":
        for line, where in json_lines(path):
            yield line["id"], _prediction(line), where
    else:
        for number, line in enumerate(lines_of(path), 1):
            line = line.strip("\r\n")
            if line.strip():
                name, _, text = line.strip().partition("\t" if "\t" in line else " ")
                yield name.strip(), text, f"{path}, line {number}"


def _prediction(line: dict) -> Prediction | None:
    """A line of predictions.jsonl; None where that run had nothing for the item."""
    if line["prediction"] is None:
        return None
    alternatives = tuple((tokens.split(), score) for tokens, score in line.get("alternatives", []))
    return Prediction(line["prediction"].split(), line.get("score"), bool(line.get("is_cut")), alternatives)


def tokens_of(text: str, known: Collection[str]) -> list[str]:
    """A prediction as people write it, as tokens; what is tokens between spaces already stays as it is."""
    text = text.strip()
    inside = DOLLARS.fullmatch(text)
    if inside:
        text = next(part for part in inside.groups() if part is not None)
    tokens = text.split()
    return tokens if all(token in known for token in tokens) else tokenize(text)


def json_lines(path: Path) -> Iterator[tuple[dict, str]]:
    """(line, where it is) of a predictions.jsonl. Raises DataError for what is none."""
    for number, text in enumerate(lines_of(path), 1):
        where = f"{path}, line {number}"
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        is_text = isinstance(line, dict) and isinstance(line.get("id"), str)
        if not is_text or not isinstance(line.get("prediction", 0), str | None):
            raise DataError(f'{where}: expected {{"id": …, "truth": …, "prediction": …}}, as evaluate.py writes it')
        yield line, where


def read_outcomes(path: Path, truths: Sequence[Truth]) -> list[bool]:
    """Which items another run got exactly right, by its predictions.jsonl.

    Raises DataError when it is not of the same items with the same truths.
    """
    right: dict[str, bool] = {}
    labels = {truth.name: " ".join(truth.tokens) for truth in truths}
    for line, where in json_lines(path):
        name = line["id"]
        if name not in labels or line.get("truth") != labels[name]:
            raise DataError(f"{where}: {name!r} is not in this split, or has another label there")
        if name in right:
            raise DataError(f"{where}: a second line for {name!r}")
        right[name] = line["prediction"] == labels[name] and not line.get("is_cut")
    missing = [name for name in labels if name not in right]
    if missing:
        raise DataError(f"{path}: {len(missing)} items of this split are missing in it, {missing[0]!r} among them")
    return [right[truth.name] for truth in truths]
