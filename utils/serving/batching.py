"""One network for many who ask: what waits while the network is at work is read together, in one batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from utils.reading.reader import Prepared, Reading, Search


class Job(NamedTuple):
    """An image that waits for the network. A future that its owner cancels is passed over."""

    prepared: Prepared
    search: Search
    future: Future[Reading]


class BatchingQueue:
    """A thread that owns the network, and a queue before it.

    read_many(images, beam, directions): Reader.read_many, called by that thread alone.   max_batch: images read at
    once.   max_wait: seconds that the first image of a batch waits for others; those that came while the batch before
    was read are there already.

    Its length is bounded by whoever submits: see limits.WaitingRoom.
    """

    def __init__(self, read_many: Callable[..., list[Reading]], max_batch: int = 16, max_wait: float = 0.004):
        self._read_many, self._max_batch, self._max_wait = read_many, max_batch, max_wait
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def submit(self, prepared: Prepared, search: Search) -> Future[Reading]:
        """Ask for a reading. The future also holds the error where an image cannot be read."""
        job = Job(prepared, search, Future())
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Read what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._collect()
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            for search in dict.fromkeys(job.search for job in jobs):
                self._read([job for job in jobs if job.search == search], search)

    def _collect(self) -> tuple[list[Job], bool]:
        """A batch, and whether more may follow."""
        jobs: list[Job] = []
        deadline = None
        while len(jobs) < self._max_batch:
            try:
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                job = self._jobs.get(timeout=rest)
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
            deadline = deadline or time.monotonic() + self._max_wait
        return jobs, True

    def _read(self, jobs: Sequence[Job], search: Search) -> None:
        try:
            readings = self._read_many([job.prepared for job in jobs], *search)
        except Exception as error:  # of any kind: who asked is told, and the thread goes on
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:  # one of them is at fault; the others are read all the same
                for job in jobs:
                    self._read([job], search)
            return
        for job, reading in zip(jobs, readings, strict=True):
            job.future.set_result(reading)
