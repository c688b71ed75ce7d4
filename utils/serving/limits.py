"""How much a server takes: bytes of a request, seconds of an upload, clients that wait; and how it says no."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

MEGABYTE = 1 << 20
# A body that is too large is read to its end and forgotten, up to so many times the limit, so that the client hears why
# it was refused; one that is larger still finds the connection closed.
MAX_DISCARDED = 5


@dataclass(frozen=True)
class Limits:
    """max_waiting: requests that are being received, prepared or read; more are told to come back.
    max_pixels: of an image. The others: see BatchingQueue, and `read_body`."""

    max_bytes: int = 10 * MEGABYTE
    max_pixels: int = 50_000_000
    max_upload_seconds: float = 60.0
    max_waiting: int = 64
    max_batch: int = 16
    max_wait: float = 0.004


class Refused(Exception):
    """A request that is not answered.   status: of HTTP.   reason: a sentence for people."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class WaitingRoom:
    """So many places for those who wait. Used by the event loop's thread alone."""

    def __init__(self, places: int):
        self.places, self.taken = places, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place while something is read. Raises Refused where there is none."""
        if self.taken >= self.places:
            reason = f"{self.places} requests are waiting already; try again in a second"
            raise Refused(503, reason, {"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request. Raises Refused for one that is too large (413), too slow (408), or given up (400)."""
    try:
        async with asyncio.timeout(limits.max_upload_seconds):
            return await _within(request, limits.max_bytes)
    except TimeoutError:
        reason = f"the request had not arrived after {limits.max_upload_seconds:g} seconds"
        raise Refused(408, reason, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "the connection was closed before the request was complete") from None


async def _within(request: Request, max_bytes: int) -> bytes:
    reason = f"the request is too large; expected at most {max_bytes / MEGABYTE:g} MB"
    too_large = Refused(413, reason, {"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_DISCARDED * max_bytes:
        raise too_large
    pieces, received = [], 0
    async for piece in request.stream():
        received += len(piece)
        if received <= max_bytes:
            pieces.append(piece)
        else:
            pieces.clear()
        if received > MAX_DISCARDED * max_bytes:
            break
    if received > max_bytes:
        raise too_large
    return b"".join(pieces)
