"""What a request brings -> what the network reads: an image, InkML or strokes, whatever the client calls it."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from utils.errors import DataError
from utils.reading.images import HEIC_BRANDS
from utils.reading.reader import Prepared, Reader
from utils.reading.strokes import as_strokes
from utils.serving.limits import Limits, Refused, read_body

EXPECTED = "expected an image (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC), InkML, or strokes as JSON"
MAX_NAME = 80  # characters of a file's name that messages repeat


class Given(NamedTuple):
    """The content of a request, and what to call it in messages."""

    data: bytes
    name: str


class Opened(NamedTuple):
    """What is ready to be read.   strokes: where the input was ink: float64 (n, 2) each, in the units it came in."""

    name: str
    prepared: Prepared
    strokes: list[np.ndarray] | None = None


# ---- from the connection ---------------------------------------------------------------------------------------------


async def receive(request: Request, limits: Limits) -> Given:
    """The one file of a form (multipart/form-data), or else the whole body. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits)
    given = await _file_of_form(request, body) if kind == "multipart/form-data" else Given(body, "the request")
    if not given.data:
        raise Refused(422, f"{given.name} is empty; {EXPECTED}")
    return given


async def _file_of_form(request: Request, body: bytes) -> Given:
    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    expected = "expected a form with one file, in a field called `file`"
    try:
        async with Request(request.scope, replay).form(max_files=1, max_fields=16) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise Refused(422, expected)
            return Given(await file.read(), _shown_name(file.filename))
    except (HTTPException, FormParserError):  # parts without an end, without a name, or too many
        raise Refused(422, f"the form cannot be read; {expected}") from None


def _shown_name(name: str | None) -> str:
    """A file's name as messages repeat it: one line, without folders, not too long."""
    name = "".join(letter for letter in Path((name or "").replace("\\", "/")).name if letter.isprintable())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


# ---- to the network --------------------------------------------------------------------------------------------------


def open_given(reader: Reader, given: Given, limits: Limits, clean_when: str = "auto") -> Opened:
    """Bring it to what the network was trained on. Raises Refused: 415 for what is neither image nor ink, 422 for what
    says nothing or cannot be read."""
    name = given.name or "the file"
    start = given.data[:200].removeprefix(b"\xef\xbb\xbf").lstrip()
    is_ink = True
    try:
        if start.startswith((b"[", b"{")):
            strokes = as_strokes(_json_of(given.data, name))
        elif start.startswith(b"<") and b"<svg" not in given.data[:1000]:
            strokes = _read_inkml(reader, given.data, name)
        else:
            is_ink = False
            check_image(given.data, name, limits)
            return Opened(name, reader.prepare(given.data, name, clean_when))
        return Opened(name, reader.prepare_strokes(strokes, name), strokes)
    except DataError as error:
        message = " ".join(str(error).split())
        raise Refused(422, message if not is_ink or message.startswith(name) else f"{name}: {message}") from None


def check_image(data: bytes, name: str, limits: Limits) -> None:
    """Raises Refused for what is no image, or has more pixels than a server should unpack."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
    except UnidentifiedImageError:
        raise Refused(415, f"{name} is no image; {EXPECTED}") from None
    except Image.DecompressionBombError:
        raise Refused(422, f"{name} has too many pixels; expected at most {limits.max_pixels:,}") from None
    except Exception:  # of any kind: the reader says what is wrong with a broken file
        return
    if width * height > limits.max_pixels:
        raise Refused(422, f"{name} has {width} x {height} pixels; expected at most {limits.max_pixels:,}")


def _json_of(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{name}: is no JSON ({reason})") from None


def _read_inkml(reader: Reader, data: bytes, name: str) -> list[np.ndarray]:
    """Strokes of an InkML file, which is read from a file. Raises DataError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ink.inkml"
        path.write_bytes(data)
        try:
            return reader.language.read_ink(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from None


# ---- back to the ink -------------------------------------------------------------------------------------------------


def boxes_in_strokes(
    boxes: Sequence[Sequence[int]], drawn: np.ndarray, strokes: Sequence[np.ndarray]
) -> list[list[float]]:
    """Boxes in pixels of drawn strokes -> the same in the strokes' own units.

    drawn: uint8 (H, W), ink 255 on paper 0, as Language.draw_ink gives it: the strokes, moved, and scaled alike in
    both directions.
    """
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    pixels = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], float) + 0.5  # (2, 2): corners, x and y
    points = np.concatenate(strokes)
    units = np.stack([points.min(axis=0), points.max(axis=0)])
    axis = int(np.argmax(np.ptp(units, axis=0)))  # the longer side tells the scale best
    scale = np.ptp(units[:, axis]) / max(np.ptp(pixels[:, axis]), 1.0) or 1.0
    corners = np.asarray(boxes, float).reshape(-1, 2, 2)
    corners = (corners - pixels.mean(axis=0)) * scale + units.mean(axis=0)
    return corners.reshape(-1, 4).round(2).tolist()
