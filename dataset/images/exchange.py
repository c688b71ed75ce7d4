"""Symbols of other hands in the layout of an image: real ink that nobody wrote in one piece.

    donors = Donors(gather(sources, vocabulary), vocabulary)
    Exchange(donors, share=0.3)                                     # some symbols become others of the same token
    Exchange(donors, share=0.3, renaming=Renaming(…))               # and some become other tokens

What is exchanged is as large as before, and in the same place; what becomes another token is larger and higher by as
much as people write it so. The rest stays as it was written.

A renamed image shows a formula that is new in a layout that is real, so that what is learned by heart of the training
labels says less. A name changes everywhere in a formula, `x ^ 2 + x` to `a ^ 2 + a`; digits, signs and functions change
one by one. Mostly a symbol becomes another of its class, and now and then a digit or a name becomes any other: below a
bar stands a 2 more often than a z, and yet both are to be read as they are written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from dataset.images.strokes import Strokes, fill
from dataset.images.symbol_pool import Symbols, medians
from dataset.latex.expressions import CHANGE, CLASS, NAMES, SPELLED
from dataset.renderer import layout
from dataset.vocabulary import SPECIALS, Vocabulary
from utils.draws import uniform

# The place of an image's draws among those of `uniform`: behind those of its strokes. A label's are drawn with a seed
# and an epoch of their own, as it must not change.
FIRST_DRAW = 900_000
FIXED = frozenset({r"\frac", r"\dfrac", r"\tfrac", r"\sqrt"})  # they are as large as what they hold
SAMPLES = 4  # of one hand, among which the symbols of a token in an image are chosen
LEAST_EM = 0.1  # of a side, where proportions are compared
LARGEST_RATIO = 3.5  # of a symbol's proportions to those usual for its token; beyond it, it is cut badly
LEAST_SIDE = 1.0  # pixels of a side that is to be filled
PROPORTIONS = (0.6, 1.6)  # by which sides may be stretched towards those of the symbol that is replaced
# A symbol becomes none that is so much wider, which would lie over its neighbors, and none so small, such as a dot.
WIDEST, LEAST = 2.0, 0.4
ORDINARY = NAMES | CLASS["0"]
OF_ANOTHER_CLASS = 0.3  # of ordinary symbols that change, so many do to one of another class
VARIANTS = 8  # of every image of renamed ink, each with a label of its own


class Donors:
    """Symbols to put in the place of others, by token and writer. Cheap to pickle."""

    def __init__(self, symbols: Symbols, vocabulary: Vocabulary):
        """symbols: by the ids of this vocabulary."""
        self.symbols = symbols
        tokens = [*SPECIALS, *vocabulary.tokens]
        self._is_fixed = np.array([token in FIXED for token in tokens])
        self._boxes = _usual_boxes(symbols, tokens)
        usable = np.flatnonzero(_is_well_cut(symbols))
        self._order = usable[np.lexsort([symbols.writers[usable], symbols.tokens[usable]])]
        self._starts = np.searchsorted(symbols.tokens[self._order], np.arange(len(tokens) + 1))

    def __len__(self) -> int:
        """The ids of the vocabulary."""
        return len(self._is_fixed)

    def __contains__(self, token: int) -> bool:
        """Whether symbols of a token may be put in the place of others."""
        return token >= 0 and bool(self._starts[token] < self._starts[token + 1]) and not self._is_fixed[token]

    def may_become(self, token: int, others: np.ndarray) -> np.ndarray:
        """Which of the other tokens fit where a symbol of this one stands: bool, one for each."""
        own, new = self._boxes[token], self._boxes[others]
        return (new[:, 0] < WIDEST * own[0]) & (new[:, 1] > LEAST * own[1])

    def traces(
        self, token: int, hand: float, sample: float, low: np.ndarray, high: np.ndarray, written: int
    ) -> list[np.ndarray]:
        """A symbol to replace one of the token `written`, which lies in the box from `low` to `high`, (2,) x and y.

        Of the same token, it lies in the middle of that box, with its diagonal, half way to its proportions.
        hand, sample: draws, 0..1: which writer's symbol, and which of the writer's.
        """
        start, stop = int(self._starts[token]), int(self._starts[token + 1])
        number = min(start + int(hand * (stop - start)) + int(sample * SAMPLES), stop - 1)
        traces = self.symbols.traces(int(self._order[number]))
        own, wanted = np.ptp(np.concatenate(traces), axis=0), np.maximum(high - low, LEAST_SIDE)
        scale, middle = np.hypot(*wanted) / max(np.hypot(*own), 1e-3), (low + high) / 2
        if token == written:
            scale = scale * np.clip(np.sqrt(wanted / np.maximum(own, 1e-3) / scale), *PROPORTIONS)
        else:
            (_, old, old_middle), (_, new, new_middle) = self._boxes[written], self._boxes[token]
            scale = scale * new / old
            middle = middle + [0, (new_middle - old_middle) * np.hypot(*wanted) / old]
        return [((trace - own / 2) * scale + middle).astype(np.float32) for trace in traces]


def _usual_boxes(symbols: Symbols, tokens: list[str]) -> np.ndarray:
    """(V, 3) em: width and diagonal of each token as people write it on the line, and how far below the baseline its
    middle is; NaN for what never becomes another token.

    The typesetter's, and of those the share that people write.
    """
    typeset = np.full((len(tokens), 3), np.nan)
    for number, token in enumerate(tokens):
        if token in CLASS:
            box = layout(token)
            typeset[number] = box.width, np.hypot(box.width, box.height + box.depth), (box.depth - box.height) / 2
    shares = np.hypot(*symbols.sizes.T) / np.maximum(np.hypot(*symbols.typeset.T), LEAST_EM)
    return typeset * medians(shares, symbols.tokens, len(tokens))[:, None]


def _is_well_cut(symbols: Symbols) -> np.ndarray:
    """(D,) bool: whether a symbol has about the proportions of others of its token."""
    sides = np.log(np.maximum(symbols.sizes, LEAST_EM))
    proportions = sides[:, 0] - sides[:, 1]
    usual = medians(proportions, symbols.tokens, int(symbols.tokens.max()) + 1)[symbols.tokens]
    return np.abs(proportions - usual) < np.log(LARGEST_RATIO)


class Renaming:
    """Which labels become which: a pure function of label, strokes and index."""

    def __init__(self, donors: Donors, vocabulary: Vocabulary, counts: np.ndarray, held_out: Collection[str]):
        """counts: (V,) how often each token is in the labels; with the square root of that, others become it.

        held_out: labels, as text, that must stay unseen.
        """
        self.vocabulary, self.held_out = vocabulary, frozenset(held_out)
        ids = {token: vocabulary.encode([token])[0] for token in vocabulary.tokens if token in CLASS}
        ids = {token: number for token, number in ids.items() if counts[number] and number in donors}
        numbers = np.array(list(ids.values()), np.int64)
        roots = np.sqrt(counts[numbers])
        # For each token that can change: whether it is a name, what it may become, and up to which draw.
        self._others: dict[int, tuple[bool, np.ndarray, np.ndarray]] = {}
        for token, number in ids.items():
            fits = roots * donors.may_become(number, numbers)
            own = fits * [CLASS[name] is CLASS[token] for name in ids]
            strange = (fits - own) * [{name, token} <= ORDINARY for name in ids]
            chances = own / own.sum()
            if strange.any():
                chances = (1 - OF_ANOTHER_CLASS) * chances + OF_ANOTHER_CLASS * strange / strange.sum()
            ends = np.cumsum(chances)
            self._others[number] = token in NAMES, numbers, ends / ends[-1]

    def label(self, written: np.ndarray, strokes: Strokes, index: int) -> np.ndarray:
        """int32 ids, as many as were written; the same ones where nothing can change, or what it gives is held out.

        written: (L,) ids.   strokes: of the image; what has none does not change, nor does a name that is also there.
        """
        words = self.vocabulary.decode(written)
        if not SPELLED.isdisjoint(words):
            return written
        count = len(written) + len(self.vocabulary)  # of places, then of names
        draws = uniform(0, 0, np.array([index]), 2 * count, FIRST_DRAW)[0].reshape(-1, 2)
        drawn = strokes.traces_of(len(written))
        unseen = {token for place, token in enumerate(written.tolist()) if place not in drawn}
        renamed = written.copy()
        for place in drawn:
            token = int(written[place])
            is_name, others, chances = self._others.get(token, (False, None, None))
            changes, which = draws[len(written) + token if is_name else place]
            if others is not None and changes < CHANGE and not (is_name and token in unseen):
                renamed[place] = others[np.searchsorted(chances, which, side="right")]
        return written if " ".join(self.vocabulary.decode(renamed)) in self.held_out else renamed


@dataclass(frozen=True)
class Exchange:
    """What HandwrittenImages are given to exchange symbols.

    share: of symbols that become others of their token, on average over images: one has none to twice as many.
    renaming: None: labels stay as they are.
    """

    donors: Donors
    share: float
    renaming: Renaming | None = None

    def label(self, written: np.ndarray, strokes: Strokes, index: int) -> np.ndarray:
        return written if self.renaming is None else self.renaming.label(written, strokes, index)

    def strokes(self, strokes: Strokes, written: np.ndarray, index: int, seed: int, epoch: int) -> Strokes:
        """The strokes of an image of this index in this epoch, before they are distorted.

        written: (L,) ids of the label that the strokes were written for.
        """
        label, owners = self.label(written, strokes, index), strokes.traces_of(len(written))
        draws = uniform(seed, epoch, np.array([index]), 1 + 2 * len(label) + len(self.donors), FIRST_DRAW)[0]
        of_places, of_tokens = draws[1 : 1 + 2 * len(label)].reshape(-1, 2), draws[1 + 2 * len(label) :]
        is_chosen = (of_places[:, 0] < 2 * self.share * draws[0]) | (label != written)
        places = [place for place in owners if is_chosen[place] and int(label[place]) in self.donors]
        replaced = {trace for place in places for trace in owners[place]}
        kept = [trace for trace in range(len(strokes.traces)) if trace not in replaced]
        number = {trace: place for place, trace in enumerate(kept)}
        traces, indices = [strokes.traces[trace] for trace in kept], list(strokes.indices)
        symbols = [[number[trace] for trace in symbol if trace in number] for symbol in strokes.symbols]
        for place in places:
            old = np.concatenate([strokes.traces[trace] for trace in owners[place]])
            # By and large one hand for all symbols of a token in an image: those of a writer stand together.
            draws_of_symbol = of_tokens[label[place]], of_places[place, 1]
            box = old.min(axis=0), old.max(axis=0)
            new = self.donors.traces(int(label[place]), *draws_of_symbol, *box, int(written[place]))
            symbols.append(list(range(len(traces), len(traces) + len(new))))
            indices.append(place)
            traces += new
        return Strokes(fill(traces, strokes.size), symbols, indices, strokes.size) if places else strokes
