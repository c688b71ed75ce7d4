"""One function on many items: in threads, or in processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import cv2
from threadpoolctl import threadpool_limits

from utils.errors import NEEDS_GUARD, UserError

AHEAD = 8  # items for each worker that are worked on before they are asked for: results take memory


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """function(item) of every item, in order, worked on ahead in threads: decoding an image needs no GIL."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        yield from _in_order(pool, function, items, AHEAD * workers)


def in_processes(function: Callable, items: Iterable, workers: int | None = None) -> Iterator:
    """function(item) of every item, in order; in this process where `workers` is 1. None: a process for each core.

    function and items must be picklable; give each call a few milliseconds of work. Raises UserError where a worker
    ends, such as one that cannot start because the caller's script has no `if __name__ == "__main__":`.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from map(function, items)
        return
    try:
        # Spawned: a fork would copy the threads' locks of whatever else the caller has loaded.
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=use_one_thread) as pool:
            yield from _in_order(pool, function, items, AHEAD * workers)
    except BrokenProcessPool:
        raise UserError(
            f"a worker process ended before its work was done. {NEEDS_GUARD}; otherwise memory may have run out: "
            "try fewer workers"
        ) from None


def use_one_thread(worker: int = 0) -> None:
    """In a worker process: one thread for each. A matrix product of NumPy would take one for every core, and all
    workers would wait for each other.

    worker: its number, which torch's loaders tell.
    """
    cv2.setNumThreads(0)  # not 1: in a forked process OpenCV would wait for threads that its parent alone has
    threadpool_limits(1)


def _in_order(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    running: deque = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
