"""The report of an evaluation as one HTML file: scores, plots, and a gallery that shows what went wrong, and where.

Nothing is loaded from elsewhere, so that the page opens from disk, today and in ten years: pictures are data URIs,
attention is packed into attributes, plots are inline SVG. Without scripts it can still be read, and printed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import atomic_write

TEMPLATE = Path(__file__).with_name("page.html")
INK_HEIGHT = 130  # CSS pixels that the picture of a small formula may grow to
MOST_ENLARGED = 2.0
DRAWN_SCALE = 1.0  # CSS pixels a drawn pixel


@dataclass
class Drawn:
    """A label as it is printed.

    picture: uint8 (H, W), dark on light.   boxes: (token, left, top, right, bottom) in pixels, of tokens with ink.
    """

    picture: np.ndarray
    boxes: Sequence[tuple[int, float, float, float, float]]


@dataclass
class ReportItem:
    """One picture of the gallery, what it says, and what was read.

    errors: edits between the two, 0 where the reading is right.   picture: uint8 (H, W), ink 255 on paper 0, as the
    network saw it.   truth_marks, prediction_marks: True where a token differs from the other side.   truth_drawn,
    prediction_drawn: None where LaTeX cannot be drawn.   attention: (L, h, w), a map for each token of the prediction,
    in cells of stride x stride pixels.   confidences: (L,) in 0..1.   alternatives: (tokens, score), best first.
    visually_equal: both draw the same picture.
    """

    name: str
    truth: Sequence[str]
    prediction: Sequence[str]
    errors: int
    picture: np.ndarray
    truth_marks: Sequence[bool]
    prediction_marks: Sequence[bool]
    truth_drawn: Drawn | None
    prediction_drawn: Drawn | None
    attention: np.ndarray | None
    stride: int
    confidences: Sequence[float] | None
    alternatives: Sequence[tuple[str, float | None]]
    visually_equal: bool


def write_report(path: str | Path, title: str, scores: dict[str, Any], items: Sequence[ReportItem]) -> None:
    """Write the page. scores: as in scores.json; what is missing there is left out here."""
    parts = {
        "title": escape(title),
        "lead": _lead(scores),
        "facts": _facts(scores),
        "scores": _scores(scores),
        "plots": _plots(scores),
        "confusions": _confusions(scores.get("confusions") or []),
        "failed": _failed(scores.get("failed") or []),
        "shown": _shown(scores.get("items"), len(items)),
        "gallery": "\n".join(_item(item) for item in items),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search("<script>(.*?)</script>", template, re.DOTALL)[1]
    # The browser runs this very script and no other, whatever a name or a token may say.
    parts["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # In one pass: what is put in is never searched for places to put something in.
    page = re.sub(r"<!--(\w+)-->|\{\{(\w+)\}\}", lambda found: parts[found[1] or found[2]], template)
    atomic_write(Path(path), page.encode("utf-8", "replace"))


# ---- scores ----------------------------------------------------------------------------------------------------------


def _percent(value: float | None, ends: Sequence[float] | None = None) -> str:
    between = f"{ends[0]:.1f} to {ends[1]:.1f}" if ends else ""
    return _beside("–" if value is None else f"<b>{value:.2f}</b>", between)


def _beside(name: str, interval: str) -> str:
    """Names and numbers stand below each other, whether an interval follows or not."""
    return f'{name} <span class="interval">{interval}</span>'


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML; the first one of a row is its name."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heading)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, *cells in rows
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _lead(scores: dict[str, Any]) -> str:
    exact = scores.get("exact") or {}
    if exact.get("exprate") is None:
        return ""
    ends = exact.get("interval")
    sure = f", 95 % interval {ends[0]:.1f} to {ends[1]:.1f}" if ends else ""
    return (
        f'<p class="lead"><strong>{exact["exprate"]:.2f} %</strong> of {scores.get("items", "all")} items '
        f"are read without a single wrong token{sure}.</p>"
    )


def _facts(scores: dict[str, Any]) -> str:
    """What was evaluated."""
    search, facts = scores.get("search") or {}, {}
    facts["data"] = " ".join(str(scores[key]) for key in ("dataset", "split") if scores.get(key))
    facts["items"] = scores.get("items")
    facts["checkpoint"], facts["predictions"] = scores.get("checkpoint"), scores.get("predictions")
    if search:
        beam = search.get("beam") or 1
        both = ", both directions" if (search.get("directions") or 1) > 1 else ""
        facts["search"] = ("greedy" if beam == 1 else f"beam {beam}") + both
    if scores.get("seconds"):
        speed = scores.get("pictures_per_second")
        facts["time"] = f"{scores['seconds']:.1f} s" + (f", {speed:.1f} pictures/s" if speed else "")
        facts["time"] += f" on {scores['device']}" if scores.get("device") else ""
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items() if value)
    return f'<dl class="facts">{rows}</dl>'


def _scores(scores: dict[str, Any]) -> str:
    exact, normal = scores.get("exact") or {}, scores.get("normalized") or {}
    names = {"at_most_1": "at most 1 wrong token", "at_most_2": "at most 2", "at_most_3": "at most 3"}
    names["token_error_rate"] = "wrong tokens"
    rows = [("ExpRate", *(_percent(each.get("exprate"), each.get("interval")) for each in (exact, normal)))]
    rows += [(shown, _percent(exact.get(name)), _percent(normal.get(name))) for name, shown in names.items()]
    tables = _table(("%", _beside("exact", ""), _beside("normalised", "")), rows, "numbers")

    names = {
        "structure_exprate": "structure right",
        "symbol_accuracy": "symbols right",
        "well_formed": "well-formed LaTeX",
        "visual_exprate": "draws the same picture",
    }
    intervals = scores.get("intervals") or {}
    rows = [(shown, _percent(scores[name], intervals.get(name))) for name, shown in names.items() if name in scores]
    if rows:
        tables += _table(("%", _beside("share", "")), rows, "numbers")
    notes = "Intervals are 95 % bootstrap intervals." if exact.get("interval") else ""
    if "rules" in normal:
        version = escape(str(normal["rules"]))
        notes += f" Normalised: spellings that nobody could tell apart are one (rules, version {version})."
    against = scores.get("against")
    if against:
        notes += (
            f" Right here alone: {against['only_here']}; right in {escape(str(against['file']))} alone: "
            f"{against['only_there']}; by chance with probability {against['p']:.3g} (McNemar, exact)."
        )
    return f'<div class="tables">{tables}</div><p class="note">{notes}</p>'


def _plots(scores: dict[str, Any]) -> str:
    titles = {"length": "tokens of the truth", "depth": "nesting depth", "kind": "kind of structure"}
    groups, exact = scores.get("by") or {}, scores.get("exact") or {}
    plots = [_plot(titles.get(name, name), rows, exact.get("exprate")) for name, rows in groups.items() if rows]
    if not plots:
        return ""
    return (
        '<section><h2>ExpRate by what there is to read</h2><p class="note">Share of items read without a wrong token, '
        f'with its 95 % interval; the dashed line is the share of all.</p><div class="plots">{"".join(plots)}</div>'
        "</section>"
    )


def _plot(title: str, rows: Sequence[dict[str, Any]], overall: float | None) -> str:
    """Bars with intervals, a line a group, as SVG."""
    left, right, step, top = 104, 292, 26, 26  # the scale's ends; the height of a row; where the first one begins
    bottom = top + step * len(rows)

    def x(percent: float) -> str:
        return f"{left + (right - left) * percent / 100:.1f}"

    marks = []
    for tick in (0, 25, 50, 75, 100):
        marks.append(f'<path class="grid" d="M{x(tick)} {top - 4}V{bottom}"/>')
        marks.append(f'<text class="tick" x="{x(tick)}" y="{top - 10}" text-anchor="middle">{tick}</text>')
    told = []
    for number, row in enumerate(rows):
        middle, share, ends = top + step * (number + 0.5), row["exprate"], row.get("interval")
        name, text = escape(str(row["name"])), middle + 4
        marks.append(f'<text x="{left - 8}" y="{text}" text-anchor="end">{name}</text>')
        marks.append(f'<path class="bar" d="M{left} {middle - 7}H{x(share)}v14H{left}Z"/>')
        if ends:
            low, high, high_up = x(ends[0]), x(ends[1]), middle - 4
            marks.append(f'<path class="whisker" d="M{low} {middle}H{high}M{low} {high_up}v8M{high} {high_up}v8"/>')
        marks.append(f'<circle cx="{x(share)}" cy="{middle}" r="3"/>')
        marks.append(f'<text x="{right + 12}" y="{text}">{share:.1f} %</text>')
        marks.append(f'<text class="tick" x="{right + 104}" y="{text}" text-anchor="end">{row.get("items", "")}</text>')
        told.append(f"{name}: {share:.1f} %")
    if overall is not None:
        marks.append(f'<path class="overall" d="M{x(overall)} {top - 4}V{bottom}"/>')
    marks.append(f'<text class="tick" x="{right + 104}" y="{top - 10}" text-anchor="end">items</text>')
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg class="plot" viewBox="0 0 400 {bottom + 4}" role="img" '
        f'aria-label="ExpRate by {escape(title)}. {"; ".join(told)}">{"".join(marks)}</svg></figure>'
    )


def _confusions(confusions: Sequence[dict[str, Any]]) -> str:
    if not confusions:
        return ""
    most = max(entry["count"] for entry in confusions)

    def sign(token: str) -> str:
        return f"<code>{escape(token)}</code>" if token else '<i class="nothing">nothing</i>'

    entries = "".join(
        f'<li style="--share:{entry["count"] / most:.3f}"><span>{sign(entry["truth"])} <span class="to">→</span> '
        f"{sign(entry['read'])}</span> <b>{entry['count']}</b></li>"
        for entry in confusions
    )
    return (
        '<section><h2>What is confused</h2><p class="note">Truth → what was read, and how often.</p>'
        f'<ol class="confusions">{entries}</ol></section>'
    )


def _failed(failed: Sequence[dict[str, Any]]) -> str:
    if not failed:
        return ""
    rows = [(escape(str(entry["id"])), escape(str(entry["reason"]))) for entry in failed]
    count = f"{len(failed)} item{'s' if len(failed) > 1 else ''}"
    return (
        f'<section id="failed"><h2>What failed</h2><details{" open" * (len(failed) <= 10)}>'
        f"<summary>{count}, counted as wrong</summary>{_table(('item', 'reason'), rows)}</details></section>"
    )


def _shown(items: int | None, shown: int) -> str:
    return f"{shown} of {items} items are in this gallery." if items and items != shown else ""


# ---- gallery ---------------------------------------------------------------------------------------------------------


def _png(picture: np.ndarray) -> str:
    """uint8 (H, W) as a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _image(picture: np.ndarray, told: str) -> str:
    height, width = picture.shape
    source = f'src="{_png(picture)}" width="{width}" height="{height}"'
    return f'<img {source} alt="{escape(told)}">'


def pack_attention(attention: np.ndarray) -> str:
    """(L, h, w) as base64 of uint8, row by row; in each map the most attended cell is 255."""
    attention = np.nan_to_num(np.asarray(attention, np.float32))
    most = attention.max(axis=(1, 2), keepdims=True)
    levels = 255 * attention / np.where(most > 0, most, 1)
    return base64.b64encode(levels.round().clip(0, 255).astype(np.uint8).tobytes()).decode()


def counterparts(truth_marks: Sequence[bool], prediction_marks: Sequence[bool]) -> list[range]:
    """For each token of the prediction the tokens of the truth that stand in its place.

    Tokens that do not differ are each other's; what differs between two of them faces what differs there in the truth,
    one by one where they are as many.
    """
    same = [i for i, is_other in enumerate(truth_marks) if not is_other]
    there = [j for j, is_other in enumerate(prediction_marks) if not is_other]
    anchors = [(-1, -1), *zip(same, there, strict=True), (len(truth_marks), len(prediction_marks))]
    found: list[range] = []
    for (i, j), (next_i, next_j) in zip(anchors, anchors[1:], strict=False):
        if j >= 0:
            found.append(range(i, i + 1))
        is_one_by_one = next_i - i == next_j - j
        for offset in range(1, next_j - j):
            found.append(range(i + offset, i + offset + 1) if is_one_by_one else range(i + 1, next_i))
    return found


def _item(item: ReportItem) -> str:
    is_right = item.errors == 0
    badges = ['<span class="badge right">✓ right</span>'] if is_right else []
    if not is_right:
        badges.append(f'<span class="badge wrong">✗ {item.errors} error{"s" if item.errors != 1 else ""}</span>')
        if item.visually_equal:
            badges.append('<span class="badge same">= same picture, other tokens</span>')
    least = min((chance for chance in _confidences(item) if chance is not None), default=None)
    if least is not None:
        badges.append(f'<span class="least">least sure: {100 * least:.0f} %</span>')
    facts = f'data-errors="{item.errors}"' + (" data-same" if item.visually_equal else "")
    facts += f' data-least="{least:.4f}"' if least is not None else ""
    return (
        f'<article class="item" {facts}><header><h3>{escape(item.name)}</h3>{"".join(badges)}</header>'
        f'<div class="sides">{_seen(item)}<div class="labels">{_truth(item)}{_prediction(item)}</div></div>'
        f"{_readings(item)}</article>"
    )


def _confidences(item: ReportItem) -> list[float | None]:
    """One for each token of the prediction; None where it is not known."""
    known = [None] * len(item.prediction) if item.confidences is None else item.confidences
    return [None if chance is None or math.isnan(chance) else float(chance) for chance in known]


def _seen(item: ReportItem) -> str:
    """The picture, dark on light, and what the script needs to lay the attention over it."""
    height, width = item.picture.shape
    scale = min(MOST_ENLARGED, max(1.0, INK_HEIGHT / height))
    maps = ""
    if item.attention is not None and len(item.prediction):
        count, rows, columns = item.attention.shape
        assert count == len(item.prediction), f"{item.name}: {count} maps for {len(item.prediction)} tokens"
        # cells reach beyond the picture where its sides are no multiples of the stride
        covers = f"{100 * columns * item.stride / width:.2f} {100 * rows * item.stride / height:.2f}"
        maps = f' data-cells="{columns} {rows}" data-covers="{covers}" data-maps="{pack_attention(item.attention)}"'
    steps = (
        '<div class="steps" hidden><button type="button" data-step="-1" aria-label="token before">‹</button>'
        '<button type="button" data-step="1" aria-label="next token">›</button><p class="told"></p></div>'
        if len(item.prediction)
        else ""
    )
    return (
        f'<div class="seen"><div class="scroll"><div class="sheet ink"{maps} '
        f'style="--natural:{scale * width:.0f}px">{_image(255 - item.picture, "the picture")}</div></div>{steps}</div>'
    )


def _truth(item: ReportItem) -> str:
    tokens = "".join(
        f'<span class="token{" differs" * bool(differs)}"{_title(None, differs)}>{escape(token)}</span>'
        for token, differs in zip(item.truth, item.truth_marks, strict=True)
    )
    return (
        f'<section class="truth"><h4>truth</h4>{_drawn(item.truth_drawn, item.truth, item.truth_marks, "truth")}'
        f'<div class="tokens">{tokens}</div></section>'
    )


def _prediction(item: ReportItem) -> str:
    if not len(item.prediction):
        return '<section class="prediction"><h4>read</h4><p class="nothing">nothing was read</p></section>'
    marks = item.prediction_marks
    sure = _confidences(item)
    tokens = []
    for number, (token, differs, chance, faces) in enumerate(
        zip(item.prediction, marks, sure, counterparts(item.truth_marks, marks), strict=True)
    ):
        meter = "" if chance is None else f' style="--unsure:{100 - 100 * chance:.1f}%"'
        tokens.append(
            f'<button type="button" class="token{" differs" * bool(differs)}" data-faces="{faces.start} {faces.stop}"'
            f'{_title(chance, differs)}{meter} aria-pressed="false" tabindex="{min(number, 1) * -1}">'
            f"{escape(token)}</button>"
        )
    drawn = _drawn(item.prediction_drawn, item.prediction, marks, "prediction")
    return (
        f'<section class="prediction"><h4>read</h4>{drawn}<div class="tokens" role="toolbar" '
        f'aria-label="tokens read; left and right arrow keys step">{"".join(tokens)}</div></section>'
    )


def _title(chance: float | None, differs: bool) -> str:
    told = [] if chance is None else [f"{100 * chance:.1f} % sure"]
    told += ["differs"] if differs else []
    return f' title="{", ".join(told)}"' if told else ""


def _drawn(drawn: Drawn | None, tokens: Sequence[str], marks: Sequence[bool], what: str) -> str:
    """The printed label with a box for each token that leaves ink; small ones on top, where a pointer finds them."""
    if drawn is None:
        return f'<p class="nothing">{"cannot be drawn" if len(tokens) else "there is none"}</p>'
    height, width = drawn.picture.shape
    boxes = sorted(drawn.boxes, key=lambda box: (box[1] - box[3]) * (box[4] - box[2]))
    shapes = "".join(
        f'<rect{" class=differs" * bool(marks[token])} data-token="{token}" x="{left - 1:.1f}" y="{top - 1:.1f}" '
        f'width="{right - left + 2:.1f}" height="{bottom - top + 2:.1f}" rx="2"/>'
        for token, left, top, right, bottom in boxes
    )
    return (
        f'<div class="scroll"><div class="sheet" style="--natural:{DRAWN_SCALE * width:.0f}px">'
        f"{_image(drawn.picture, f'the {what}, as it is printed')}"
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{shapes}</svg></div></div>'
    )


def _readings(item: ReportItem) -> str:
    """Truth, prediction and what else the search found, as text that can be copied."""
    truth, read = " ".join(item.truth), " ".join(item.prediction)

    def label(tokens: str) -> str:
        also = ' <span class="badge right">✓ the truth</span>' if tokens == truth else ""
        return f"<code>{escape(tokens)}</code>{also}"

    rows = [("truth", f"<code>{escape(truth)}</code>", ""), ("read", label(read), "")]
    for number, (tokens, score) in enumerate(item.alternatives, 2):
        is_number = score is not None and math.isfinite(score)
        rows.append((f"{number}.", label(tokens), f"{score:.3f}".replace("-", "−") if is_number else "–"))
    others = len(item.alternatives)
    summary = f"LaTeX, and {others} other reading{'s' if others > 1 else ''}" if others else "LaTeX"
    return (
        f'<details class="readings"><summary>{summary}</summary>'
        f"{_table(('', 'tokens', 'score' if others else ''), rows)}</details>"
    )
