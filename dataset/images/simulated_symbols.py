"""Symbols for tokens that nobody has written: the skeleton of the typeset glyphs, as a simulated hand would draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import cv2
import numpy as np

from dataset.images.sample import SKELETON_PIXELS, bend, smooth, thin, trace
from dataset.images.standard import LayoutCache
from dataset.images.token_boxes import TokenBoxes
from dataset.renderer import Layout
from dataset.typesetter import fonts

HANDS = 24  # simulated writers
SIZES = 4  # of a token, from its smallest box to its largest, that a hand draws
LEAST_SIDE = 0.03  # em: no box counts as narrower than a thin stroke
CARE = 0.06  # how far the points of a symbol stray, against its size


@cache
def glyph_skeleton(font: int, glyph: int, user_font: str = "") -> tuple[np.ndarray, ...]:
    """The strokes of a glyph: polylines (n, 2) in em, x to the right and y downwards from its origin."""
    outline = fonts.outline(font, glyph, user_font)
    if not outline.counts:
        return ()
    points = outline.points * [SKELETON_PIXELS, -SKELETON_PIXELS]
    corner = np.floor(points.min(axis=0)) - 3
    image = np.zeros(np.ceil(points.max(axis=0) - corner).astype(int)[::-1] + 4, np.uint8)
    polygons = np.split(np.rint((points - corner) * 16).astype(np.int32), np.cumsum(outline.counts)[:-1])
    cv2.fillPoly(image, polygons, 1, shift=4)
    chains = [smooth(chain) for chain in trace(thin(image > 0))]
    if not chains:  # a round dot is worn down to nothing
        chains = [np.tile((points.min(axis=0) + points.max(axis=0)) / 2 - corner, (2, 1))]
    return tuple((chain + corner) / SKELETON_PIXELS for chain in chains)


def token_skeleton(layout: Layout, token: int, chinese_font: str = "") -> list[np.ndarray]:
    """The strokes of a token in a layout, in em; empty where it leaves no ink.   chinese_font: it was laid out with."""
    strokes = []
    for glyph in layout.glyphs:
        if glyph.token == token:
            scale, origin = (glyph.scale_x, glyph.scale_y), (glyph.x, -glyph.y)
            user_font = chinese_font if glyph.font == fonts.USER_FONT else ""
            skeleton = glyph_skeleton(glyph.font, glyph.glyph, user_font)
            strokes += [stroke * scale + origin for stroke in skeleton]
    for rule in layout.rules:
        if rule.token == token:
            along = np.linspace(0, 1, 12)[:, None]
            middle = np.array([rule.x + rule.width / 2, -rule.y - rule.height / 2])
            longer = np.array([rule.width, 0]) if rule.width > rule.height else np.array([0, rule.height])
            strokes.append(middle + (along - 0.5) * longer)
    return strokes


def simulate(strokes: Sequence[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """A token's skeleton as a hand draws it: bent a little, as a whole, and no two strokes begin quite alike."""
    points = np.concatenate(strokes)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    unit = (points - low) / np.maximum(extent, 1e-6)
    bent = points + bend(unit, random) * np.clip(extent, 0.15, 0.6) * CARE
    bent *= 1 + random.uniform(-0.1, 0.1, 2)
    lifts = random.normal(0, 0.01, (len(strokes), 2))
    parts = np.split(bent, np.cumsum([len(stroke) for stroke in strokes])[:-1])
    return [part + lift for part, lift in zip(parts, lifts, strict=True)]


class SimulatedLibrary:
    """Symbols that a simulated hand has drawn, in memory, with the fields of a `symbols.SymbolLibrary`."""

    def __init__(self, seen: Mapping[str, Sequence[tuple[Layout, int]]], seed: int = 0, chinese_font: str = ""):
        """seen: for each token, layouts that hold it, and its index in them: one for each size that matters.

        chinese_font: path of the font file that the layouts were made with, or "".
        """
        self.tokens = sorted(seen)
        traces, symbols, self.image_writers = [], [], np.arange(HANDS)
        self.image_forms, self.image_widths = np.zeros(HANDS, np.int32), np.ones(HANDS, np.float32)
        random = np.random.default_rng([seed, 13])
        slants, spreads = random.normal(0.05, 0.12, HANDS), random.uniform(0.95, 1.3, (HANDS, 2))
        steps = np.full(HANDS, np.nan)
        self.image_features = np.column_stack([slants, steps, spreads]).astype(np.float32)
        for number, token in enumerate(self.tokens):
            skeletons = [token_skeleton(layout, index, chinese_font) for layout, index in seen[token]]
            for skeleton in skeletons:
                typeset = np.ptp(np.concatenate(skeleton), axis=0)
                for hand in range(HANDS):
                    drawn = simulate(skeleton, random)
                    drawn = [stroke - [slants[hand], 0] * stroke[:, 1:] * (typeset[1] < 1) for stroke in drawn]
                    low = np.concatenate(drawn).min(axis=0)
                    traces += [(stroke - low).astype(np.float32) for stroke in drawn]
                    size = np.ptp(np.concatenate(drawn), axis=0)
                    symbols.append((number, hand, len(traces), *size, *np.maximum(typeset, LEAST_SIDE)))
        table = np.array(symbols, np.float64).reshape(-1, 7)
        self.points = np.concatenate(traces) if traces else np.empty((0, 2), np.float32)
        self.trace_ends = np.cumsum([len(trace) for trace in traces], dtype=np.int64)
        self.trace_heights = np.array([np.ptp(trace[:, 1]) for trace in traces], np.float32)
        self.symbol_tokens, self.symbol_images, self.symbol_trace_ends = table[:, :3].T.astype(np.int64)
        self.sizes, self.typeset_sizes = table[:, 3:5].astype(np.float32), table[:, 5:].astype(np.float32)
        self.rises, self.levels = np.zeros(len(table), np.float32), np.ones(len(table), np.float32)

    def __len__(self) -> int:
        return len(self.symbol_tokens)


def seen_in(layouts: LayoutCache, rows: np.ndarray, boxes: TokenBoxes, names: np.ndarray, wanted: set[str]) -> dict:
    """Where each wanted token is to be seen: up to SIZES layouts, from its smallest box to its largest.

    rows: of the labels.   boxes: theirs.   names: (S,) the token of each box.
    """
    order = np.lexsort([(boxes.high - boxes.low).sum(axis=1), names])
    tokens, first, counts = np.unique(names[order], return_index=True, return_counts=True)
    seen = {}
    for token, start, count in zip(tokens.tolist(), first.tolist(), counts.tolist(), strict=True):
        if token in wanted:
            some = order[start + np.unique(np.linspace(0, count - 1, SIZES).astype(int))]
            labels = np.searchsorted(boxes.ends, some, side="right")
            seen[token] = [
                (layouts.layout(int(rows[label])), int(boxes.tokens[box]))
                for label, box in zip(labels, some, strict=True)
            ]
    return seen
