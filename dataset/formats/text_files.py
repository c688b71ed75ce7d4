"""Text files of any usual encoding, line by line; a line that cannot be decoded is named, the others are read."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import AnyStr, NamedTuple

from utils.errors import DataError

# The longer marks first: the mark of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-16", "utf-32")  # a line feed is more than one byte in these
CHINESE = "gb18030"  # holds GBK and GB 2312


class BadLine(NamedTuple):
    """A line that cannot be decoded. text: what can be, with a mark in the place of the rest."""

    where: str
    reason: str
    text: str


def decoded_lines(data: bytes, shown_as: str, encoding: str | None = None) -> Iterator[str | BadLine]:
    """The lines of a file's bytes as text, without their ends; in the place of one that cannot be decoded, a BadLine.

    encoding: any name that Python knows; None recognizes UTF-8, UTF-16 and UTF-32, and Chinese text in GBK.
    Raises DataError for an encoding that Python does not know.
    """
    if encoding is not None:
        _check_encoding(encoding)
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark) and (encoding is None or codecs.lookup(encoding).name.startswith(name[:6])):
            data, encoding = data[len(mark) :], name
            break
    encoding = encoding or _recognized(data)
    if codecs.lookup(encoding).name.startswith(_WIDE):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].decode(encoding, "replace").count("\n") + 1
            raise DataError(f"{shown_as}, line {line}: {_reason(data, error, encoding)}") from None
        yield from _split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
        return
    for number, line in enumerate(_split(rb"\r\n|\n|\r", data), start=1):
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            yield BadLine(
                f"{shown_as}, line {number}", _reason(line, error, encoding), line.decode(encoding, "replace")
            )


def _check_encoding(encoding: str) -> None:
    """Raises DataError for what Python does not know as an encoding of text, or cannot decode piece by piece."""
    try:
        b"x".decode(encoding)
        is_known = codecs.lookup(encoding).name not in ("idna", "punycode")  # of the names of hosts
    except UnicodeDecodeError:  # a single byte is not enough
        is_known = True
    except (LookupError, ValueError):
        is_known = False
    if not is_known:
        raise DataError(f"encoding: {encoding!r} is not known; expected a name such as utf-8, utf-16, gbk")


def _split(line_ends: AnyStr, data: AnyStr) -> list[AnyStr]:
    lines = re.split(line_ends, data)
    return lines if lines[-1] else lines[:-1]  # the end of the last line begins no other one


def _reason(data: bytes, error: UnicodeDecodeError, encoding: str) -> str:
    return (
        f"expected {encoding.upper()} text, but byte {error.start + 1} of it is 0x{data[error.start]:02X}; "
        "prepare.py reads other encodings where they are named: --encoding gbk, utf-16, latin-1 …"
    )


def _recognized(data: bytes) -> str:
    """The encoding of bytes without a byte order mark; utf-8 where none is sure."""
    head = data[:4096]
    if len(head) >= 4 and head.count(0) >= len(head) // 3:  # mostly ASCII, with a zero for each second byte
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    lines = [line for line in data.splitlines() if not line.isascii()]
    if any(_decodes(line, "utf-8") for line in lines):
        return "utf-8"  # with lines that are damaged
    # GB 2312 has pairs of bytes of 0xA1 and more: a lone accented letter of Latin-1 is none.
    return CHINESE if all(_decodes(line, "gb2312") for line in lines) else "utf-8"


def guessed_encoding(data: bytes) -> str | None:
    """ "GBK" where bytes are taken for it: other encodings of East Asia look alike. Else None."""
    is_marked = data.startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS))
    return "GBK" if not is_marked and _recognized(data) == CHINESE else None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
        return True
    except UnicodeDecodeError:
        return False


def lines_of(path: str | Path, encoding: str | None = None) -> Iterator[str]:
    """The lines of a text file. Raises DataError where it is missing, or, naming line and byte, cannot be decoded."""
    for line in lines_or_bad(path, str(path), encoding):
        if isinstance(line, BadLine):
            raise DataError(f"{line.where}: {line.reason}")
        yield line


def lines_or_bad(path: str | Path, shown_as: str, encoding: str | None = None) -> Iterator[str | BadLine]:
    """As `decoded_lines`, of a file. Raises DataError where it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: not found") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    yield from decoded_lines(data, shown_as, encoding)


def count_lines(path: str | Path) -> int:
    """How many lines a file has, for a progress bar."""
    with open(path, "rb") as file:
        return sum(1 for _ in file)
