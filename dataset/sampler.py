"""Batches of images of many sizes: filled up to a memory budget, or of a fixed count.

Both samplers see sizes, never images, and speak the protocol of a `batch_sampler` for torch's DataLoader: they yield
lists of indices, know their exact length, and can be stopped and resumed at any batch. Every rank of a distributed run
makes the same plan from the same seed and takes its own share of it, so nothing is ever sent between ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

FORMER_KEYS = {"images": "pictures"}  # keys of a sampler's state by their names in older files
LANE = 2048  # images per lane of cheapest_cuts: enough batches that one forced cut at its end costs little
LANES_AT_ONCE = 32  # solved side by side; lanes of one group should have batches of similar counts


Sizes = np.ndarray | Callable[[int, int], np.ndarray]  # (N, 2) height and width, or made from (seed, epoch)
Shapes = tuple[tuple[int, int], ...]  # height and width of a batch's images, and of their partners where it has them


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How the epochs of a sampler come about, whatever fills its batches. Raises ValueError for an impossible rank.

    shuffle: whether epochs differ.   stride: pixels per feature position of the encoder; sides are rounded up to it.
    rank, world_size: this process among those that train together; each takes its own share of the batches.
    chosen: a function (seed, epoch) -> the indices that an epoch shows, where it does not show all.
    """

    seed: int = 0
    shuffle: bool = True
    stride: int = 16
    rank: int = 0
    world_size: int = 1
    chosen: Callable[[int, int], np.ndarray] | None = None

    def __post_init__(self):
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank: expected 0 <= rank < world_size, got rank {self.rank} of {self.world_size}")


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """What a batch costs beside its padded pixels, which are count x tallest x widest.

    lengths: (N,) tokens per label. The pixels then weigh (1 + token_cost x longest label), because attention keeps
        something for every token and feature position. `utils.training.memory.fit_memory` measures token_cost.
    partner_sizes: like sizes, of a second image that comes with each (alignment). Its padded area is added, times
        partner_cost: less than 1 where no gradient is kept for it. A function may return None: there are none.
    overhead: what a step costs beyond all that, as a share of max_pixels. The plan makes the sum of both least;
        larger means fewer, fuller batches with more padding.
    """

    lengths: np.ndarray | None = None
    token_cost: float = 0.001
    partner_sizes: np.ndarray | Callable[[int, int], np.ndarray | None] | None = None
    partner_cost: float = 1.0
    overhead: float = 0.1


EVERY_EPOCH, PIXELS_ALONE = EpochPlan(), BatchCost()


class BatchSampler:
    """What both samplers share: epochs, ranks, length, and resuming.

    The plan of an epoch is a row of *steps*; a step holds one batch for every rank, of nearly equal cost. All ranks
    have the same number of steps, and together they see every index exactly once. When the batches do not divide by
    the number of ranks, the largest are halved until they do. Only when there is nothing left to halve (fewer images
    than ranks, or single images alone) do some ranks get an **empty list** in one step: such a rank has no image
    to add, but must still take part in that step's exchange of gradients.

    A state is a plain dict of numbers. It resumes with exactly the batches that were left.
    """

    max_pixels: int | None = None  # the budget of a batch, where there is one

    def __init__(self, sizes: Sizes, limit: int, plan: EpochPlan):
        self.sizes = sizes if callable(sizes) else _checked_sizes(sizes)
        self.seed, self.shuffle, self.stride, self.chosen = plan.seed, plan.shuffle, plan.stride, plan.chosen
        self.rank, self.world_size = plan.rank, plan.world_size
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out
        self._limits = [(0, limit)]  # (position, limit): from this position on, batches are cut by this limit
        self._is_resumed = False
        self._batches = None  # (steps, world_size, 2): first and last + 1 index in self._order; None: not planned yet
        self._tops = None  # (steps, world_size, measures): the largest measures in each batch, 0 where it is empty

    def set_epoch(self, epoch):
        """Begin another epoch. The epoch that is under way, or was just loaded, is left as it is."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._begin()

    def _begin(self):
        self.position = 0
        self._limits = [(0, self._limits[-1][1])]
        self._is_resumed = False
        self._batches = None

    def __len__(self):
        """Batches of this rank in the whole epoch: those handed out and those to come."""
        self._plan()
        return len(self._batches)

    def __iter__(self):
        return (indices for indices, _ in self.with_shapes())

    def with_shapes(self) -> Iterator[tuple[list[int], Shapes | None]]:
        """The batches as iterating gives them, each with the shapes to pad it to; None: to its largest images."""
        if self.position and not self._is_resumed:
            self._begin()
        self._is_resumed = False
        self._plan()
        return self._remaining()

    def _remaining(self):
        while self.position < len(self):
            start, end = self._batches[self.position, self.rank]
            shapes = self._shapes_of(self._tops[self.position, self.rank]) if end > start else None
            self.position += 1
            yield self._order[start:end].tolist(), shapes

    def batches_of(self, step):
        """The indices of every rank's batch in a step of this epoch: world_size arrays, empty ones included."""
        self._plan()
        return [self._order[start:end] for start, end in self._batches[step]]

    def state_dict(self, position=None):
        """Everything that resuming needs, as numbers.

        position: batches of this epoch that were really trained on; a loader with workers has asked for more than
        that. Default: all that were handed out.
        """
        return self._identity() | {
            "epoch": self.epoch,
            "position": self.position if position is None else position,
            "limits": [list(entry) for entry in self._limits],
        }

    def load_state_dict(self, state):
        """Continue as the sampler that gave this state would have. ValueError when it was another run or data set."""
        self.epoch = state["epoch"]
        self._limits = [tuple(entry) for entry in state["limits"]]
        self._batches = None
        self.position = state["position"]
        self._is_resumed = True
        for key, here in self._identity().items():
            saved = state.get(key, state.get(FORMER_KEYS.get(key)))
            if saved != here:
                raise ValueError(f"sampler state: {key} was {saved} when it was saved and is {here} now")

    def _identity(self):
        self._plan()
        area = int(self._sizes_now.prod(axis=1, dtype=np.int64).sum())
        return {"seed": self.seed, "world_size": self.world_size, "images": len(self._sizes_now), "area": area}

    def summary(self):
        """Facts about this epoch's plan, of all ranks together, for the log.

        padding: share of the computed pixels that lie outside the images. Computed pixels are count x tallest x
        widest of each batch, both rounded up to the stride, or to the sampler's shapes.
        shapes: how many different ones (tallest, widest) there are.
        """
        counts, tops = self._filled_batches()
        if len(counts) == 0:
            return dict.fromkeys(("batches", "images", "largest_batch", "pixels", "shapes"), 0) | dict.fromkeys(
                ("padding", "mean_batch"), 0.0
            )
        shapes = tops[:, :2].astype(np.int64)
        computed = int((counts * shapes.prod(axis=1)).sum())
        shown = np.concatenate([self._order[start:end] for start, end in self._batches.reshape(-1, 2)])
        return {
            "batches": len(counts),
            "images": int(counts.sum()),
            "padding": 1 - int(self._sizes_now[shown].prod(axis=1, dtype=np.int64).sum()) / computed,
            "mean_batch": float(counts.mean()),
            "largest_batch": int(counts.max()),
            "pixels": computed,
            "shapes": len(np.unique(shapes, axis=0)),
        }

    def _filled_batches(self):
        """Count (batches,) and largest measures (batches, measures) of the plan's batches, without the empty ones."""
        self._plan()
        spans, tops = self._batches.reshape(-1, 2), self._tops.reshape(-1, self._tops.shape[-1])
        is_filled = spans[:, 1] > spans[:, 0]
        return (spans[:, 1] - spans[:, 0])[is_filled], tops[is_filled]

    def _plan(self):
        """Make the plan of this epoch, unless it is there: one layer for every limit that was in force."""
        if self._batches is None:
            sizes = self.sizes
            self._sizes_now = _checked_sizes(sizes(self.seed, self.epoch)) if callable(sizes) else sizes
            self._rounded = _round_up(self._sizes_now, self.stride)
            self._measure()
            self._order = np.empty(0, np.int64)
            self._batches = np.empty((0, self.world_size, 2), np.int64)
            self._tops = np.empty((0, self.world_size, len(self._columns)))
            for layer in range(len(self._limits)):
                self._plan_rest(layer)

    def _plan_rest(self, layer):
        """Keep the steps up to the layer's position, and plan again what they leave over."""
        position, limit = self._limits[layer]
        kept = self._batches[:position]
        if self.chosen is None:
            is_left = np.ones(len(self._sizes_now), bool)
        else:
            is_left = np.zeros(len(self._sizes_now), bool)
            is_left[self.chosen(self.seed, self.epoch)] = True
        for start, end in kept.reshape(-1, 2):
            is_left[self._order[start:end]] = False
        random = np.random.default_rng([self.seed, self.epoch, layer])
        order, ends, costs = self._cut(np.flatnonzero(is_left), limit, random)
        steps = _deal(ends, costs, self.world_size, random if self.shuffle else None)
        tops = _largest_of_spans([column[order] for column in self._columns_within(limit)], steps)
        self._tops = np.concatenate([self._tops[:position], tops])
        self._batches = np.concatenate([kept, steps + len(self._order)])
        self._order = np.concatenate([self._order, order])

    def _measure(self):
        """Look at an epoch's sizes once, before they are cut, and keep them as columns."""
        self._columns = [column.astype(np.float64) for column in self._rounded.T]

    def _columns_within(self, limit):
        """The measures of all images, (N,) each, as the batches of this limit count them: height and width first."""
        return self._columns

    def _shapes_of(self, tops):
        """The shapes to pad a batch to whose largest measures are `tops`; None: to its largest images."""
        return None

    def _cut(self, members, limit, random):
        """Put the members (n,) in an order and cut it. Returns order (n,), ends (batches,), costs (batches,)."""
        raise NotImplementedError


class FixedBatchSampler(BatchSampler):
    """Batches of `batch_size` images: at random, as everyone does it, or of like size, with less padding."""

    def __init__(self, sizes: Sizes, batch_size: int, pool: int = 1, plan: EpochPlan = EVERY_EPOCH):
        """sizes: as for AdaptiveBatchSampler.

        pool: so many batches are drawn at random together, and dealt among themselves by size. 1: at random alone.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size}")
        self.pool = pool
        super().__init__(sizes, batch_size, plan)

    def _cut(self, members, limit, random):
        order = random.permutation(members) if self.shuffle else members
        if self.pool > 1:
            # In each pool as many strips by width as there are batches in a strip, and these by height: up, down, up …
            position = np.arange(len(order))
            pools = position // (limit * self.pool)
            height, width = self._rounded[order].T
            by_width = np.lexsort((width, pools))
            order, height = order[by_width], height[by_width]
            strips = position % (limit * self.pool) // (limit * math.ceil(math.sqrt(self.pool)))
            order = order[np.lexsort((np.where(strips % 2, -height, height), strips, pools))]
        ends = np.minimum(np.arange(limit, len(order) + limit, limit), len(order))
        return order, ends, np.diff(ends, prepend=0)


class AdaptiveBatchSampler(BatchSampler):
    """The Adaptive Batch Sampler: every batch is filled up to a budget of padded pixels, with images of like size.

    The plan of an epoch is made in two moves. First the images are laid out in one long row, a snake through the
    plane of sizes: strips of equal work by one side, and within a strip by the other side, up and down in turn. Then
    the row is cut at the positions that make the epoch cheapest (`cheapest_cuts`).

    Epochs differ: strips go by height and by width in turn and begin at random positions, equal sizes are shuffled, and
    `mixing` lends some images to the neighbors. Batches come in random order.

    With `shapes`, sides are rounded up further, to those of a grid (`choose_grid`): an epoch then has few different
    shapes of batches, for what is slow when it meets a new one, such as a compiler or a search for the best kernel.
    """

    def __init__(
        self,
        sizes: Sizes,
        max_pixels: int,
        max_samples: int | None = None,
        cost: BatchCost = PIXELS_ALONE,
        mixing: float | None = None,
        plan: EpochPlan = EVERY_EPOCH,
        shapes: int | None = None,
    ):
        """All but two arguments have defaults.

        sizes: (N, 2) integers, height and width in pixels, or a function (seed, epoch) -> (N, 2) where augmentation
            makes sizes that differ from epoch to epoch.
        max_pixels: what a batch may cost at most. A batch costs count x tallest x widest, with both sides rounded up
            to the plan's stride. A single image that costs more has a batch of its own, and is counted in `oversize`.
        max_samples: images in a batch at most.
        cost: what counts beside pixels.
        mixing: share of the images that are filed one stride larger than they are. Without it, images of static
            sizes keep half or more of their neighbors in a batch. Default: 0.3, or 0 where the sizes of two epochs
            differ anyhow.
        plan: without `shuffle`, every epoch is alike and the costliest batches come first: trouble shows at once.
        shapes: so many different shapes of batches an epoch has at most, and as many of the partners. The grid is
            that of epoch 0, its last sides growing to an epoch's largest. The budget goes first: an image that would
            cost more than max_pixels alone when its sides are rounded so far keeps its own size.
        """
        if shapes is not None and shapes < 1:
            raise ValueError(f"shapes: expected a positive integer or None, got {shapes}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels: expected a positive number, got {max_pixels}")
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples: expected a positive integer or None, got {max_samples}")
        self.max_samples, self.mixing, self.shapes = max_samples, mixing, shapes
        self._grids = None  # of the images, and of the partners where there are any
        self.lengths = None if cost.lengths is None else np.asarray(cost.lengths)
        self.token_cost, self.overhead = cost.token_cost, cost.overhead
        self.partner_sizes, self.partner_cost = cost.partner_sizes, cost.partner_cost
        super().__init__(sizes, max_pixels, plan)

    @property
    def max_pixels(self):
        return self._limits[-1][1]

    def set_max_pixels(self, max_pixels):
        """Change the budget, now: what was not handed out yet is planned again, and len() is exact again.

        In a distributed run every rank must call this between the same two batches.
        """
        if max_pixels < 1:
            raise ValueError(f"max_pixels: expected a positive number, got {max_pixels}")
        while self._limits and self._limits[-1][0] >= self.position:
            self._limits.pop()
        self._limits.append((self.position, max_pixels))
        if self.position == 0:
            self._batches = None
        elif self._batches is not None:
            self._plan_rest(len(self._limits) - 1)

    @property
    def oversize(self):
        """How many images cost more than max_pixels alone."""
        self._plan()
        return int((self._cost(self._columns, 1) > self.max_pixels).sum())

    def summary(self):
        """As BatchSampler.summary, with the budget, and what the costliest batch takes of it."""
        counts, tops = self._filled_batches()
        costliest = float(self._cost(tops.T, counts).max(initial=0))
        return super().summary() | {
            "max_pixels": self.max_pixels,
            "costliest_batch": costliest,
            "oversize": self.oversize,
        }

    def _measure(self):
        super()._measure()
        if self.mixing is None:
            is_static = not callable(self.sizes) or np.array_equal(self.sizes(self.seed, 0), self.sizes(self.seed, 1))
            self.mixing = 0.3 if is_static else 0.0
        if self.lengths is not None:
            self._columns.append(self.lengths.astype(np.float64))
        partners = self._partners_of(self.epoch)
        self._has_partners = partners is not None
        if self._has_partners:
            self._columns.extend(partners.T.astype(np.float64))
        if any(len(column) != len(self._rounded) for column in self._columns):
            raise ValueError(f"lengths and partner_sizes: expected one entry for each of {len(self._rounded)} sizes")
        self._on_grid = self._rounded_to_grid() if self.shapes and len(self._rounded) else None

    def _partners_of(self, epoch):
        """(N, 2) sides of the partners, rounded up to the stride; None where there are none."""
        partners = self.partner_sizes
        partners = partners(self.seed, epoch) if callable(partners) else partners
        return None if partners is None else _round_up(_checked_sizes(partners), self.stride)

    def _rounded_to_grid(self):
        """self._columns, their sides rounded up to those of the grids, which are the same in every epoch."""
        if self._grids is None:
            first = self.sizes(self.seed, 0) if callable(self.sizes) else self.sizes
            kinds = [_round_up(_checked_sizes(first), self.stride), self._partners_of(0)]
            self._grids = [choose_grid(sizes, self.shapes) for sizes in kinds if sizes is not None]
        columns = list(self._columns)
        lines = [line for grid in self._grids for line in grid]
        for index, line in zip((0, 1, -2, -1), lines, strict=False):
            largest = max(line[-1], columns[index].max())
            line = np.append(line[:-1], largest)
            columns[index] = line[np.searchsorted(line, columns[index])].astype(np.float64)
        return columns

    def _columns_within(self, limit):
        if self._on_grid is None:
            return self._columns
        is_too_large = self._cost(self._on_grid, 1) > limit
        pairs = zip(self._columns, self._on_grid, strict=True)
        return [np.where(is_too_large, own, on_grid) for own, on_grid in pairs]

    def _shapes_of(self, tops):
        if self._on_grid is None:
            return None
        height, width, *_ = sides = tops.astype(int).tolist()
        return ((height, width), tuple(sides[-2:])) if self._has_partners else ((height, width),)

    def _cost(self, tops, count):
        """What `count` images cost whose largest measures are `tops`, in the order of self._columns."""
        cost = tops[0] * tops[1] * count
        if self.lengths is not None:
            cost = cost * (1 + self.token_cost * tops[2])
        if self._has_partners:
            cost = cost + tops[-2] * tops[-1] * (count * self.partner_cost)
        return cost

    def _cut(self, members, limit, random):
        columns = [column[members] for column in self._columns_within(limit)]
        row = self._row(columns, limit, random)
        columns = [column[row] for column in columns]
        ends, costs = cheapest_cuts(columns, self._cost, limit, self.overhead * limit, self.max_samples)
        return members[row], ends, costs

    def _row(self, columns, limit, random):
        """Lay n images in a row so that neighbors are alike. Returns the order, (n,) indices."""
        work = self._cost(columns, 1)
        if len(work) < 2:
            return np.arange(len(work))
        sides = [columns[0], columns[1]]
        is_by_width = 0
        if self.shuffle:
            longer = int(sides[1].mean() > sides[0].mean())  # one stride more costs least on the longer side
            is_moved = random.random(len(work)) < self.mixing
            sides[longer] = sides[longer] + self.stride * is_moved
            is_by_width = self.epoch % 2
        across, along = sides[is_by_width], sides[1 - is_by_width]

        # As many strips as make a batch's share of both sides' spread equal: padding is then least.
        batches = max(1.0, 1.15 * work.sum() / limit)
        spread = [np.log(side).std() + 1e-3 for side in (across, along)]
        strips = min(max(1.0, np.sqrt(batches * spread[0] / spread[1])), batches)

        shuffled = random.permutation(len(work)) if self.shuffle else np.arange(len(work))  # orders what is equal
        order = shuffled[np.lexsort((along[shuffled], across[shuffled]))]
        begun = np.cumsum(work[order]) / work.sum() * strips
        strip = np.empty(len(work))
        strip[order] = np.floor(begun + (random.random() if self.shuffle else 0.0))
        snake = np.where(strip % 2 == 0, along, -along)
        return shuffled[np.lexsort((across[shuffled], snake[shuffled], strip[shuffled]))]


def cheapest_cuts(columns, cost_of, max_cost, overhead, max_samples=None):
    """Cut a row of images into batches at the least total cost.

    columns: list of (n,) arrays, the measures of each image (height, width …).
    cost_of(tops, count): cost of `count` images whose largest measures are `tops`; must not fall when these grow.
    max_cost: no batch costs more, but for single images. overhead: added to the cost of each batch.
    Returns ends (batches,), the index after each batch's last image, and costs (batches,), overhead not counted.

    Dynamic programming over the position of the last cut, as TeX breaks a paragraph into lines (Knuth and Plass 1981).
    The row is cut beforehand into lanes that are solved side by side, because numpy is quick only over many numbers.
    Time grows with n x images in a batch: set max_samples where images are so small that thousands fit into one.
    """
    n = len(columns[0])
    if n == 0:
        return np.empty(0, np.int64), np.empty(0)
    lanes = max(1, round(n / LANE))
    length = -(-n // lanes)
    missing = lanes * length - n  # filled up in front of the first lane, where no cut of the others depends on it
    tops = [np.concatenate([np.full(missing, np.inf), column]).reshape(lanes, length) for column in columns]

    # A batch that begins at a position ends no later than its first image alone, or any later batch, allows.
    positions = np.arange(length)
    alone = cost_of(tops, 1)
    reach = np.clip(max_cost // alone, 1, max_samples or n).astype(np.int64)
    reach = np.minimum(positions + reach, length)[:, ::-1]
    reach = np.minimum.accumulate(reach, axis=1)[:, ::-1]

    counts = np.arange(1, length + 1, dtype=np.float64)
    next_cut = np.empty((lanes, length), np.int64)  # where the best batch that begins here ends
    by_reach = np.argsort((reach - positions).max(axis=1))
    for first in range(0, lanes, LANES_AT_ONCE):
        group = by_reach[first : first + LANES_AT_ONCE]
        row = np.arange(len(group))
        largest = [top[group] for top in tops]  # [:, p]: of all from `position` to p, as position moves to the front
        ahead = reach[group].max(axis=0)
        rest = np.zeros((len(group), length + 1))  # least cost of everything from here on
        for position in reversed(range(length)):
            end = ahead[position]
            for measure in largest:
                window = measure[:, position + 1 : end]
                np.maximum(window, measure[:, position, None], out=window)
            cost = cost_of([measure[:, position:end] for measure in largest], counts[: end - position])
            np.copyto(cost[:, 1:], np.inf, where=cost[:, 1:] > max_cost)
            cost += rest[:, position + 1 : end + 1]
            best = cost.argmin(axis=1)
            rest[:, position] = cost[row, best] + overhead
            next_cut[group, position] = position + 1 + best

    ends = []
    for lane in range(lanes):
        position = 0 if lane else missing
        while position < length:
            position = next_cut[lane, position]
            ends.append(lane * length + position - missing)
    ends = np.array(ends)
    starts = np.concatenate([[0], ends[:-1]])
    return ends, cost_of([np.maximum.reduceat(column, starts) for column in columns], ends - starts)


def choose_grid(sizes: np.ndarray, shapes: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights (k,) and widths (m,), rising, k x m <= shapes, to round sizes up to so that their area grows least.

    sizes: (N, 2), N > 0. The largest sides are always among those chosen. For each k, heights are chosen for given
    widths and widths for given heights, in turn, each time the best there are (`_best_sides`).
    """
    best = None
    for count in range(1, shapes + 1):
        if shapes // (count + 1) == shapes // count:
            continue  # a height more costs no width
        rounded, lines = sizes.astype(np.float64), [None, None]
        for side in 4 * (0, 1):
            lines[side] = _best_sides(sizes[:, side], rounded[:, 1 - side], (count, shapes // count)[side])
            rounded[:, side] = lines[side][np.searchsorted(lines[side], sizes[:, side])]
        area = rounded.prod(axis=1).sum()
        if best is None or area < best[0]:
            best = area, lines
    return tuple(best[1])


def _best_sides(sides: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the sides, rising, such that rounding all (N,) up to them adds least, each by its weight.

    Dynamic programming over the largest side of a group, from group to group.
    """
    values, which = np.unique(sides, return_inverse=True)
    weight_below = np.concatenate([[0.0], np.cumsum(np.bincount(which, weights))])
    cost = values * (weight_below[1:] - weight_below[:-1, None])  # [i, j - 1]: of values[i:j] as a group
    cost[np.tri(*cost.shape, -1, dtype=bool)] = np.inf
    least, begins = cost[0], []  # least[j - 1]: of values[:j] in so many groups
    for _ in range(1, min(count, len(values))):
        total = cost[1:] + least[:-1, None]  # the last group begins at i + 1
        begins.append(np.concatenate([[0], total[:, 1:].argmin(axis=0) + 1]))
        least = np.concatenate([[least[0]], total[:, 1:].min(axis=0)])
    chosen, last = [], len(values) - 1
    for begin in reversed(begins):
        chosen.append(values[last])
        last = max(begin[last] - 1, 0)
    return np.unique([*chosen, values[last]])


def _largest_of_spans(columns, spans):
    """The largest of each (n,) column in each span of positions, (…, 2): (…, columns), 0 where a span is empty."""
    starts, ends = spans.reshape(-1, 2).T
    filled = np.flatnonzero(ends > starts)
    filled = filled[np.argsort(starts[filled])]  # side by side they hold every position once
    largest = np.zeros((len(starts), len(columns)))
    if len(filled):
        largest[filled] = np.stack([np.maximum.reduceat(column, starts[filled]) for column in columns], axis=1)
    return largest.reshape(*spans.shape[:-1], len(columns))


def _deal(ends, costs, world_size, random):
    """Deal batches to ranks: (steps, world_size, 2) first and last + 1 index of each rank's batch in each step.

    A step lasts as long as its costliest batch, so batches of like cost share one. random: None keeps the steps in
    order of falling cost.
    """
    spans = list(zip([0, *ends[:-1]], ends, strict=True)) if len(ends) else []
    costs = list(costs)
    while len(spans) % world_size:
        largest = max(range(len(spans)), key=lambda b: spans[b][1] - spans[b][0])
        start, end = spans[largest]
        if end - start < 2:
            spans.append((start, start))  # nothing to halve: an empty batch
            costs.append(0.0)
        else:
            middle = (start + end) // 2
            spans[largest] = (start, middle)
            spans.append((middle, end))
            costs.append(costs[largest] * (end - middle) / (end - start))
            costs[largest] -= costs[-1]
    steps = np.array(spans, np.int64).reshape(-1, 2)[np.argsort(-np.array(costs), kind="stable")]
    steps = steps.reshape(-1, world_size, 2)
    if random is not None:
        steps = random.permutation(steps)
        if world_size > 1:  # no rank always gets the largest
            turns = np.argsort(random.random(steps.shape[:2]), axis=1)
            steps = np.take_along_axis(steps, turns[:, :, None], axis=1)
    return steps


def _round_up(sizes, stride):
    return -(-sizes // stride) * stride


def _checked_sizes(sizes):
    sizes = np.asarray(sizes)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not np.issubdtype(sizes.dtype, np.integer):
        raise ValueError(f"sizes: expected an (N, 2) array of integers, got {sizes.shape} of {sizes.dtype}")
    if len(sizes) and sizes.min() < 1:
        raise ValueError(f"sizes: expected heights and widths of 1 px or more, got {sizes[sizes.min(axis=1).argmin()]}")
    return sizes.astype(np.int64, copy=False)
