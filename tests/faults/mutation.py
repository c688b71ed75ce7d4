"""Files, a little or very much changed: bytes, numbers, pieces and lines, as decays, bugs and attackers change them."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.campaign import Case

MAX_BYTES = 1_000_000  # of a mutated file: what is larger is no small input
Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = ["-1", "0", "1", "2", "255", "256", "65535", "65536", "2147483647", "2147483648", "4294967295", "-2147483648",
           "9223372036854775807", "9223372036854775808", "1" + "0" * 400, "-0", "0.0", "1e308", "1e400", "-1e400",
           "1e-400",
           "NaN", "nan", "Infinity", "-inf", "0x7f", "1_000", "٣", "²", "1.5", "", " "]  # fmt: skip
TEXTS = ["\0", "\x01", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffd", "\U0001f600", "é", "é", "ﬁ", "\r",
         "\n", "\t",
         "\r\n", " ", "\u00a0", "\u3000", "%", "%s", "{}", "{0}", "$", "\\", "\\\\", "\\n", "'",
         '"', "`", "#", "&", "&amp;",
         "&#0;", "<", ">", "<script>alert(1)</script>", "\"onload=alert(1) x=\"", "javascript:alert(1)", "../",
         "..\\", "/",
         "~", "C:", "CON", ".", "..", "-", "--", ":", ",", ";", "=", "|", "[", "]", "{", "}", "(", ")", "null",
         "true", "None",
         "!!python/object/apply:os.system", "*", "&a", "<<", "---", "...", "@", "x" * 300, "{" * 300,
         "[" * 3000]  # fmt: skip
VALUES: list[Any] = [None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x",
                     "\0", "<script>", "../x", "x" * 1000, [], [[]], {}, {"x": 1}, [1, 2], ["x", None],
                     {"": {}}]  # fmt: skip


def _span(random: random.Random, data: bytes, longest: int = 64) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(1, random.choice((2, 8, longest))))


def flip_bits(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_bytes(random: random.Random, data: bytes) -> bytes:
    start, end = _span(random, data, 8)
    value = random.choice((b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", bytes([random.randrange(256)])))
    return data[:start] + value * (end - start) + data[end:]


def set_integer(random: random.Random, data: bytes) -> bytes:
    """A binary number becomes an extreme one."""
    form = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    most = 256**size
    value = random.choice(
        (0, 1, most - 1, most // 2, most // 2 - 1, 10**6 % most, 10**9 % most, random.randrange(most))
    )
    start = random.randrange(len(data) - size + 1)
    return data[:start] + struct.pack(form, value) + data[start + size :]


def delete(random: random.Random, data: bytes) -> bytes:
    start, end = _span(random, data, 1000)
    return data[:start] + data[end:]


def repeat(random: random.Random, data: bytes) -> bytes:
    start, end = _span(random, data, 200)
    times = random.choice((2, 3, 10, 1000))
    return (data[:start] + data[start:end] * times + data[end:])[:MAX_BYTES]


def truncate(random: random.Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def swap(random: random.Random, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(random, data), _span(random, data)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def insert_text(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    encoding = random.choice(("utf-8",) * 6 + ("utf-16", "latin-1", "gb18030"))
    return data[:start] + random.choice(TEXTS).encode(encoding, "replace") + data[start:]


def insert_garbage(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + random.randbytes(random.choice((1, 4, 100, 5000))) + data[start:]


def set_number(random: random.Random, data: bytes) -> bytes:
    """A number in the text becomes an odd one."""
    numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:100_000]))
    if not numbers:
        return insert_text(random, data)
    found = random.choice(numbers)
    return data[: found.start()] + random.choice(NUMBERS).encode() + data[found.end() :]


def set_word(random: random.Random, data: bytes) -> bytes:
    """A word becomes another one of the same file, or an odd text."""
    words = list(re.finditer(rb"[A-Za-z_\\]+", data[:100_000]))
    if not words:
        return insert_text(random, data)
    found, other = random.choice(words), random.choice(words)
    new = other[0] if random.random() < 0.5 else random.choice(TEXTS).encode()
    return data[: found.start()] + new + data[found.end() :]


def move_line(random: random.Random, data: bytes) -> bytes:
    """A line is taken away, doubled, or put elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    line = lines[random.randrange(len(lines))]
    if random.random() < 0.5:
        lines.remove(line)
    if random.random() < 0.7:
        lines.insert(random.randrange(len(lines) + 1), line)
    return b"".join(lines)


def recode(random: random.Random, data: bytes) -> bytes:
    """The same text in another encoding, or with other line ends."""
    text = data.decode("utf-8", "replace")
    if random.random() < 0.3:
        text = text.replace("\n", random.choice(("\r", "\r\n", "\u2028", "\x85", "\0")))
    encoding = random.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "gb18030", "latin-1", "utf-7", "cp500"))
    return text.encode(encoding, "replace")


BINARY: Sequence[Mutation] = (
    flip_bits, set_bytes, set_integer, set_integer, delete, repeat, truncate, swap, insert_garbage, insert_text,
)  # fmt: skip
TEXT: Sequence[Mutation] = (
    flip_bits, delete, repeat, truncate, swap, insert_text, insert_text, insert_garbage, set_number, set_number,
    set_word,
    set_word, move_line, recode,
)  # fmt: skip


def mutated(random: random.Random, data: bytes, mutations: Sequence[Mutation]) -> bytes:
    """One to four mutations, one after the other."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        data = random.choice(mutations)(random, data)[:MAX_BYTES]
    return data


def mutated_value(random: random.Random, value: Any) -> Any:
    """A tree of plain values, one of which has become another one, has gone, or has moved."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(child, (dict, list)):
                visit(child)

    value = json.loads(json.dumps(value))
    if isinstance(value, (dict, list)):
        visit(value)
    if not places or random.random() < 0.03:
        return random.choice(VALUES)
    node, key = random.choice(places)
    choice = random.random()
    if choice < 0.2:
        del node[key]
    elif choice < 0.35:
        other, there = random.choice(places)
        node[key] = json.loads(json.dumps(other[there]))
    elif choice < 0.45 and isinstance(node, dict):
        node[random.choice(TEXTS)] = node.pop(key)
    elif choice < 0.55 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
        node[key] = random.choice((-node[key], node[key] * 1000, node[key] / 3, node[key] + 1, str(node[key])))
    else:
        node[key] = random.choice(VALUES)
    return value


class Original(NamedTuple):
    """A file that is good. name: its own, with folders below the case's.   mutations: that it is given."""

    name: str
    data: bytes
    mutations: Sequence[Mutation]


def file_cases(originals: Sequence[Original], read: Callable[[Path], object], check_original: bool = True) -> Case:
    """Cases that change one of several files and read it. The originals must be read without complaint.

    read(path): what the program does with the file.
    """
    if check_original:
        for original in originals:
            read(_written(Path("made"), original.name, original.data))

    def case(random: random.Random, folder: Path) -> object:
        original = random.choice(originals)
        mutations = original.mutations
        if random.random() < 0.1:  # two files, one behind the other
            mutations = (lambda random, data: data + random.choice(originals).data, *mutations)
        return read(_written(folder, original.name, mutated(random, original.data, mutations)))

    return case


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
