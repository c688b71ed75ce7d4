"""Ctrl-C and SIGTERM: while training, the step that runs is finished, the state is saved, and the script ends.

Elsewhere SIGTERM, which clusters and `kill` send, ends a script as Ctrl-C does: what it was writing is taken away, and
the exit code is 143.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training was told to stop by a signal. The exit code is 128 + the signal's number.

    is_saved: whether the state is saved where the training stands; a second signal does not wait for that.
    """

    def __init__(self, signal_number: int, is_saved: bool = True):
        name = signal.Signals(signal_number).name
        saved = "state saved" if is_saved else "a second time, so not saved but for what was saved before"
        super().__init__(f"stopped by {name}, {saved}")
        self.exit_code = 128 + signal_number


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing else waits for it: it is caught where Ctrl-C is."""


def exit_code_of(stopped: KeyboardInterrupt) -> int:
    """143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)


def treat_sigterm_as_ctrl_c() -> None:
    """From now on SIGTERM raises Terminated in this process, and ends processes forked from it at once."""
    process = os.getpid()

    def receive(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        raise Terminated

    signal.signal(signal.SIGTERM, receive)


class StopSignals:
    """In a `with` block, notes the first signal in `number` instead of ending the process; a second one ends it."""

    def __init__(self) -> None:
        self.number = 0
        self.worker_error: RuntimeError | None = None  # of a loader's worker that has ended, in torch's words
        self._raises = False
        self._process = os.getpid()
        self._before: dict[int, object] = {}
        self._before_workers: Callable | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._before_workers is not None:
            signal.signal(signal.SIGCHLD, self._before_workers)
            self._before_workers = None

    def let_workers_end(self) -> None:
        """The end of a loader's worker is noted in `worker_error`; after a signal it is no error. To be called when the
        loader has its workers.

        Clusters send SIGTERM to all processes of a job. torch's handler of SIGCHLD would raise RuntimeError at once,
        in the middle of a step; without it the loader tells, when the worker's next batch is due.
        """
        before = signal.getsignal(signal.SIGCHLD) if self._before and hasattr(signal, "SIGCHLD") else None
        if not callable(before) or self._before_workers is not None:
            return

        def receive(number: int, frame: FrameType | None) -> None:
            if self.number:
                return
            try:
                before(number, frame)
            except RuntimeError as error:
                self.worker_error = error

        self._before_workers = before
        signal.signal(signal.SIGCHLD, receive)

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
            raise Stopped(number, is_saved=False)
        self.number = number
        if self._raises:
            raise Stopped(number)
