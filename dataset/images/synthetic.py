"""Synthetic ink: the strokes of real symbols, put where the typesetter puts the tokens of any label.

    pictures = SyntheticInk(standard, Symbols.gather([library], vocabulary, …), scale=0.5)
    pictures.sizes(seed, epoch), pictures.picture(index, seed, epoch), pictures.boxes(index, seed, epoch)

Every picture follows the hand of one real picture: how far its writer spreads symbols, and the writer's own symbols
where there are any, else those of writers with a similar slant. A symbol keeps the size that it had against the
typesetter's box, its own shape, and its place above or below the line. All is drawn by the rule that draws InkML: an
ordinary trace is 28 pixels high, the pen 3 wide.

What a picture looks like is a pure function of (seed, epoch, index). Its size is known before it is drawn: all that
decides it is sums, products and roundings, so one picture and a million give the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset.formats.inkml import LONGEST_TRACE, PEN, TRACE_HEIGHT
from dataset.images.augmentation import (
    AS_WRITTEN,
    Augmentation,
    StrokeAugmentation,
    augment,
    boxes_after,
    sizes_after,
    uniform,
)
from dataset.images.simulated_symbols import LEAST_SIDE, SimulatedLibrary, seen_in
from dataset.images.standard import StandardImages
from dataset.images.strokes import Strokes, boxes_of, draw, vary
from dataset.images.symbols import NO_PICTURE, SAME_LOOK, SymbolLibrary
from dataset.images.token_boxes import TokenBoxes, as_written, forms_of, ranges, token_boxes
from dataset.vocabulary import Vocabulary
from utils.reading.pictures import MARGIN, resize

# The place of the draws of a picture, and of a symbol, among those of `uniform`; the first ones are the augmentation's.
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
MOST_EM = 256.0  # beyond it sizes of boxes are alike
# How much it costs to take a symbol of another writer, or one written for a box of another size (a share of it); one
# unit is a standard deviation of a writer's way.
STRANGER_COST, SIZE_COST = 0.5, 4.0
ROOT_SIZE_COST = 12.0  # the hook of a root that is made longer would lie over what the root holds
CHUNK = 4096  # labels planned together
# Hands whose spread is not known, or beyond these, are taken to these.
SPREAD, LIFT = (0.75, 1.9), (0.6, 1.9)


class Symbols(NamedTuple):
    """All symbols to draw with, and the hands to draw in.

    libraries: where their strokes are.   library, index: (D,) of each symbol, where in them.   tokens: (D,) vocabulary
    ids.   sizes, typeset: (D, 2) width and height in em, of the ink and of the box it was written for.
    levels: (D,) of the glyph there.   rises: (D,) em.   writers: (D,).
    ways: (writers, 2) slant and step of each, in standard deviations.
    hands: (P,) the writer of each picture to follow.   spreads: (P, 2) along and across the line.
    forms, widths: (P,) how its label is laid out, and how wide in em.
    """

    libraries: tuple
    library: np.ndarray
    index: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray
    typeset: np.ndarray
    levels: np.ndarray
    rises: np.ndarray
    writers: np.ndarray
    ways: np.ndarray
    hands: np.ndarray
    spreads: np.ndarray
    forms: np.ndarray
    widths: np.ndarray


Source = tuple[SymbolLibrary | SimulatedLibrary, np.ndarray | None]


def gather(sources: Sequence[Source], vocabulary: Vocabulary) -> Symbols:
    """The symbols of libraries, at least one, by the ids of one vocabulary.

    sources: each with which of its symbols may be used, (symbols,) bool; None: all. Of a token that the vocabulary
    lacks, symbols are used for one that looks the same, or not at all.
    """
    parts, hands, ways, first_writer = [], (), [], 0
    for number, (library, is_allowed) in enumerate(sources):
        tokens = np.array([_id_of(token, vocabulary) for token in library.tokens])[library.symbol_tokens]
        index = np.flatnonzero((tokens >= 0) & (True if is_allowed is None else is_allowed))
        pictures = library.symbol_pictures[index]
        used = np.unique(pictures[pictures != NO_PICTURE])
        writers = np.zeros(len(library.picture_writers) + 1, np.int64)
        known, writers[used] = np.unique(library.picture_writers[used], return_inverse=True)
        writers[NO_PICTURE] = len(known)  # whoever wrote symbols that are from no picture
        features = library.picture_features[used]
        if not hands and len(used):  # those of the first library that has any
            spreads = _within_limits(features[:, 2:].astype(np.float64))
            hands = first_writer + writers[used], spreads, library.picture_forms[used], library.picture_widths[used]
        ways.append(_ways_of(features[:, :2], writers[used], len(known) + 1))
        sizes = library.sizes[index], library.typeset_sizes[index], library.levels[index], library.rises[index]
        parts.append((np.full(len(index), number), index, tokens[index], *sizes, first_writer + writers[pictures]))
        first_writer += len(known) + 1
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ways = np.concatenate(ways)
    with np.errstate(invalid="ignore"):
        ways = (ways - _median(ways)) / np.maximum(np.nan_to_num(_deviation(ways), nan=1.0), 1e-6)
    libraries = tuple(library for library, _ in sources)
    return Symbols(libraries, *columns, np.nan_to_num(ways), *(hands or NOBODY))


# Whom to follow where no library knows a picture: the typesetter, and the first writer.
NOBODY = np.zeros(1, np.int64), np.ones((1, 2)), np.zeros(1, np.int32), np.ones(1, np.float32)


def _within_limits(spreads: np.ndarray) -> np.ndarray:
    """Spreads (P, 2) without what is not known, or beyond what reads well."""
    limits = np.array([SPREAD, LIFT])
    return np.clip(np.where(np.isnan(spreads), _median(spreads), spreads), limits[:, 0], limits[:, 1])


def _id_of(token: str, vocabulary: Vocabulary) -> int:
    if token in vocabulary:
        return vocabulary.encode([token])[0]
    alike = [other for other in vocabulary.tokens if SAME_LOOK.get(other) == token or SAME_LOOK.get(token) == other]
    return vocabulary.encode(alike[:1])[0] if alike else -1


def _ways_of(features: np.ndarray, writers: np.ndarray, count: int) -> np.ndarray:
    """The mean of each writer's pictures: (count, 2); NaN where none of them tells."""
    known = np.isfinite(features)
    sums = np.zeros((count, 2))
    counts = np.zeros((count, 2))
    np.add.at(sums, writers, np.where(known, features, 0))
    np.add.at(counts, writers, known)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _median(values: np.ndarray) -> np.ndarray:
    """Of each column, without the NaN; 1 where there is nothing else."""
    return np.array(
        [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else 1.0 for column in values.T]
    )


def _deviation(values: np.ndarray) -> np.ndarray:
    return np.array([column[np.isfinite(column)].std() if np.isfinite(column).any() else 1.0 for column in values.T])


# ---- where everything goes -------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Where the symbols of n pictures go.

    ends: (n,) of each picture, in symbols.   donors: (S,) which of the Symbols.   corners: (S, 2) their left top in
    pixels from that of the ink.   scales: (S, 2) pixels an em.   sizes: (n, 2) height and width of pictures, pixels.
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
        self._counts = np.diff(boxes.ends, prepend=0)
        extents = (boxes.high - boxes.low).astype(np.float64)
        self._extents = np.maximum(extents, LEAST_SIDE)
        self._middles = (boxes.low + boxes.high).astype(np.float64) / 2
        self._wanted = self._extents.sum(axis=1)
        # Symbols sorted by token and by the size of the box that they were written for.
        had = symbols.typeset.astype(np.float64).sum(axis=1)
        self._had = had
        self._order = np.lexsort([had, symbols.tokens])
        keys = symbols.tokens[self._order] * MOST_EM + np.minimum(had[self._order], MOST_EM - 1)
        start = np.searchsorted(symbols.tokens[self._order], tokens, side="left")
        stop = np.searchsorted(symbols.tokens[self._order], tokens, side="right")
        middle = np.searchsorted(keys, tokens * MOST_EM + np.minimum(self._wanted, MOST_EM - 1))
        window = np.minimum(np.maximum(LEAST_WINDOW, (stop - start) * WINDOW_SHARE), stop - start).astype(np.int64)
        self._first = np.clip(middle - window // 2, start, stop - window)
        self._window = window
        # Hands sorted by the form of their label and its width.
        forms, widths = forms_of(boxes)
        self._hand_order = np.lexsort([symbols.widths, symbols.forms])
        keys = (symbols.forms * MOST_EM + np.minimum(symbols.widths, MOST_EM - 1))[self._hand_order]
        middle = np.searchsorted(keys, forms * MOST_EM + np.minimum(widths, MOST_EM - 1))
        self._hand_window = np.full(len(forms), min(HAND_WINDOW, len(keys)))
        self._first_hand = np.clip(middle - self._hand_window // 2, 0, len(keys) - self._hand_window)
        # How wide a token is usually written, against its box.
        self._usual_widths = _medians(symbols.sizes[:, 0] / np.maximum(symbols.typeset[:, 0], LEAST_SIDE),
                                      symbols.tokens, int(max(symbols.tokens.max(), tokens.max())) + 1)  # fmt: skip
        # People write scripts smaller, against their boxes, than what stands on the line.
        ratios = np.hypot(*symbols.sizes.T) / np.hypot(*np.maximum(symbols.typeset, LEAST_SIDE).T)
        is_script = (symbols.levels < FULL).astype(np.int64)
        base, script = _medians(ratios, is_script, 2)
        self._script_factors = np.array([[1, base / script], [script / base, 1]])  # where it goes, where it is from
        self._stands = (np.abs(boxes.high[:, 1] - boxes.baselines) < 0.05) & ~boxes.has_rule
        self._shares = 1 / _neighbours_above_and_below(boxes)
        # And by writer and token.
        own = symbols.writers * len(self._token_range()) + symbols.tokens
        self._own_order = np.argsort(own, kind="stable")
        self._own = own[self._own_order]

        # The heights of every symbol's traces, for the rule that decides the scale.
        self._trace_counts = np.empty(len(symbols.tokens), np.int64)
        heights = []
        first = 0
        self._trace_starts = np.empty(len(symbols.tokens), np.int64)
        for number, library in enumerate(symbols.libraries):
            mine = symbols.library == number
            ends = library.symbol_trace_ends
            starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
            self._trace_counts[mine] = (ends - starts)[symbols.index[mine]]
            self._trace_starts[mine] = first + starts[symbols.index[mine]]
            heights.append(library.trace_heights)
            first += len(library.trace_heights)
        self._heights = np.concatenate(heights).astype(np.float64)

    def strokes(self, index: int, plan: Plan, at: int) -> Strokes:
        """All strokes of a picture, in its pixels.   at: where it stands in the plan."""
        symbols, points, counts, members, first = self.symbols, [], [], [], 0
        part = slice(int(plan.ends[at - 1]) if at else 0, int(plan.ends[at]))
        for donor in plan.donors[part].tolist():
            library, symbol = symbols.libraries[symbols.library[donor]], int(symbols.index[donor])
            last_trace = int(library.symbol_trace_ends[symbol])
            ends = library.trace_ends[last_trace - self._trace_counts[donor] : last_trace].tolist()
            start = last_trace - int(self._trace_counts[donor])
            start = int(library.trace_ends[start - 1]) if start else 0
            points.append(library.points[start : ends[-1]])
            for end in ends:
                counts.append(end - start)
                start = end
            members.append(list(range(first, first + len(ends))))
            first += len(ends)
        symbol_counts = [len(each) for each in points]
        offset = MARGIN + (PEN - 1) // 2
        corners = np.repeat(plan.corners[part] + offset, symbol_counts, axis=0)
        moved = np.concatenate(points) * np.repeat(plan.scales[part], symbol_counts, axis=0) + corners
        height, width = plan.sizes[at].tolist()
        # The last digit of a sum must not push a point over the edge.
        moved = np.clip(moved, offset, np.array([width, height], np.float32) - (PEN + 2 * MARGIN - offset))
        ends = np.cumsum(counts).tolist()
        traces = [moved[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        end = int(self.boxes.ends[index])
        places = self.boxes.tokens[end - len(symbol_counts) : end].tolist()
        return Strokes(traces, members, places, (height, width))

    def _token_range(self) -> range:
        return range(int(max(self.symbols.tokens.max(initial=0), self.tokens.max(initial=0))) + 1)

    def plan(self, indices: np.ndarray, seed: int, epoch: int) -> Plan:
        """indices: (n,) labels."""
        counts = self._counts[indices]
        ends = np.cumsum(counts)
        rows = ranges(self.boxes.ends[indices] - counts, counts)
        owners = np.repeat(np.arange(len(indices)), counts)
        draw = uniform(seed, epoch, indices, 1, FIRST_DRAW)[:, 0]
        hand = self._hand_order[self._first_hand[indices] + (draw * self._hand_window[indices]).astype(np.int64)]
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
        own = writers * len(self._token_range()) + self.tokens[rows]
        first, last = np.searchsorted(self._own, own, side="left"), np.searchsorted(self._own, own, side="right")
        places = self._first[rows][:, None] + (draws[:, :CANDIDATES] * self._window[rows][:, None]).astype(np.int64)
        candidates = np.empty(draws.shape, np.int64)
        candidates[:, :CANDIDATES] = self._order[places]
        places = first[:, None] + (draws[:, CANDIDATES:] * (last - first)[:, None]).astype(np.int64)
        has_own = (last > first)[:, None]
        places = np.minimum(places, len(self._own) - 1)
        candidates[:, CANDIDATES:] = np.where(has_own, self._own_order[places], candidates[:, :1])
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


def _medians(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The median of the values of each group, (count,); 1 where a group has none."""
    medians = np.ones(count)
    order = np.lexsort([values, groups])
    present, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
    medians[present] = values[order][first + counts // 2]
    return medians


def _neighbours_above_and_below(boxes: TokenBoxes) -> np.ndarray:
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


# ---- the pictures ----------------------------------------------------------------------------------------------------


class SyntheticInk:
    """Pictures of labels in the ink of others. Deterministic in (seed, epoch, index), for any number of workers.

    lengths: (N,) int32, tokens a label.   simulated: tokens that nobody has written; a simulated hand draws them.
    failures: [(tokens, reason)], labels that cannot be drawn at all; they have no picture here.
    """

    def __init__(
        self,
        standard: StandardImages,
        vocabulary: Vocabulary,
        sources: Sequence[tuple[SymbolLibrary, np.ndarray | None]],
        scale: float = 1.0,
        max_height: int = 1 << 30,
        max_width: int = 1 << 30,
        augmentation: Augmentation | None = None,
        stroke_augmentation: StrokeAugmentation = AS_WRITTEN,
    ):
        """standard: the labels, laid out.   sources: see `gather`; none at all: a simulated hand draws everything.

        scale, max_height, max_width, augmentation, stroke_augmentation: as of HandwrittenImages.
        """
        self._standard, self._scale, self._limits = standard, scale, np.array([[max_height, max_width]])
        self.augmentation, self.stroke_augmentation = augmentation, stroke_augmentation
        self.lengths, self.failures = standard.lengths, list(standard.failures)
        layouts, rows = standard.layouts()
        boxes = as_written(token_boxes(layouts, rows), [standard.name(index).split() for index in range(len(standard))])
        ids, id_ends = standard.ids()
        owners = np.repeat(np.arange(len(rows)), np.diff(boxes.ends, prepend=0))
        tokens = ids[(id_ends - standard.lengths)[owners] + boxes.tokens].astype(np.int64)
        written = gather(sources, vocabulary).tokens if sources else np.empty(0, np.int64)
        missing = np.setdiff1d(tokens, written)
        self.simulated = [vocabulary.decode([token])[0] for token in missing]
        if len(missing):
            names = np.array(["", *(["", ""]), *vocabulary.tokens], object)[tokens].astype(str)
            simulated = SimulatedLibrary(seen_in(layouts, rows, boxes, names, set(self.simulated)))
            sources = [*sources, (simulated, None)]
            if simulated.undrawable:
                raise AssertionError(f"no ink for {simulated.undrawable}, which have boxes")
        self._planner = Planner(gather(sources, vocabulary), boxes, tokens)
        self._planned, self._plans = (None, None), {}  # seed and epoch, and the plans of chunks in it
        self._last: tuple = (None, None)  # whose strokes were asked for last, and what they are

    def __len__(self) -> int:
        return len(self._standard)

    def label(self, index: int) -> np.ndarray:
        """int32 vocabulary ids, without `<sos>` and `<eos>`."""
        return self._standard.label(index)

    def name(self, index: int) -> str:
        """The label as text."""
        return self._standard.name(index)

    def label_hash(self) -> np.ndarray:
        """(N,) uint64, equal for equal labels."""
        return self._standard.label_hash()

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every picture in this epoch."""
        sizes = np.empty((len(self), 2), np.int32)
        for number in range(-(-len(self) // CHUNK)):
            sizes[number * CHUNK : (number + 1) * CHUNK] = self._plan(number, seed, epoch).sizes
        sizes = self._scaled(sizes)[1]
        return sizes if self.augmentation is None else sizes_after(sizes, seed, epoch, self.augmentation)

    def picture(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        strokes, traces, pen = self._written(index, seed, epoch)
        picture = draw(traces, strokes.size, pen)
        scale = float(self._scaled(np.array([strokes.size]))[0][0])
        if scale != 1:
            picture = resize(picture, scale)
        return picture if self.augmentation is None else augment(picture, index, seed, epoch, self.augmentation)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `picture`; NaN without ink."""
        strokes, traces, pen = self._written(index, seed, epoch)
        boxes = boxes_of(strokes, traces, pen, int(self.lengths[index]))
        size = self._scaled(np.array([strokes.size]))[1][0]
        boxes *= np.tile(size / strokes.size, 2)[::-1].astype(np.float32)
        return boxes if self.augmentation is None else boxes_after(boxes, size, index, seed, epoch, self.augmentation)

    def strokes(self, index: int, seed: int, epoch: int) -> Strokes:
        """What is written of this picture, in pixels of full size, before strokes are distorted."""
        return self._written(index, seed, epoch)[0]

    def _plan(self, number: int, seed: int, epoch: int) -> Plan:
        """The plan of a chunk of labels. Those of one epoch are kept: alone, a picture takes as long as thirty."""
        if self._planned != (seed, epoch):
            self._planned, self._plans = (seed, epoch), {}
        if number not in self._plans:
            indices = np.arange(number * CHUNK, min((number + 1) * CHUNK, len(self)))
            self._plans[number] = self._planner.plan(indices, seed, epoch)
        return self._plans[number]

    def _scaled(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale (n,) and scaled sizes (n, 2) of pictures of these full sizes."""
        scales = np.minimum(self._scale, (self._limits / np.maximum(sizes, 1)).min(axis=1))
        return scales, np.maximum(np.rint(sizes * scales[:, None]), 1).astype(np.int32)

    def _written(self, index: int, seed: int, epoch: int) -> tuple[Strokes, list[np.ndarray], int]:
        """A picture's strokes, its traces as this epoch has them, and the pen. Kept until the next is asked for."""
        index = range(len(self))[index]  # an IndexError where there is no such picture, and -1 is the last
        if self._last[0] != (index, seed, epoch):
            strokes = self._planner.strokes(index, self._plan(index // CHUNK, seed, epoch), index % CHUNK)
            self._last = (
                (index, seed, epoch),
                (strokes, *vary(strokes, index, seed, epoch, self.stroke_augmentation)),
            )
        return self._last[1]
