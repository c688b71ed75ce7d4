"""Where the typesetter puts every token of many labels, in em, as flat arrays: for whoever puts ink there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dataset.images.standard import LayoutCache
from dataset.typesetter import fonts


class TokenBoxes(NamedTuple):
    """The boxes of all tokens that leave ink, in the order of the labels and, within one, of its tokens.

    ends: (N,) int64, where the boxes of each label end.   tokens: (S,) int32, the token's index in its label.
    low, high: (S, 2) float32, x and y in em, y downwards from the baseline of the label.
    baselines: (S,) float32, where the token's own baseline lies.
    has_rule: (S,) bool, whether a rule belongs to the token: a fraction's bar, a root, a line over something.
    """

    ends: np.ndarray
    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray
    baselines: np.ndarray
    has_rule: np.ndarray


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
    metrics = [fonts.metrics(int(each >> 16), int(each & 0xFFFF)) for each in kinds]
    ink = np.array([(m.left, -m.top, m.right, -m.bottom) for m in metrics], np.float32).reshape(-1, 4)[kind]
    origin = glyph_places[:, :2] * np.float32([1, -1])
    low = np.concatenate([origin + ink[:, :2] * glyph_places[:, 2:], rule_places[:, :2] * [1, -1]])
    high = np.concatenate([origin + ink[:, 2:] * glyph_places[:, 2:], rule_places[:, :2] * [1, -1]])
    low[len(origin) :, 1] -= rule_places[:, 3]
    high[len(origin) :, 0] += rule_places[:, 2]
    baselines = np.concatenate([origin[:, 1], -rule_places[:, 1]])
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
        has_rule=np.logical_or.reduceat(has_rule[order], first),
    )
