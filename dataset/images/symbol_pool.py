"""The symbols of several libraries, by the ids of one vocabulary, and the hands in which synthetic ink is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset.images.simulated_symbols import SimulatedLibrary
from dataset.images.symbols import NO_IMAGE, SAME_LOOK, SymbolLibrary
from dataset.vocabulary import Vocabulary

# Hands whose distances, along and across the line, are not known, or beyond these shares of the typesetter's, are
# taken to these.
SPREAD, LIFT = (0.75, 1.9), (0.6, 1.9)


class Symbols(NamedTuple):
    """All symbols to draw with, and the hands to draw in.

    libraries: where their strokes are.   library, index: (D,) of each symbol, where in them.   tokens: (D,) vocabulary
    ids.   sizes, typeset: (D, 2) width and height in em, of the ink and of the box it was written for.
    levels: (D,) of the glyph there.   rises: (D,) em.   writers: (D,).
    ways: (writers, 2) slant and step of each, in standard deviations.
    hands: (P,) the writer of each image to follow.   spreads: (P, 2) along and across the line.
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

    def traces(self, number: int) -> list[np.ndarray]:
        """The traces of one of the D symbols: each float32 (points, 2) in em, from the symbol's left top."""
        library, symbol = self.libraries[self.library[number]], int(self.index[number])
        first, last = (int(library.symbol_trace_ends[each]) if each >= 0 else 0 for each in (symbol - 1, symbol))
        ends = library.trace_ends[first:last].tolist()
        starts = [int(library.trace_ends[first - 1]) if first else 0, *ends]
        return [library.points[start:end] for start, end in zip(starts, ends, strict=False)]


def medians(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The median of the values of each group, (count,); 1 where a group has none."""
    medians = np.ones(count)
    order = np.lexsort([values, groups])
    present, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
    medians[present] = values[order][first + counts // 2]
    return medians


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
        images = library.symbol_images[index]
        used = np.unique(images[images != NO_IMAGE])
        writers = np.zeros(len(library.image_writers) + 1, np.int64)
        known, writers[used] = np.unique(library.image_writers[used], return_inverse=True)
        writers[NO_IMAGE] = len(known)  # whoever wrote symbols that are from no image
        features = library.image_features[used]
        if not hands and len(used):  # those of the first library that has any
            spreads = _within_limits(features[:, 2:].astype(np.float64))
            hands = first_writer + writers[used], spreads, library.image_forms[used], library.image_widths[used]
        ways.append(_ways_of(features[:, :2], writers[used], len(known) + 1))
        sizes = library.sizes[index], library.typeset_sizes[index], library.levels[index], library.rises[index]
        parts.append((np.full(len(index), number), index, tokens[index], *sizes, first_writer + writers[images]))
        first_writer += len(known) + 1
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    ways = np.concatenate(ways)
    with np.errstate(invalid="ignore"):
        ways = (ways - _median(ways)) / np.maximum(np.nan_to_num(_deviation(ways), nan=1.0), 1e-6)
    libraries = tuple(library for library, _ in sources)
    return Symbols(libraries, *columns, np.nan_to_num(ways), *(hands or NOBODY))


# Whom to follow where no library knows an image: the typesetter, and the first writer.
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
    """The mean of each writer's images: (count, 2); NaN where none of them tells."""
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
