"""Scores of predicted token sequences against references, their confidence intervals, and tests between two systems.

ExpRate is token-exact: the share of expressions read without a single wrong token. The `<=k` rates count
expressions with at most k edits (Levenshtein over tokens), the convention of the published systems. A missing or an
empty prediction is wrong in every token, and is not within k edits of anything, however short its reference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

RESAMPLES = 2000
MAX_INDICES = 2**22  # of resampled items, in memory at a time
AT_MOST = (1, 2, 3)


def edit_distance(reference: Sequence, prediction: Sequence) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein 1966)."""
    return Levenshtein.distance(reference, prediction)


def align(reference: Sequence, prediction: Sequence) -> list[tuple[int | None, int | None]]:
    """The fewest edits as pairs of indices, from left to right.

    (3, 4): token 4 was read for token 3, rightly or wrongly.   (3, None): nothing was.   (None, 4): read for nothing.
    Where several alignments are as short, a replacement goes before the others, from the end of both. The alignment of
    rapidfuzz prefers an insertion with a deletion there, which would hide which symbol was read for which.
    """
    rows = [list(range(len(prediction) + 1))]
    for i, wanted in enumerate(reference, 1):
        above, row = rows[-1], [i]
        for j, got in enumerate(prediction, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted != got)))
        rows.append(row)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(reference), len(prediction)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (reference[i - 1] != prediction[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def aligned_tokens(
    reference: Sequence[str], prediction: Sequence[str], structure_tokens: Collection[str]
) -> Iterator[tuple[str, str]]:
    """What was read for what along the fewest edits, rightly or wrongly: pairs of tokens, "" for nothing.

    A sign is not confused with a mark of structure: that is one too few and one too many.
    """
    for i, j in align(reference, prediction):
        wanted, read = "" if i is None else reference[i], "" if j is None else prediction[j]
        if wanted and read and (wanted in structure_tokens) != (read in structure_tokens):
            yield wanted, ""
            yield "", read
        else:
            yield wanted, read


def differing(reference: Sequence, prediction: Sequence) -> tuple[list[bool], list[bool]]:
    """Which tokens of each differ from the other: replaced, missing there, or too many here."""
    marks = [True] * len(reference), [True] * len(prediction)
    for i, j in align(reference, prediction):
        if i is not None and j is not None and reference[i] == prediction[j]:
            marks[0][i] = marks[1][j] = False
    return marks


def percent(count: float, of: float) -> float:
    return round(100 * count / of, 4) if of else 0.0


def rates(errors: Sequence[int], lengths: Sequence[int], is_read: Sequence[bool]) -> dict[str, float]:
    """Rates in percent over all items.   errors: edits of each.   lengths: tokens of its reference.

    is_read: False where there is no prediction, or an empty one.

    Returns exprate, at_most_1, at_most_2, at_most_3 and token_error_rate (edits per token of the references).
    """
    errors, is_read = np.asarray(errors, np.int64), np.asarray(is_read, bool)
    at_most = {k: percent(int((is_read & (errors <= k)).sum()), len(errors)) for k in (0, *AT_MOST)}
    return {
        "exprate": at_most[0],
        **{f"at_most_{k}": at_most[k] for k in AT_MOST},
        "token_error_rate": percent(int(errors.sum()), sum(lengths)),
    }


def scores(references: Sequence[Sequence], predictions: Sequence[Sequence | None]) -> dict[str, float]:
    """Scores in percent over all items; a missing (None) or empty prediction is wrong in every token.

    Returns items, exprate, at_most_1, at_most_2, at_most_3 and token_error_rate (edits per token of the references).
    """
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} references, {len(predictions)} predictions")
    lengths = [len(reference) for reference in references]
    is_read = [bool(prediction) for prediction in predictions]
    errors = [
        edit_distance(reference, prediction or ())
        for reference, prediction in zip(references, predictions, strict=True)
    ]
    return {"items": len(references), **rates(errors, lengths, is_read)}


def interval(values: Sequence[float], of: Sequence[float] | None = None, seed: int = 0) -> list[float]:
    """The 95 % bootstrap interval, in percent, of sum(values) / sum(of); `of` is 1 an item where it is not given.

    Items are resampled with replacement; the interval reaches from the 2.5th to the 97.5th percentile of the
    resampled scores. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979; the
    percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    Where all items score alike, so do the samples, and the interval is a point.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if of is None else np.asarray(of, np.float64)
    if not weights.sum():
        return [0.0, 0.0]
    random, count = np.random.default_rng(seed), len(values)
    found = []
    for start in range(0, RESAMPLES, at_a_time := max(1, MAX_INDICES // count)):
        drawn = random.integers(count, size=(min(at_a_time, RESAMPLES - start), count), dtype=np.int32)
        found.append(values[drawn].sum(axis=1) / np.maximum(weights[drawn].sum(axis=1), 1e-9))
    return [round(100 * float(end), 4) for end in np.percentile(np.concatenate(found), [2.5, 97.5])]


def mcnemar(only_here: int, only_there: int) -> float:
    """The exact two-sided p of McNemar's test: how likely two equally good systems differ at least so much.

    only_here, only_there: items that one of the two systems got right and the other did not. McNemar, "Note on the
    sampling error of the difference between correlated proportions", Psychometrika 12, 1947, in its exact form: a
    two-sided binomial test with probability 1/2, valid for any number of items.
    """
    items = only_here + only_there
    term, tail = 1, 0  # binomial coefficients, exact however many items there are
    for k in range(min(only_here, only_there) + 1):
        tail += term
        term = term * (items - k) // (k + 1)
    return min(1.0, 2 * tail / 2**items)
