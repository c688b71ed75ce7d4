"""The traces of an InkML file: points in any channels, any context, and any of the ways to write numbers.

InkML 1.0 (W3C 2011), sections 3.2 (channels), 3.3 (traces) and 4.2 (contexts). Read here are: channels of any order and
case; values one by one or as first and second differences (`'` and `"`); points divided by commas or lines; traces that
refer to a context, an ink source or a format. Traces of a lifted pen and traces without a point are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from utils.errors import DataError


class TraceFormat(NamedTuple):
    """Which of a point's values are x and y, counted from 0, how many it has, 0 where nothing says it, and their signs.

    A channel with orientation -ve grows to the left or upwards.
    """

    x: int = 0
    y: int = 1
    count: int = 0
    signs: tuple[int, int] = (1, 1)


def tag_of(element: Element) -> str:
    """The name of an element without the prefix of its namespace."""
    return element.tag.rpartition(":")[2]


def identity_of(element: Element) -> str:
    return element.get("id", element.get("xml:id", ""))


def read_traces(root: Element) -> tuple[list[np.ndarray], dict[str, int | None]]:
    """All traces with ink, each float64 (points, 2), and the index of each by its id: None for one without ink.

    Raises DataError for a trace that is not a list of finite numbers.
    """
    formats = _Formats(root)
    traces: list[np.ndarray] = []
    index_of_id: dict[str, int | None] = {}
    for element, context in _traces_in(root, ""):
        trace = None
        if element.get("type", "penDown").lower() != "penup":
            trace = _points(element, formats.of(element.get("contextRef", context)))
        index_of_id[identity_of(element)] = None if trace is None else len(traces)
        if trace is not None:
            traces.append(trace)
    return traces, index_of_id


def _traces_in(element: Element, context: str) -> Iterator[tuple[Element, str]]:
    """Every <trace> with the context that its groups refer to."""
    for child in element:
        if tag_of(child) == "trace":
            yield child, context
        else:
            yield from _traces_in(child, child.get("contextRef", context) if tag_of(child) == "traceGroup" else context)


class _Formats:
    """The trace formats of a file, and which context has which."""

    def __init__(self, root: Element):
        self.elements = {identity_of(element): element for element in root.iter() if identity_of(element)}
        formats = [element for element in root.iter() if tag_of(element) == "traceFormat"]
        self.default = _read_format(formats[0]) if formats else TraceFormat()

    def of(self, reference: str) -> TraceFormat:
        """The format of a context, or of what it refers to; the file's first one where there is no such reference."""
        seen: set[str] = set()
        while (name := reference.lstrip("#")) in self.elements and name not in seen:
            seen.add(name)
            element = self.elements[name]
            for inside in element.iter():
                if tag_of(inside) == "traceFormat":
                    return _read_format(inside)
            references = ("traceFormatRef", "inkSourceRef", "contextRef")
            inner = (inside.get(kind) for inside in element.iter() for kind in references)
            reference = next(filter(None, inner), "")
        return self.default


def _read_format(element: Element) -> TraceFormat:
    channels = [channel for channel in element.iter() if tag_of(channel) == "channel"]
    names = [channel.get("name", "").upper() for channel in channels]
    if "X" not in names or "Y" not in names:
        return TraceFormat()
    x, y = names.index("X"), names.index("Y")
    signs = tuple(-1 if channels[index].get("orientation", "+ve") == "-ve" else 1 for index in (x, y))
    return TraceFormat(x, y, len(channels), signs)


def _points(element: Element, form: TraceFormat) -> np.ndarray | None:
    """The points of a trace, float64 (points, 2); None where it has none."""
    text = (element.text or "").strip().strip(",").strip()
    if not text:
        return None
    where = f"trace {identity_of(element) or '?'!r}"
    try:
        trace = np.array(_simple_points(text, form) or _any_points(text, form), np.float64) * form.signs
    except (ValueError, IndexError, KeyError):  # KeyError: a difference, or a repetition, of nothing
        raise DataError(f"{where} is not a list of points `x y, x y, …`") from None
    if not np.isfinite(trace).all():
        raise DataError(f"{where} has a coordinate that is not a finite number")
    return trace


def _simple_points(text: str, form: TraceFormat) -> list[tuple[float, float]] | None:
    """Points of plain numbers with commas between them, as nearly all files have them; None where it is not so."""
    if "," not in text or "\n" in text:
        return None
    try:
        return _chosen([point.split() for point in text.split(",")], form)
    except (ValueError, IndexError):
        return None


def _any_points(text: str, form: TraceFormat) -> list[tuple[float, float]]:
    points = [_values(point) for point in _divided(text, form.count)]
    return _absolute(points, form) if re.search(r"""['"!*?]""", text) else _chosen(points, form)


# A value, with the mark before it that says what it is: ' a difference, " a difference of differences, ! a value.
_VALUE = re.compile(
    r"""['"!]?\s*(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf)\w*|[*?TF]|\#[0-9a-f]+)""",
    re.IGNORECASE,
)


def _values(point: str) -> list[str]:
    """The values of a point; signs and marks divide as spaces do: `5-3'2` is three."""
    values = point.split()
    if all(re.fullmatch(r"[-+]?[\d.]+", value) for value in values):
        return values
    found = _VALUE.findall(point)
    if "".join(found).replace(" ", "") != re.sub(r"\s+", "", point):
        raise ValueError(point)
    return ["".join(value.split()) for value in found]


def _divided(text: str, count: int) -> list[str]:
    """The points of a trace as text. Commas divide them; where there are none, lines do, or the number of channels."""
    points: list[str] = []
    for piece in text.split(","):
        lines = [line for line in piece.splitlines() if line.strip()]
        sizes = {len(_values(line)) for line in lines}
        if len(lines) > 1 and len(sizes) == 1 and min(sizes) > 1 and len(_values(piece)) != count:
            points += lines  # a line each, and not one point over several lines
        else:
            points.append(piece)
    if len(points) == 1:
        values, size = _values(points[0]), count or 2
        if len(values) > size and len(values) % size == 0 and (count or len(values) > 3):
            return [" ".join(values[start : start + size]) for start in range(0, len(values), size)]
    return points


def _chosen(points: Sequence[Sequence[str]], form: TraceFormat) -> list[tuple[float, float]]:
    return [(float(point[form.x]), float(point[form.y])) for point in points]


def _absolute(points: Sequence[Sequence[str]], form: TraceFormat) -> list[tuple[float, float]]:
    """Points whose values may be differences. A mark holds for its channel until another one comes.

    `*` and `?` stand for the value before.
    """
    positions = []
    marks, values, velocities = {}, {}, {}
    for point in points:
        for channel in (form.x, form.y):
            text = point[channel]
            if text[0] in "'\"!":
                marks[channel], text = text[0], text[1:]
            mark = marks.get(channel, "!")
            if text in "*?":
                number = values[channel] if mark == "!" else 0.0
            else:
                number = float(text)
            if mark == "'":
                velocities[channel] = number
            elif mark == '"':
                velocities[channel] = velocities.get(channel, 0.0) + number
            else:
                velocities[channel] = number - values.get(channel, number)
                values[channel] = number
                continue
            values[channel] = values.get(channel, math.nan) + velocities[channel]
        positions.append((values[form.x], values[form.y]))
    return positions
