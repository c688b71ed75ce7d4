r"""Label files: which image has which label, in the layouts that people bring.

f00.png<TAB>x ^ { 2 }           the plain form; the suffix, a folder before the name, and $…$ around the label
images/f00.png  $x^2$           are understood, and a label that is not in tokens is cut into them
f00.png,"x^2"                   a table with commas, semicolons or tabs, with a line of titles or without
{"name": "f00.png", "tex": …}   a JSON object a line
x ^ { 2 }                       labels alone: line n is the label of the n-th image, where that is asked for
"""

from __future__ import annotations

import csv
import html
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Literal, NamedTuple

from dataset.formats.text_files import BadLine
from dataset.latex.characters import to_latex
from dataset.latex.parser import tokenize
from utils.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
TABLE_SUFFIXES = (".csv", ".tsv")
CHARACTERS = "characters read as the LaTeX that they mean"
# What stands around a label in a text: $ … $, $$ … $$, \( … \), \[ … \].
DOLLARS = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#\d+|#x[0-9a-fA-F]+);")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NAMED = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
_NAME_WITH_SUFFIX = re.compile(rf"(.+?\.(?:{_NAMED}))\s+(.*)", re.IGNORECASE)
# Titles of columns, in lower case, without what is no letter.
_NAME_TITLES = {"name", "file", "filename", "image", "imagename", "imagefile", "img", "path", "imagepath", "filepath",
                "photo", "id", "imageid", "imgid", "imgname", "imgpath", "key", "input"}  # fmt: skip
_NUMBER_TITLES = {"id", "imageid", "imgid", "key"}  # may also be a number of the row, beside a name
_LABEL_TITLES = {"label", "labels", "latex", "tex", "formula", "equation", "expression", "caption", "text", "tokens",
                 "truth", "groundtruth", "normalizedlabel", "target"}  # fmt: skip
_LINES_TO_JUDGE_BY = 50
MAX_NAME = 240  # bytes; with a suffix, file systems take 255


class Label(NamedTuple):
    """One line of a label file.

    name: of the item, as a file may be called.   path: the image as the line calls it, with `/` between folders.
    problem: what is wrong with it, or empty.   notes: (kind, detail) of what was changed in reading it.
    """

    name: str
    tokens: list[str]
    where: str
    problem: str = ""
    path: str = ""
    notes: tuple[tuple[str, str], ...] = ()


def stem(file: str) -> str:
    """The name without the suffix of an image file; a dot elsewhere stays."""
    return file[: file.rindex(".")] if file.lower().endswith(IMAGE_SUFFIXES) else file


# ---- one label -------------------------------------------------------------------------------------------------------


def clean_label(text: str, known: Container[str] = ()) -> tuple[list[str], list[tuple[str, str]], str]:
    """The tokens of a label as somebody wrote it, notes (kind, detail) of what was changed, and what is wrong with it.

    known: tokens that are kept as they are, in whatever way they are written.
    """
    pieces = text.split()
    if pieces and all(piece in known for piece in pieces):
        return pieces, [], ""
    notes = []
    text = text.strip()
    if match := DOLLARS.fullmatch(text):
        text = next(part for part in match.groups() if part is not None).strip()
        notes.append(("signs of mathematics around the label taken off", "$"))
    if match := _CONTROL.search(text):
        return pieces, notes, f"the label has the control character U+{ord(match[0]):04X}"
    if match := _ENTITY.search(text):
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
        notes.append(("HTML entities read as characters", match[0]))
    replaced = to_latex(text, known)
    notes += [(CHARACTERS, note) for note in replaced.notes]
    pieces = replaced.text.split()
    tokens = pieces if all(piece in known for piece in pieces) else tokenize(replaced.text)
    tokens = ["~" if token.isspace() or token == "\\ " else token for token in tokens]  # a space that is written `\ `
    if tokens != pieces:
        notes.append(("labels cut into tokens", f"{_short(text)} -> {_short(' '.join(tokens))}"))
    return tokens, notes, "; ".join(replaced.problems)


def _short(text: str, at_most: int = 60) -> str:
    return text if len(text) <= at_most else f"{text[: at_most - 1]}…"


def _can_be_written(words: Iterable[str], max_bytes: float = math.inf) -> bool:
    """Whether words are text that UTF-8 can say; JSON and pickles can hold halves of characters."""
    try:
        return all(len(word.encode("utf-8")) <= max_bytes for word in words)
    except UnicodeEncodeError:
        return False


# ---- label files -----------------------------------------------------------------------------------------------------


def read_labels(
    lines: Iterable[str | BadLine],
    shown_as: str,
    known: Container[str] = (),
    kind: Literal["rows", "table", "json"] | None = None,
) -> Iterator[Label]:
    """Read a label file: `name<TAB>label` (any white space will do where the name has none), a table, or JSON lines.

    lines: a BadLine stands for one that cannot be decoded.   known: see `clean_label`.
    kind: "table" has commas, semicolons or tabs between quoted cells; None looks at the first lines whether it is one.
    An image may have one label; of an item's name the folder goes, but where two items would have the same name.
    """
    lines = iter(lines)
    head = list(islice(lines, _LINES_TO_JUDGE_BY))
    if kind is None:
        kind = "table" if _is_table([line for line in head if isinstance(line, str) and line.strip()]) else "rows"
    rows_of = {"rows": _rows, "table": table_rows, "json": _json_rows}[kind]
    lines = chain(head, lines)
    seen: dict[str, str] = {}  # where each path was
    names: set[str] = set()
    for path, text, where, problem in rows_of(lines, shown_as):
        path = unicodedata.normalize("NFC", path.strip().replace("\\", "/")).removeprefix("./")
        name = stem(path.rpartition("/")[2])
        tokens, notes, wrong = clean_label(text, known)
        if not problem and path in seen:
            problem = f"duplicate name {path!r}, first in {seen[path].rpartition(', ')[2]}"
        elif not problem:
            seen[path] = where
            longer = (re.sub(r"[/.:]+", "_", each).strip("_") for each in (stem(path), path))
            name = next((each for each in (name, *longer) if each not in names), name)
            if not _can_be_written(tokens):
                problem = "the label has half a character (a lone surrogate)"
            elif not name or name.startswith(".") or "\0" in name or not _can_be_written([name], MAX_NAME):
                problem = f"{_short(path)!r} cannot be a file's name"
            elif not tokens:
                problem = wrong or f"no label after {path!r}; expected name<TAB>tokens"
            else:
                problem = wrong
                names.add(name)
        yield Label(name, tokens, where, problem, path, tuple(notes))


def _rows(lines: Iterable[str | BadLine], shown_as: str) -> Iterator[tuple[str, str, str, str]]:
    """(path, label, where, problem) of lines `path<TAB>label`."""
    for number, line in enumerate(lines, start=1):
        where = f"{shown_as}, line {number}"
        line, problem = (line.text, line.reason) if isinstance(line, BadLine) else (line, "")
        if line.strip():
            line = line.strip().strip("\ufeff")
            match = None if "\t" in line else _NAME_WITH_SUFFIX.fullmatch(line)
            if match:
                path, text = match.groups()
            else:
                path, _, text = line.partition("\t" if "\t" in line else " ")
            yield path, text, where, problem


def _json_rows(lines: Iterable[str | BadLine], shown_as: str) -> Iterator[tuple[str, str, str, str]]:
    """(path, label, where, problem) of lines that hold a JSON object each, with a name and a label among its keys."""
    for number, line in enumerate(lines, start=1):
        where = f"{shown_as}, line {number}"
        if isinstance(line, BadLine):
            yield "", "", where, line.reason
        elif line.strip():
            try:
                row = json.loads(line)
                values = {_title(key): value for key, value in row.items() if isinstance(value, str)}
            except (ValueError, AttributeError, RecursionError):
                yield "", "", where, "expected a JSON object"
                continue
            path = next((value for title, value in values.items() if title in _NAME_TITLES), "")
            labels = {title: value for title, value in values.items() if title in _LABEL_TITLES}
            label = labels.get("normalizedlabel", next(iter(labels.values()), ""))
            found = f"its keys are {', '.join(row) or 'none'}"
            problem = "" if path and labels else f"expected a name, such as `name`, and a label, such as `tex`; {found}"
            yield path, label, where, problem


# ---- tables ----------------------------------------------------------------------------------------------------------


def _is_image(cell: str) -> bool:
    return cell.strip().lower().endswith(IMAGE_SUFFIXES)


def _title(cell: str) -> str:
    return re.sub(r"[^a-z]", "", cell.lower())


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a cell of more than 128 KiB
        return []


def _is_table(lines: Sequence[str]) -> bool:
    """Whether lines without a tab name an image in the first cell of a row that commas or semicolons divide."""
    if not lines or any("\t" in line for line in lines):
        return False
    return any(
        all(len(cells := _cells(line, delimiter)) > 1 and _is_image(cells[0]) for line in lines[1:] or lines)
        for delimiter in ",;"
    )


def _delimiter(lines: Sequence[str]) -> str:
    """The character that divides the cells of a table: the one for which most rows name an image in a cell."""

    def rows_that_fit(delimiter: str) -> tuple[int, int]:
        rows = [_cells(line, delimiter) for line in lines]
        return sum(any(map(_is_image, row)) for row in rows if len(row) > 1), sum(len(row) > 1 for row in rows)

    return max("\t;,", key=rows_that_fit)


def _columns(rows: Sequence[Sequence[str]], shown_as: str, label_titles: Container[str]) -> tuple[int, int, bool]:
    """The columns of the names and of the labels, and whether the first row holds titles. Raises DataError."""
    titles = [_title(cell) for cell in rows[0]]
    images = Counter(index for row in rows[1:] or rows for index, cell in enumerate(row) if _is_image(cell))
    # The column of names is the one that names images; where files have no suffix, rather another than a number.
    called_so = [index for index, title in enumerate(titles) if title in _NAME_TITLES]
    of_names = max(called_so, key=lambda index: (images[index], titles[index] not in _NUMBER_TITLES), default=None)
    of_labels = [index for index, title in enumerate(titles) if title in label_titles]
    if of_names is not None and of_labels and of_labels[0] != of_names:
        return of_names, max(of_labels, key=lambda index: titles[index] == "normalizedlabel"), True
    if of_names is None:
        of_names = images.most_common(1)[0][0] if images else 0
    has_titles = len(rows) > 1 and bool(images) and not _is_image(rows[0][of_names] if of_names < len(rows[0]) else "")
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    if of_labels and of_labels[0] != of_names:
        return of_names, of_labels[0], True
    if has_titles and len(rows[0]) != width:
        width = len(rows[0])  # labels with unquoted commas have more cells than the table has columns
    if width == 2 or (width > 2 and not has_titles and of_names == 0 and not _is_one_of_more(rows)):
        return of_names, 1 - min(of_names, 1), has_titles
    raise DataError(
        f"{shown_as}: which column holds the labels? It has {width} columns; name them in the first line: name,label"
    )


def _is_one_of_more(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table has the same number of columns, more than two, in every row: no comma of a label divides it."""
    return len({len(row) for row in rows}) == 1


def table_rows(
    lines: Iterable[str | BadLine], shown_as: str, label_titles: Container[str] = _LABEL_TITLES
) -> Iterator[tuple[str, str, str, str]]:
    """(path, label, where, problem) of the rows of a table with commas, semicolons or tabs between its cells.

    label_titles: of columns that hold labels, in lower case, without what is no letter.
    """
    lines = list(lines)
    text = [line.text if isinstance(line, BadLine) else line for line in lines]
    problems = {number: line.reason for number, line in enumerate(lines, start=1) if isinstance(line, BadLine)}
    told = re.fullmatch(r"sep=(.)", text[0].strip("\ufeff ")) if text else None  # as spreadsheets write it
    delimiter = told[1] if told else _delimiter([line for line in text if line.strip()][:_LINES_TO_JUDGE_BY])
    reader = csv.reader((f"{line}\n" for line in text), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(row, reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(
            f"{shown_as}, line {reader.line_num}: not a table of cells ({error}); is there a quote that does not end?"
        ) from None
    rows = rows[1:] if told else rows
    if not rows:
        return
    rows[0][0][0] = rows[0][0][0].strip("\ufeff")
    of_names, of_labels, has_titles = _columns([row for row, _ in rows[:_LINES_TO_JUDGE_BY]], shown_as, label_titles)
    columns = len(rows[0][0]) if has_titles else 2
    for row, number in rows[has_titles:]:
        where = f"{shown_as}, line {number}"
        if of_labels == columns - 1 and len(row) > columns:  # commas of a label that has no quotes
            row = [*row[:of_labels], delimiter.join(row[of_labels:])]
        if len(row) <= max(of_names, of_labels):
            yield row[0], "", where, f"{len(row)} cells in it; expected a name and a label"
        else:
            yield row[of_names], row[of_labels], where, problems.get(number, "")
