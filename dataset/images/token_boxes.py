"""Where the typesetter puts every token of many labels, in em, as flat arrays: for whoever puts ink there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dataset.images.flat_files import slice_of
from dataset.images.standard import LayoutCache
from dataset.typesetter import fonts


class TokenBoxes(NamedTuple):
    """The boxes of all tokens that leave ink, in the order of the labels and, within one, of its tokens.

    ends: (N,) int64, where the boxes of each label end.   tokens: (S,) int32, the token's index in its label.
    low, high: (S, 2) float32, x and y in em, y downwards from the baseline of the label.
    baselines: (S,) float32, where the token's own baseline lies.
    levels: (S,) float32, the size of the token's glyphs: 1 on the line, less in scripts; 1 for rules alone.
    has_rule: (S,) bool, whether a rule belongs to the token: a fraction's bar, a root, a line over something.
    """

    ends: np.ndarray
    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray
    baselines: np.ndarray
    levels: np.ndarray
    has_rule: np.ndarray


def boxes_of_label(boxes: TokenBoxes, number: int) -> TokenBoxes:
    """Those of one of the labels."""
    own = [slice_of(each, boxes.ends, number) for each in boxes[1:]]
    return TokenBoxes(np.array([len(own[0])]), *own)


# How much lower than typeset people write what stands in a group, em; negative: higher. Medians over CROHME's ink.
NUMERATOR, SUPERSCRIPT, SUBSCRIPT = 0.15, -0.07, 0.0
LARGE_OPERATORS = {r"\sum": (0.22, -0.17), r"\prod": (0.22, -0.17), r"\int": (0.2, -0.1), r"\lim": (0.0, 0.15)}


def as_written(boxes: TokenBoxes, labels: Sequence[Sequence[str]]) -> TokenBoxes:
    """The boxes with numerators, scripts and limits where people write them.   labels: the N token lists."""
    levels = np.zeros(sum(map(len, labels)))  # of every token of every label
    ends = np.cumsum([len(tokens) for tokens in labels])
    starts = ends - [len(tokens) for tokens in labels]
    index = np.repeat(starts, np.diff(boxes.ends, prepend=0)) + boxes.tokens
    levels[index] = boxes.levels
    shifts = np.zeros(len(levels))
    for tokens, start in zip(labels, starts.tolist(), strict=True):
        for first, stop, anchor, shift in _lowered_groups(tokens):
            part = levels[start + first : start + stop]
            # A numerator that is set smaller, as in a line of text, is close to its bar.
            if tokens[anchor] != r"\frac" or part.max(initial=0) > 0.95:
                shifts[start + first : start + stop] += shift * (levels[start + anchor] or 1.0)
    shift = shifts[index].astype(np.float32)
    down = np.stack([np.zeros_like(shift), shift], axis=1)
    return boxes._replace(low=boxes.low + down, high=boxes.high + down, baselines=boxes.baselines + shift)


def _lowered_groups(tokens: Sequence[str]) -> Iterator[tuple[int, int, int, float]]:
    """Numerators, scripts and limits: first and last + 1 token, whose they are, and em by which they move down."""
    opened, closes = [], {}
    for index, token in enumerate(tokens):
        if token == "{":
            opened.append(index)
        elif token == "}" and opened:
            closes[opened.pop()] = index
    bases: dict[int, int] = {}  # of a script that has just ended, by the index after it
    for index, token in enumerate(tokens):
        close = closes.get(index + 1)
        if close is None:
            continue
        if token == r"\frac":
            yield index + 2, close, index, NUMERATOR
        elif token in ("^", "_") and index:
            base = bases.get(index, index - 1)
            bases[close + 1] = base
            upper, lower = LARGE_OPERATORS.get(tokens[base], (SUPERSCRIPT, SUBSCRIPT))
            yield index + 2, close, base, upper if token == "^" else lower


# Kinds of labels by how they are laid out: on one line, with scripts, high without a rule, and with rules, low or high.
FLAT, SCRIPTS, HIGH, LOW_RULES, HIGH_RULES = range(5)
HIGH_EM = 1.6


def forms_of(boxes: TokenBoxes) -> tuple[np.ndarray, np.ndarray]:
    """How each label is laid out, one of the five kinds, and how wide, in em: int32 (N,), float64 (N,)."""
    starts = np.concatenate([[0], boxes.ends[:-1]])
    low, high = np.minimum.reduceat(boxes.low, starts), np.maximum.reduceat(boxes.high, starts)
    baselines = np.where(boxes.has_rule, 0, np.abs(boxes.baselines))
    is_high = high[:, 1] - low[:, 1] > HIGH_EM
    has_scripts = np.maximum.reduceat(baselines, starts) > 0.05
    has_rules = np.logical_or.reduceat(boxes.has_rule, starts)
    plain = np.where(is_high, HIGH, np.where(has_scripts, SCRIPTS, FLAT))
    forms = np.where(has_rules, np.where(is_high, HIGH_RULES, LOW_RULES), plain)
    return forms.astype(np.int32), (high[:, 0] - low[:, 0]).astype(np.float64)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, … of each range, one after the other: int64 (sum of counts,)."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def token_boxes(layouts: LayoutCache, rows: np.ndarray) -> TokenBoxes:
    """The boxes of the labels in these rows of a cache, (N,); each of them must have been laid out."""
    floats, words = layouts.as_float32, layouts.as_uint16
    entries = layouts.index[rows]
    glyphs, rules = entries["glyphs"].astype(np.int64), entries["rules"].astype(np.int64)
    starts = entries["start"].astype(np.int64)
    ids_start = starts // 2 + 8 * (glyphs + rules)
    glyph_places = floats[ranges(starts // 4, 4 * glyphs)].reshape(-1, 4)
    rule_places = floats[ranges(starts // 4 + 4 * glyphs, 4 * rules)].reshape(-1, 4)
    glyph_ids = words[ranges(ids_start, 3 * glyphs)].reshape(-1, 3)
    rule_tokens = words[ranges(ids_start + 3 * glyphs, rules)]

    # The ink of each different glyph, looked up once.
    kinds, kind = np.unique(glyph_ids[:, 0].astype(np.int64) << 16 | glyph_ids[:, 1], return_inverse=True)
    pairs = [(int(each >> 16), int(each & 0xFFFF)) for each in kinds]
    metrics = [fonts.metrics(*pair, layouts.chinese_font if pair[0] == fonts.USER_FONT else "") for pair in pairs]
    ink = np.array([(m.left, -m.top, m.right, -m.bottom) for m in metrics], np.float32).reshape(-1, 4)[kind]
    origin = glyph_places[:, :2] * np.float32([1, -1])
    low = np.concatenate([origin + ink[:, :2] * glyph_places[:, 2:], rule_places[:, :2] * [1, -1]])
    high = np.concatenate([origin + ink[:, 2:] * glyph_places[:, 2:], rule_places[:, :2] * [1, -1]])
    low[len(origin) :, 1] -= rule_places[:, 3]
    high[len(origin) :, 0] += rule_places[:, 2]
    baselines = np.concatenate([origin[:, 1], -rule_places[:, 1]])
    levels = np.concatenate([glyph_places[:, 2], np.ones(len(rule_places), np.float32)])
    has_rule = np.arange(len(low)) >= len(origin)

    # A token may own several glyphs and rules: its box holds them all.
    owners = np.concatenate([np.repeat(np.arange(len(rows)), glyphs), np.repeat(np.arange(len(rows)), rules)])
    keys = owners << 16 | np.concatenate([glyph_ids[:, 2], rule_tokens]).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    return TokenBoxes(
        ends=np.searchsorted(keys >> 16, np.arange(len(rows)), side="right"),
        tokens=(keys & 0xFFFF).astype(np.int32),
        low=np.minimum.reduceat(low[order], first).astype(np.float32),
        high=np.maximum.reduceat(high[order], first).astype(np.float32),
        baselines=baselines[order][first].astype(np.float32),
        levels=levels[order][first],
        has_rule=np.logical_or.reduceat(has_rule[order], first),
    )
