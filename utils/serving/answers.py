"""What the server answers, as its OpenAPI page describes it, and how it is made of readings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from utils.errors import DataError
from utils.reading.inputs import Input
from utils.reading.outputs import json_line
from utils.reading.reader import Reading
from utils.serving.inputs import Opened, boxes_in_strokes


class Typesetting(NamedTuple):
    """How formulas are drawn; given to the server, because utils does not import dataset.

    Each takes LaTeX, a string or tokens, and raises DataError where it cannot be drawn.   svg: an <svg> element whose
    paths have the index of their token as `data-token`.   mathml: a <math> element.   png: a file's bytes.
    """

    svg: Callable[[str | Sequence[str]], str]
    mathml: Callable[[str | Sequence[str]], str]
    png: Callable[[str | Sequence[str]], bytes]


class Typeset(BaseModel):
    """A formula as it is drawn and as MathML; or why it cannot be."""

    svg: str | None = None
    mathml: str | None = None
    error: str | None = None


class AlternativeAnswer(BaseModel):
    latex: str
    score: float = Field(description="mean log-probability of its tokens and its end")
    typeset: Typeset | None = None


class ReadingAnswer(BaseModel):
    """One line of writing, as `recognize.py --json` prints it."""

    input: str = Field(description="name of the file")
    line: int = Field(description="which line of writing, from 1")
    lines: int
    latex: str = Field(description="the tokens, joined by spaces")
    tokens: list[str]
    confidence: float = Field(description="probability of all tokens together")
    confidences: list[float] = Field(description="probability of each token after those before it")
    score: float = Field(description="mean log-probability of the tokens and the end")
    alternatives: list[AlternativeAnswer] = Field(description="best first; none with a beam of 1")
    warnings: list[str] = Field(description="reasons to doubt the reading")
    size: list[int] = Field(description="height and width of the network's input in pixels")
    boxes: list[list[int]] = Field(description="where each token was seen: left, top, right, bottom in pixels of the "
                                               "image; of ink: of the image that was drawn of it")  # fmt: skip
    is_cleaned: bool
    is_truncated: bool
    stroke_boxes: list[list[float]] | None = Field(None, description="of ink: the same in the units of its strokes")
    typeset: Typeset | None = Field(None, description="with include=typeset")


class Answer(BaseModel):
    readings: list[ReadingAnswer] = Field(description="one for each line of writing, from top to bottom")
    strokes: list[list[list[float]]] | None = Field(None, description="with include=strokes, of ink: its points")


class Problem(BaseModel):
    detail: str = Field(description="what is wrong, in a sentence")


def answer_of(
    opened: Opened,
    readings: Sequence[Reading],
    include: Sequence[str],
    typesetting: Typesetting,
    draw_ink: Callable[[Sequence[np.ndarray]], np.ndarray],
) -> dict[str, Any]:
    """An `Answer`, for JSON.   include: "typeset" and "strokes", or less.   draw_ink: as in Language."""
    answer: dict[str, Any] = {"readings": []}
    for number, reading in enumerate(readings, 1):
        line = json.loads(json_line(Input(opened.name, opened.prepared, number, len(readings)), reading))
        if opened.strokes is not None:
            line["stroke_boxes"] = boxes_in_strokes(reading.boxes, draw_ink(opened.strokes), opened.strokes)
        if "typeset" in include:
            line["typeset"] = typeset(reading.tokens, typesetting)
            for shown, other in zip(line["alternatives"], reading.alternatives, strict=True):
                shown["typeset"] = typeset(other.tokens, typesetting)
        answer["readings"].append(line)
    if "strokes" in include and opened.strokes is not None:
        answer["strokes"] = [stroke.tolist() for stroke in opened.strokes]
    return answer


def typeset(latex: str | Sequence[str], typesetting: Typesetting) -> dict[str, str]:
    """A `Typeset`, for JSON: `svg` and `mathml`, or `error`."""
    try:
        return {"svg": typesetting.svg(latex), "mathml": typesetting.mathml(latex)}
    except DataError as error:
        return {"error": " ".join(str(error).split())}
