"""Progress of long work: a bar on a terminal, a line every 30 seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30


class Progress:
    """Counts items that are done. In a `with` block: the last line comes with its end.

    total: how many items there will be, nearly.   is_shown: False for no output at all.
    """

    def __init__(self, description: str, total: int, unit: str = "item", is_shown: bool = True):
        self.description, self.total, self.unit = description, total, unit
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=description, unit=unit) if is_shown and is_terminal else None
        self._writes_lines = is_shown and not is_terminal
        self._done = 0
        self._started = self._last_line = time.monotonic()

    def update(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._writes_lines and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        print(
            f"{self.description}: {self._done:,} of {self.total:,} {self.unit}s after {seconds:.0f} s", file=sys.stderr
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._writes_lines and kind is None and self._last_line > self._started:  # short work needs no line
            self._write_line()


def counted(items: Iterable[T], description: str, total: int, unit: str = "item", is_shown: bool = True) -> Iterator[T]:
    """The items, one after the other, counted by a Progress."""
    with Progress(description, total, unit, is_shown) as counter:
        for item in items:
            yield item
            counter.update()
