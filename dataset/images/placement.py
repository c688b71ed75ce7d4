"""Which symbol stands for each token of a label, and where: chosen, placed and scaled for many labels at once.

All that decides an image's size is sums, products and roundings, so one image and a million give the same to the
last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dataset.formats.inkml import LONGEST_TRACE, PEN, TRACE_HEIGHT
from dataset.images.augmentation import uniform
from dataset.images.simulated_symbols import LEAST_SIDE
from dataset.images.strokes import Strokes
from dataset.images.symbol_pool import Symbols, medians
from dataset.images.token_boxes import TokenBoxes, forms_of, ranges
from utils.reading.images import MARGIN

# The place of the draws of an image, and of a symbol, among those of `uniform`; the first ones are the augmentation's.
FIRST_DRAW, FIRST_SYMBOL_DRAW = 2_000, 3_000
CANDIDATES = 6  # symbols of any writer, from which the most fitting is taken
OWN = 3  # and so many of the very writer
# Where symbols of one token are sorted by size, a candidate comes from at least so many around the wanted size.
LEAST_WINDOW, WINDOW_SHARE = 12, 0.1
STRAY = 0.03  # em by which symbols stray along the line
FULL = 0.95  # glyphs smaller than this are set in scripts
MAKING_WAY = 0.8  # share of what a symbol is wider than usual by which those after it move on
RISE_SHARE = 0.7  # of a symbol's own place above or below the line that it keeps among strangers
HAND_WINDOW = 120  # labels of like form and width, whose hands a label may follow
GROWTH_JITTER = 0.05  # share by which width and height vary, each for itself
TALL = 1.3  # em: what is higher is stretched with the distances across the line
LEAST_SCALE, LARGEST_SCALE = 0.25, 12.0  # of a symbol, from the box that it was written for to the one that it gets
MAX_EM = 256.0  # beyond it sizes of boxes are alike
# How much it costs to take a symbol of another writer, or one written for a box of another size (a share of it); one
# unit is a standard deviation of a writer's way.
STRANGER_COST, SIZE_COST = 0.5, 4.0
ROOT_SIZE_COST = 12.0  # the hook of a root that is made longer would lie over what the root holds


class Plan(NamedTuple):
    """Where the symbols of n images go.

    ends: (n,) of each image, in symbols.   donors: (S,) which of the Symbols.   corners: (S, 2) their left top in
    pixels from that of the ink.   scales: (S, 2) pixels an em.   sizes: (n, 2) height and width of images, pixels.
    """

    ends: np.ndarray
    donors: np.ndarray
    corners: np.ndarray
    scales: np.ndarray
    sizes: np.ndarray


class Planner:
    """Chooses a symbol for every token, and its place: a pure function of (seed, epoch, index)."""

    def __init__(self, symbols: Symbols, boxes: TokenBoxes, tokens: np.ndarray):
        """boxes: of the labels, S in all, each with a symbol to draw.   tokens: (S,) their vocabulary ids."""
        self.symbols, self.boxes, self.tokens = symbols, boxes, tokens
        self._vocabulary_size = int(max(symbols.tokens.max(), tokens.max())) + 1
        self._counts = np.diff(boxes.ends, prepend=0)
        self._extents = np.maximum((boxes.high - boxes.low).astype(np.float64), LEAST_SIDE)
        self._middles = (boxes.low + boxes.high).astype(np.float64) / 2
        self._stands = (np.abs(boxes.high[:, 1] - boxes.baselines) < 0.05) & ~boxes.has_rule
        self._shares = 1 / _neighbors_above_and_below(boxes)
        self._sort_symbols()
        self._sort_hands()
        self._measure_habits()
        self._collect_heights()

    def _sort_symbols(self) -> None:
        """By token and by the size of the box that they were written for; and by writer and token."""
        symbols, tokens = self.symbols, self.tokens
        self._wanted = self._extents.sum(axis=1)
        self._had = symbols.typeset.astype(np.float64).sum(axis=1)
        self._order = np.lexsort([self._had, symbols.tokens])
        keys = symbols.tokens[self._order] * MAX_EM + np.minimum(self._had[self._order], MAX_EM - 1)
        start = np.searchsorted(symbols.tokens[self._order], tokens, side="left")
        stop = np.searchsorted(symbols.tokens[self._order], tokens, side="right")
        middle = np.searchsorted(keys, tokens * MAX_EM + np.minimum(self._wanted, MAX_EM - 1))
        window = np.maximum(LEAST_WINDOW, (stop - start) * WINDOW_SHARE)
        self._window = np.minimum(window, stop - start).astype(np.int64)
        self._first = np.clip(middle - self._window // 2, start, stop - self._window)
        own = symbols.writers * self._vocabulary_size + symbols.tokens
        self._own_order = np.argsort(own, kind="stable")
        self._own = own[self._own_order]

    def _sort_hands(self) -> None:
        """By the form of their label and its width: a label follows the hand of one that is laid out alike."""
        symbols = self.symbols
        forms, widths = forms_of(self.boxes)
        self._hand_order = np.lexsort([symbols.widths, symbols.forms])
        keys = (symbols.forms * MAX_EM + np.minimum(symbols.widths, MAX_EM - 1))[self._hand_order]
        middle = np.searchsorted(keys, forms * MAX_EM + np.minimum(widths, MAX_EM - 1))
        self._hand_window = min(HAND_WINDOW, len(keys))
        self._first_hand = np.clip(middle - self._hand_window // 2, 0, len(keys) - self._hand_window)

    def _measure_habits(self) -> None:
        """How wide each token is usually written, and how much smaller scripts are, against their boxes."""
        symbols = self.symbols
        typeset = np.maximum(symbols.typeset, LEAST_SIDE)
        self._usual_widths = medians(symbols.sizes[:, 0] / typeset[:, 0], symbols.tokens, self._vocabulary_size)
        ratios = np.hypot(*symbols.sizes.T) / np.hypot(*typeset.T)
        base, script = medians(ratios, (symbols.levels < FULL).astype(np.int64), 2)
        self._script_factors = np.array([[1, base / script], [script / base, 1]])  # where it goes, where it is from

    def _collect_heights(self) -> None:
        """The heights of every symbol's traces, which decide the scale of an image."""
        symbols = self.symbols
        self._trace_starts, self._trace_counts = np.empty((2, len(symbols.tokens)), np.int64)
        heights, first = [], 0
        for number, library in enumerate(symbols.libraries):
            mine = symbols.library == number
            starts = np.concatenate([[0], library.symbol_trace_ends[:-1]])
            self._trace_counts[mine] = (library.symbol_trace_ends - starts)[symbols.index[mine]]
            self._trace_starts[mine] = first + starts[symbols.index[mine]]
            heights.append(library.trace_heights)
            first += len(library.trace_heights)
        self._heights = np.concatenate(heights).astype(np.float64)

    def strokes(self, index: int, plan: Plan, at: int) -> Strokes:
        """All strokes of an image, in its pixels.   at: where it stands in the plan."""
        part = slice(int(plan.ends[at - 1]) if at else 0, int(plan.ends[at]))
        symbols = [self.symbols.traces(donor) for donor in plan.donors[part].tolist()]
        traces = [trace for symbol in symbols for trace in symbol]
        numbers = iter(range(len(traces)))
        members = [[next(numbers) for _ in symbol] for symbol in symbols]
        symbol_counts = [sum(map(len, symbol)) for symbol in symbols]
        offset = MARGIN + (PEN - 1) // 2
        corners = np.repeat(plan.corners[part] + offset, symbol_counts, axis=0)
        moved = np.concatenate(traces) * np.repeat(plan.scales[part], symbol_counts, axis=0) + corners
        height, width = plan.sizes[at].tolist()
        # The last digit of a sum must not push a point over the edge.
        moved = np.clip(moved, offset, np.array([width, height], np.float32) - (PEN + 2 * MARGIN - offset))
        traces = np.split(moved, np.cumsum([len(trace) for trace in traces])[:-1])
        end = int(self.boxes.ends[index])
        indices = self.boxes.tokens[end - len(symbol_counts) : end].tolist()
        return Strokes(traces, members, indices, (height, width))

    def plan(self, indices: np.ndarray, seed: int, epoch: int) -> Plan:
        """indices: (n,) labels."""
        counts = self._counts[indices]
        ends = np.cumsum(counts)
        rows = ranges(self.boxes.ends[indices] - counts, counts)
        owners = np.repeat(np.arange(len(indices)), counts)
        draw = uniform(seed, epoch, indices, 1, FIRST_DRAW)[:, 0]
        hand = self._hand_order[self._first_hand[indices] + (draw * self._hand_window).astype(np.int64)]
        draws = uniform(seed, epoch, rows, CANDIDATES + OWN + 4, FIRST_SYMBOL_DRAW)
        donors = self._choose(rows, self.symbols.hands[hand][owners], draws[:, : CANDIDATES + OWN])
        swing = 2 * draws[:, -4:] - 1
        corners, scales = self._place(rows, owners, donors, self.symbols.spreads[hand][owners], swing)
        sides = self.symbols.sizes[donors] * scales

        starts = ends - counts
        pixels = self._pixels_an_em(donors, scales[:, 1], sides, starts, ends)
        low = np.minimum.reduceat(corners, starts)
        high = np.maximum.reduceat(corners + sides, starts)
        widths = np.floor((high - low) * pixels[:, None] + 0.5).astype(np.int32) + PEN + 2 * MARGIN
        each = pixels[owners][:, None]
        corners, scales = ((corners - low[owners]) * each).astype(np.float32), (scales * each).astype(np.float32)
        return Plan(ends, donors, corners, scales, widths[:, ::-1])

    def _choose(self, rows: np.ndarray, writers: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The most fitting of some candidates for each symbol: (S,).   writers: whose hand it is to be."""
        own = writers * self._vocabulary_size + self.tokens[rows]
        first, last = np.searchsorted(self._own, own, side="left"), np.searchsorted(self._own, own, side="right")
        indices = self._first[rows][:, None] + (draws[:, :CANDIDATES] * self._window[rows][:, None]).astype(np.int64)
        candidates = np.empty(draws.shape, np.int64)
        candidates[:, :CANDIDATES] = self._order[indices]
        indices = first[:, None] + (draws[:, CANDIDATES:] * (last - first)[:, None]).astype(np.int64)
        has_own = (last > first)[:, None]
        indices = np.minimum(indices, len(self._own) - 1)
        candidates[:, CANDIDATES:] = np.where(has_own, self._own_order[indices], candidates[:, :1])
        wanted = self._wanted[rows][:, None]
        size_cost = np.where(self.boxes.has_rule[rows], ROOT_SIZE_COST, SIZE_COST)[:, None]
        costs = size_cost * np.abs(self._had[candidates] - wanted) / wanted
        ways, own_ways = self.symbols.ways[self.symbols.writers[candidates]], self.symbols.ways[writers][:, None]
        costs += np.abs(ways[..., 0] - own_ways[..., 0]) + np.abs(ways[..., 1] - own_ways[..., 1])
        costs += STRANGER_COST * (self.symbols.writers[candidates] != writers[:, None])
        return candidates[np.arange(len(rows)), costs.argmin(axis=1)]

    def _place(
        self, rows: np.ndarray, owners: np.ndarray, donors: np.ndarray, spreads: np.ndarray, swing: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Left tops in em, and scales of the donors, both (S, 2).

        owners: (S,) the number of each symbol's label.   spreads: (S, 2).   swing: (S, 4) in -1 .. 1.
        """
        extents, middles = self._extents[rows], self._middles[rows]
        has_rule, is_tall = self.boxes.has_rule[rows], extents[:, 1] > TALL
        had = np.maximum(self.symbols.typeset[donors], LEAST_SIDE)
        scales = extents / had
        is_script = (self.boxes.levels[rows] < FULL).astype(np.int64)
        scales *= self._script_factors[is_script, (self.symbols.levels[donors] < FULL).astype(np.int64)][:, None]
        scales[:, 1] *= np.where(is_tall, spreads[:, 1], 1)
        scales = np.clip(scales, LEAST_SCALE, LARGEST_SCALE) * (1 + GROWTH_JITTER * swing[:, :2])
        sizes = self.symbols.sizes[donors].astype(np.float64)

        # Along the line: who writes a symbol wider than usual writes the next one further to the right.
        usual = extents[:, 0] * self._usual_widths[self.tokens[rows]]
        excess = np.where(has_rule, 0, MAKING_WAY * (sizes[:, 0] * scales[:, 0] - usual))
        left, right = middles[:, 0] - extents[:, 0] / 2, middles[:, 0] + extents[:, 0] / 2
        edges = [self._moved(edge, left, right, excess, rows, owners, spreads[:, 0]) for edge in (left, right)]
        x = (edges[0] + edges[1]) / 2 + STRAY * swing[:, 2]
        # What spans others is as wide as they are.
        scales[:, 0] *= np.where(has_rule, np.maximum(edges[1] - edges[0], LEAST_SIDE) / extents[:, 0], 1)

        # Across the line: baselines move, and what stands on them with them.
        baselines = self.boxes.baselines[rows].astype(np.float64)
        anchors = np.where(is_tall | has_rule, middles[:, 1], baselines)
        y = anchors * spreads[:, 1] + middles[:, 1] - anchors + RISE_SHARE * self.symbols.rises[donors]
        # The feet of what stands on the line stay closer together than middles do.
        lowered = (sizes[:, 1] * scales[:, 1] - extents[:, 1]) / 2
        y -= np.where(self._stands[rows], (1 - RISE_SHARE) * lowered, 0)
        return np.stack([x, y], axis=1) - sizes * scales / 2, scales

    def _moved(
        self, x: np.ndarray, left: np.ndarray, right: np.ndarray, excess: np.ndarray, rows: np.ndarray,
        owners: np.ndarray, spread: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Where places along the line go, (S,): apart by `spread`, and out of the way of what is wider than usual.

        x: (S,) a place of each symbol, in em as typeset.   left, right: (S,) of the boxes.   excess: (S,) em by which
        the ink is wider. What stands above or below others shares its excess with them.
        """
        starts = np.searchsorted(owners, np.arange(owners[-1] + 1))
        counts = np.diff(np.append(starts, len(owners)))
        sources = ranges(starts[owners], counts[owners])
        targets = np.repeat(np.arange(len(owners)), counts[owners])
        passed = np.clip((x[targets] - left[sources]) / (right - left)[sources], 0, 1)
        # Whole numbers: a sum of them does not depend on the order.
        units = np.floor(passed * (excess * self._shares[rows])[sources] * 2**20).astype(np.int64)
        first = np.cumsum(counts[owners]) - counts[owners]
        return x * spread + np.add.reduceat(units, first) / 2**20

    def _pixels_an_em(
        self, donors: np.ndarray, scales: np.ndarray, sides: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> np.ndarray:
        """The rule of `inkml.pixel_traces`: (n,).   scales: (S,) of heights.   sides: (S, 2) of symbols."""
        counts = self._trace_counts[donors]
        heights = self._heights[ranges(self._trace_starts[donors], counts)] * np.repeat(scales, counts)
        trace_ends = np.cumsum(counts)
        first = (trace_ends - counts)[starts]
        number = np.diff(np.append(first, trace_ends[-1] if len(trace_ends) else 0))
        highest = np.maximum.reduceat(heights, first)
        counted = heights >= np.repeat(highest, number) / 10
        # Whole numbers: a sum of them does not depend on the order.
        units = np.where(counted, np.floor(heights * 2**20), 0).astype(np.int64)
        mean = np.add.reduceat(units, first) / np.add.reduceat(counted.astype(np.int64), first) / 2**20
        mean = np.maximum(mean, np.maximum.reduceat(sides, starts).max(axis=1) / LONGEST_TRACE)
        return TRACE_HEIGHT / np.where(mean > 1e-3, mean, 1.0)


def _neighbors_above_and_below(boxes: TokenBoxes) -> np.ndarray:
    """How many symbols of its label stand above or below each symbol, itself counted, but no rules: (S,)."""
    counts = np.diff(boxes.ends, prepend=0)
    each, starts = np.repeat(counts, counts), np.repeat(boxes.ends - counts, counts)
    found = np.empty(len(each), np.int64)
    for start in range(0, len(each), 1 << 15):  # so many at once: there are as many pairs as symbols in the label
        some = slice(start, start + (1 << 15))
        others = ranges(starts[some], each[some])
        own = np.repeat(np.arange(len(each))[some], each[some])
        middles = (boxes.low[own, 0] + boxes.high[own, 0]) / 2
        beside = (boxes.low[others, 0] < middles) & (middles < boxes.high[others, 0]) & ~boxes.has_rule[others]
        found[some] = np.add.reduceat(beside.astype(np.int64), np.cumsum(each[some]) - each[some])
    return np.maximum(found, 1)
