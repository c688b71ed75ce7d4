"""Strokes: the pen's paths behind the images of a split, kept beside them, so that ink can be drawn again.

They are known where a split was made from InkML. `SPLIT/strokes` then holds every trace in pixels of the image that
the store keeps, the symbol that it belongs to, and where each symbol stands in the label. Images are found by name.
Drawn with the pen of 3 pixels, an image's strokes give that very image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.formats.inkml import PEN, Symbol, draw_pixels
from dataset.images.augmentation import AS_WRITTEN, StrokeAugmentation, augment_traces, pen_width, symbol_extents
from dataset.images.flat_files import FlatWriter, map_files, slice_of
from utils.files import hash64
from utils.reading.images import MARGIN

# Raise this when the files below change: older ones are then passed over, and made again by prepare.py.
VERSION = 1
# The flat files, and what one element of each is. *_ends: where item i ends and item i + 1 begins.
FILES = {
    "points": np.float32,  # x, y
    "trace_ends": np.int64,  # in points; of each trace
    "trace_symbols": np.int32,  # the symbol of each trace, counted within its item; -1: of none
    "item_trace_ends": np.int64,  # in traces; of each item
    "symbol_places": np.int32,  # the place in the label of each symbol; -1: not known
    "item_symbol_ends": np.int64,  # in symbols; of each item
    "sizes": np.int32,  # height, width
    "name_hash": np.uint64,
}
REMEDY = "delete it, and run prepare.py on the InkML again"


class Strokes(NamedTuple):
    """What the pen wrote of one image.

    traces: each float32 (points, 2), x and y in pixels of the image.   size: its height and width.
    symbols: the traces of each symbol.   indices: where each symbol stands in the label; -1 where that is not known.
    """

    traces: list[np.ndarray]
    symbols: list[list[int]]
    indices: Sequence[int]
    size: tuple[int, int]

    def traces_of(self, length: int) -> dict[int, list[int]]:
        """The traces of each token of a label that has any, by its place, rising.   length: of the label."""
        found: dict[int, list[int]] = {}
        for traces, place in sorted(zip(self.symbols, self.indices, strict=True), key=lambda symbol: symbol[1]):
            if traces and 0 <= place < length:
                found.setdefault(place, []).extend(traces)
        return found


def strokes_of(traces: Sequence[np.ndarray], symbols: Sequence[Symbol]) -> Strokes:
    """Traces in pixels (`inkml.pixel_traces`), moved to where they lie in the image that the store keeps."""
    points = np.concatenate(traces)
    pixels = np.floor(points + 0.5)
    low = pixels.min(axis=0)
    offset = MARGIN + (PEN - 1) // 2 - low
    width, height = pixels.max(axis=0) - low + PEN + 2 * MARGIN
    # As float32 a point may fall on the other side of the half at which it is rounded; it is put back.
    moved, wanted = (points + offset).astype(np.float32), pixels + offset
    is_off = np.floor(moved + np.float32(0.5)) != wanted
    moved[is_off] = np.nextafter(moved[is_off], wanted[is_off].astype(np.float32))
    ends = np.cumsum([len(trace) for trace in traces])
    places = [-1 if symbol.token is None else symbol.token for symbol in symbols]
    return Strokes(_split(moved, ends), [list(symbol.traces) for symbol in symbols], places, (int(height), int(width)))


def _split(points: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    ends = ends.tolist()
    return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]


# -------------------------------------------------------------------------------------------------------------- on disk


class StrokeStore:
    """The strokes of a split's images, by name. Cheap to pickle, as an ImageStore is.

    Raises DataError when the files are not whole.
    """

    def __init__(self, folder: str | Path, checked: bool = False):
        """checked: compare all files with their checksums."""
        self.folder = Path(folder)
        _, files = map_files(self.folder, FILES, REMEDY, FILES if checked else ())
        self._points, self._trace_ends = files["points"].reshape(-1, 2), files["trace_ends"]
        self._trace_symbols, self._item_trace_ends = files["trace_symbols"], files["item_trace_ends"]
        self._symbol_places, self._item_symbol_ends = files["symbol_places"], files["item_symbol_ends"]
        self._sizes, hashes = files["sizes"].reshape(-1, 2), files["name_hash"]
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._hashes)

    def __reduce__(self):
        return StrokeStore, (self.folder,)

    def find(self, name: str, size: Sequence[int]) -> Strokes | None:
        """The strokes of an image; nothing where there are none, or where they are of an image of another size."""
        wanted = np.uint64(hash64(name.encode()))
        index = int(np.searchsorted(self._hashes, wanted))
        if index == len(self) or self._hashes[index] != wanted:
            return None
        item = int(self._order[index])
        height, width = self._sizes[item].tolist()
        if (height, width) != tuple(size):  # the image was changed by hand
            return None
        owners = slice_of(self._trace_symbols, self._item_trace_ends, item)
        ends = slice_of(self._trace_ends, self._item_trace_ends, item)
        first = int(self._item_trace_ends[item]) - len(ends)
        start = int(self._trace_ends[first - 1]) if first else 0
        places = slice_of(self._symbol_places, self._item_symbol_ends, item).tolist()
        symbols: list[list[int]] = [[] for _ in places]
        for trace, owner in enumerate(owners.tolist()):
            if owner >= 0:
                symbols[owner].append(trace)
        return Strokes(_split(self._points[start : int(ends[-1])], ends - start), symbols, places, (height, width))


def open_strokes(split: Path, checked: bool = False) -> StrokeStore | None:
    """The strokes of a split's folder; nothing where it has none of this version. Raises DataError.

    checked: see StrokeStore.
    """
    try:
        about = json.loads((split / "strokes" / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_known = isinstance(about, dict) and about.get("version") == VERSION
    return StrokeStore(split / "strokes", checked) if is_known else None


class StrokeWriter(FlatWriter):
    """Writes a StrokeStore."""

    def __init__(self, folder: str | Path):
        super().__init__(folder, FILES, version=VERSION)

    def copy(self, store: StrokeStore) -> None:
        """Begin with all strokes of another store."""
        for name, values in map_files(store.folder, FILES, REMEDY)[1].items():
            self._write(name, values)

    def add(self, name: str, strokes: Strokes) -> None:
        owners = np.full(len(strokes.traces), -1)
        for symbol, members in enumerate(strokes.symbols):
            owners[members] = symbol
        for trace in strokes.traces:
            self._write("points", trace)
            self._write("trace_ends", self._written("points") // 2)
        self._write("trace_symbols", owners)
        self._write("item_trace_ends", self._written("trace_symbols"))
        self._write("symbol_places", strokes.indices)
        self._write("item_symbol_ends", self._written("symbol_places"))
        self._write("sizes", strokes.size)
        self._write("name_hash", hash64(name.encode()))


# -------------------------------------------------------------------------------------------------------------- drawing


def draw(traces: Sequence[np.ndarray], size: Sequence[int], pen: int = PEN) -> np.ndarray:
    """uint8 (H, W), ink 255 on paper 0.   traces: (points, 2) each, in its pixels.   pen: width of a stroke."""
    return draw_pixels([np.floor(trace + np.float32(0.5)).astype(np.int32) for trace in traces], size, pen)


def vary(
    strokes: Strokes, index: int, seed: int, epoch: int, settings: StrokeAugmentation
) -> tuple[list[np.ndarray], int]:
    """The traces as the ink of this index has them in this epoch, and the pen that draws them.

    The image keeps its size, which samplers plan with: the ink is stretched until it fills it again.
    """
    if settings == AS_WRITTEN:
        return strokes.traces, PEN
    pen = pen_width(index, seed, epoch, settings)
    traces = augment_traces(strokes.traces, strokes.symbols, index, seed, epoch, settings)
    return fill(traces, strokes.size, pen), pen


def fill(traces: Sequence[np.ndarray], size: Sequence[int], pen: int = PEN) -> list[np.ndarray]:
    """Traces moved and stretched until they fill an image of this height and width to its margin, drawn by the pen."""
    points = np.concatenate(traces)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    sides = np.array(size[::-1])
    room = np.maximum(sides - 2 * MARGIN - pen, 0)  # between the outermost points
    corner = (sides - pen - room) // 2 + (pen - 1) // 2
    growth = room / np.where(extent > 0, extent, 1)
    corner = corner + np.where(extent > 0, 0, room / 2)
    points = (points - low) * growth + corner
    return _split(points, np.cumsum([len(trace) for trace in traces]))


def boxes_of(strokes: Strokes, traces: Sequence[np.ndarray], pen: int, length: int) -> np.ndarray:
    """Where the ink of each token lies: float32 (length, 4) left, top, right, bottom in pixels; NaN where it has none.

    traces: of these strokes, as they are drawn.   length: tokens of the label.
    """
    boxes = np.full((length, 4), np.nan, np.float32)
    counts = [len(trace) for trace in traces]
    pixels = np.floor(np.concatenate(traces) + 0.5)
    _, low, high = symbol_extents(pixels, np.cumsum(counts) - counts, strokes.symbols)
    pairs = enumerate(zip(strokes.symbols, strokes.indices, strict=True))
    known = [symbol for symbol, (members, place) in pairs if members and 0 <= place < length]
    places = np.array(strokes.indices, int)[known]
    # A token may have more than one symbol: its box holds them all.
    np.fmin.at(boxes[:, :2], places, low[known] - (pen - 1) // 2)
    np.fmax.at(boxes[:, 2:], places, high[known] + pen // 2 + 1)
    return boxes
