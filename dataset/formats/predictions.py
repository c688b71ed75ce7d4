"""Anybody's predictions, in the layouts in which recognizers write them.

f00<TAB>\\frac { 3 } { 8 }              lines of a .txt, the name with or without a suffix or folders
{"img_id": "f00", "pred": "…"}         lines of a .jsonl, or the rows of a .json, or {"f00": "…"}
f00.png;x ^ { 2 }                      a .csv or .tsv with commas, semicolons or tabs, with a line of titles or without
f00.txt                                in a folder or .zip, a file for each item (lines that begin with % are left out)
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset.formats.labels import DOLLARS, IMAGE_SUFFIXES, TABLE_SUFFIXES, table_rows
from dataset.formats.sources import open_zip, read_packed
from dataset.formats.text_files import lines_of
from dataset.latex.parser import tokenize
from utils.errors import DataError
from utils.evaluation.scores import Prediction, Reference

MAX_UNPACKED = 100_000_000  # bytes of a zip's files together
MAX_TOLD = 5  # mistakes in a file of predictions that one message lists
SUFFIXES = (*IMAGE_SUFFIXES, ".inkml", ".lg", ".txt", ".tex")
# What a row calls the item, and what was read; the first one that is there counts.
NAME_KEYS = ("id", "name", "img_id", "image_id", "image", "img", "filename", "file_name", "file", "path", "key",
             "input", "img_path", "image_path")  # fmt: skip
TEXT_KEYS = ("prediction", "pred", "predicted", "predict", "latex", "hypothesis", "hyp", "output", "result", "text")
TEXT_TITLES = {key.replace("_", "") for key in TEXT_KEYS}  # of a table's column, as table_rows() compares them
REFERENCE_KEYS = ("reference", "truth")  # of evaluate.py's own files, today's and earlier
EXPECTED = "expected lines name<TAB>tokens, a table, rows of JSON, or a folder or .zip of NAME.txt files"


class Entry(NamedTuple):
    """One prediction as it was found.   where: file and line.   row: the JSON object, where it came as one."""

    name: str
    text: str | None
    where: str
    row: dict[str, Any] | None = None


def read_predictions(path: Path, references: Sequence[Reference], known: Collection[str] = ()) -> dict[str, Prediction]:
    r"""Predictions by name; see the layouts above.

    A prediction is tokens between spaces where all of them are `known` (or in the references); else it is LaTeX as
    people write it, and is cut into tokens. `$ … $` and `\( … \)` around it are not part of it.
    Raises DataError, with file and line, for a name that the split lacks, and for one that comes twice.
    """
    known = {*known, *(token for reference in references for token in reference.tokens)}
    entries = _named(_entries(path), references)
    return {name: _prediction(entry, known) for name, entry in entries.items() if entry.text is not None}


def read_outcomes(path: Path, references: Sequence[Reference]) -> list[bool]:
    """Which items another system got exactly right, by its predictions; a missing one is wrong.

    Raises DataError when evaluate.py wrote them for other items, or for other labels.
    """
    labels = {reference.name: " ".join(reference.tokens) for reference in references}
    entries = list(_entries(path))
    own = {entry.name: entry for entry in entries if entry.row and set(REFERENCE_KEYS) & entry.row.keys()}
    for entry in own.values():
        label = next(entry.row[key] for key in REFERENCE_KEYS if key in entry.row)
        if labels.get(entry.name) != label:
            raise DataError(f"{entry.where}: {entry.name!r} is not in this split, or has another label there")
    missing = [name for name in labels if own and name not in own]
    if missing:
        raise DataError(f"{path}: {len(missing)} items of this split are missing in it, {missing[0]!r} among them")
    predictions = read_predictions(path, references)
    return [
        (found := predictions.get(reference.name)) is not None
        and list(found.tokens) == list(reference.tokens)
        and not found.is_truncated
        for reference in references
    ]


def tokens_of(text: str, known: Collection[str]) -> list[str]:
    """A prediction as people write it, as tokens; what is tokens between spaces already stays as it is."""
    text = text.strip()
    inside = DOLLARS.fullmatch(text)
    if inside:
        text = next(part for part in inside.groups() if part is not None)
    tokens = text.split()
    return tokens if all(token in known for token in tokens) else tokenize(text)


def _prediction(entry: Entry, known: Collection[str]) -> Prediction:
    row = entry.row or {}
    alternatives = row.get("alternatives")
    if not isinstance(alternatives, list) or not all(
        isinstance(other, (list, tuple)) and len(other) == 2 for other in alternatives
    ):
        alternatives = []  # of another program
    score = row.get("score")
    return Prediction(
        tokens_of(entry.text, known),
        _number(score),
        bool(row.get("is_truncated", row.get("is_cut"))),
        tuple((str(tokens).split(), _number(other_score)) for tokens, other_score in alternatives),
    )


def _number(value: Any) -> float | None:
    """A score; None for what is none."""
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:
        return None


# ---- names -----------------------------------------------------------------------------------------------------------


def _named(entries: Iterator[Entry], references: Sequence[Reference]) -> dict[str, Entry]:
    """Entries by the names of the split. Raises DataError that lists what is wrong."""
    names = {form: reference.name for reference in references for form in _forms(reference.name)}
    names |= {reference.name: reference.name for reference in references}
    found: dict[str, Entry] = {}
    wrong = []
    for entry in entries:
        name = next((names[form] for form in _forms(entry.name) if form in names), None)
        if name is None:
            wrong.append(f"{entry.where}: {entry.name!r} is not in the split")
        elif name in found:
            first = found[name].where
            wrong.append(f"{entry.where}: a second prediction for {entry.name!r}, the first: {first}")
        else:
            found[name] = entry
    if wrong:
        more = f"; and {len(wrong) - MAX_TOLD} more" if len(wrong) > MAX_TOLD else ""
        raise DataError("; ".join(wrong[:MAX_TOLD]) + more)
    return found


def _forms(name: str) -> list[str]:
    """A name as it is, without folders, and without the suffix of a file, the closest first; composed (Unicode NFC)."""
    name = unicodedata.normalize("NFC", name.strip())
    file = name.replace("\\", "/").rpartition("/")[2]
    forms = [name, file]
    if file.lower().endswith(SUFFIXES):
        forms.append(file[: file.rindex(".")])
    return forms


# ---- layouts ---------------------------------------------------------------------------------------------------------


def _entries(path: Path) -> Iterator[Entry]:
    """Every prediction in a file or folder."""
    empty = True
    for entry in _entries_of(path):
        empty = False
        yield entry
    if empty:
        raise DataError(f"{path}: no predictions in it; {EXPECTED}")


def _entries_of(path: Path) -> Iterator[Entry]:
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield Entry(file.stem, _without_comments(lines_of(file)), str(file))
    elif path.suffix.lower() == ".zip":
        yield from _zip_entries(path)
    else:
        yield from _file_entries(path.suffix.lower(), lines_of(path), str(path))


def _zip_entries(path: Path) -> Iterator[Entry]:
    """A file for each item, or a single file of one of the other layouts."""
    try:
        with open_zip(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not _is_hidden(name)]
            if (size := sum(archive.getinfo(name).file_size for name in names)) > MAX_UNPACKED:
                raise DataError(f"{path}: unpacks to {size:,} bytes; expected at most {MAX_UNPACKED:,} of predictions")
            files = {name: read_packed(archive, name, f"{path}/{name}") for name in sorted(names)}
        texts = {name: data.decode("utf-8-sig") for name, data in files.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected files of UTF-8 text ({error})") from None
    if len(texts) == 1:
        [(name, text)] = texts.items()
        yield from _file_entries(Path(name).suffix.lower(), io.StringIO(text), f"{path}/{name}")
    else:
        for name, text in texts.items():
            yield Entry(name, _without_comments(text.splitlines()), f"{path}/{name}")


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith(".")


def _without_comments(lines: Iterator[str] | Sequence[str]) -> str:
    return " ".join(line for line in lines if not line.lstrip().startswith("%"))


def _file_entries(suffix: str, lines: Iterator[str], where: str) -> Iterator[Entry]:
    if suffix == ".jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{where}, line {number}"
                yield _row_entry(_parsed(line, place), place)
    elif suffix == ".json":
        yield from _json_entries(_parsed("".join(lines), where), where)
    elif suffix in TABLE_SUFFIXES:
        for name, text, place, _ in table_rows((line.rstrip("\r\n") for line in lines), where, TEXT_TITLES):
            if name.strip():
                yield Entry(name.strip(), text, place)
    else:
        for number, (name, text) in enumerate(map(_columns, lines), 1):
            is_title = number == 1 and name.strip().lower() in NAME_KEYS and text.strip().lower() in TEXT_KEYS
            if name.strip() and not is_title:
                yield Entry(name.strip(), text, f"{where}, line {number}")


def _columns(line: str) -> tuple[str, str]:
    """A line as name and prediction: a tab lies between them, or else the first space."""
    name, _, text = line.strip().partition("\t" if "\t" in line else " ")
    return name, text


def _json_entries(value: Any, where: str) -> Iterator[Entry]:
    """Rows, {name: latex}, or either of them as the only value of an object."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), (list, dict)):
        [value] = value.values()
    if isinstance(value, dict) and all(isinstance(text, str | None) for text in value.values()):
        for name, text in value.items():
            yield Entry(name, text, f"{where}, {name!r}")
    elif isinstance(value, list):
        for number, row in enumerate(value, 1):
            yield _row_entry(row, f"{where}, row {number}")
    else:
        raise DataError(f'{where}: expected [{{"name": …, "latex": …}}, …] or {{name: latex}}')


def _row_entry(row: Any, where: str) -> Entry:
    row = row if isinstance(row, dict) else {}
    name = next((str(row[key]) for key in NAME_KEYS if isinstance(row.get(key), (str, int))), None)
    key = next((key for key in TEXT_KEYS if key in row), None)
    text = row.get(key)
    if isinstance(text, list) and all(isinstance(token, str) for token in text):
        text = " ".join(text)
    if name is None or (key is None and "error" not in row) or not isinstance(text, str | None):
        raise DataError(f'{where}: expected {{"id": …, "prediction": …}}, as evaluate.py writes it, or like keys')
    return Entry(name, text, where, row)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise DataError(f"{where}: not JSON ({error})") from None
