"""Ctrl-C and SIGTERM while training: the step that runs is finished, the state is saved, and the script ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training was told to stop by a signal, and its state is saved. The exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class StopSignals:
    """In a `with` block, notes the first signal in `number` instead of ending the process; a second one ends it."""

    def __init__(self) -> None:
        self.number = 0
        self._raises = False
        self._process = os.getpid()
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def raised_at_once(self) -> Iterator[None]:
        """In this block, where nothing is lost, a signal raises Stopped without waiting for the block's end."""
        if self.number:
            raise Stopped(self.number)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker that was forked: the training process ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.number:
            for known, before in self._before.items():
                signal.signal(known, before)
            raise Stopped(number)
        self.number = number
        if self._raises:
            raise Stopped(number)
