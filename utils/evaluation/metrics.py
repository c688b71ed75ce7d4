"""Scores of predicted token sequences against the truth, how sure they are, and how two systems compare.

ExpRate is token-exact: the share of expressions read without a single wrong token. The `<=k` rates count
expressions with at most k edits (Levenshtein over tokens), the convention of the published systems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
DRAWN_AT_ONCE = 2**22  # indices of resampled items in memory
AT_MOST = (1, 2, 3)


def edit_distance(truth: Sequence, predicted: Sequence) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein 1966)."""
    row = list(range(len(predicted) + 1))
    for i, wanted in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(predicted, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def align(truth: Sequence, predicted: Sequence) -> list[tuple[int | None, int | None]]:
    """The fewest edits as pairs of places, from left to right.

    (3, 4): token 4 was read for token 3, rightly or wrongly.   (3, None): nothing was.   (None, 4): read for nothing.
    Where several ways are as short, a replacement goes before the others, from the end of both.
    """
    rows = [list(range(len(predicted) + 1))]
    for i, wanted in enumerate(truth, 1):
        above, row = rows[-1], [i]
        for j, got in enumerate(predicted, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted != got)))
        rows.append(row)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(truth), len(predicted)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (truth[i - 1] != predicted[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def differing(truth: Sequence, predicted: Sequence) -> tuple[list[bool], list[bool]]:
    """Which tokens of each differ from the other: replaced, missing there, or too many here."""
    marks = [True] * len(truth), [True] * len(predicted)
    for i, j in align(truth, predicted):
        if i is not None and j is not None and truth[i] == predicted[j]:
            marks[0][i] = marks[1][j] = False
    return marks


def percent(count: float, of: float) -> float:
    return round(100 * count / of, 4) if of else 0.0


def rates(errors: Sequence[int], lengths: Sequence[int], is_read: Sequence[bool]) -> dict[str, float]:
    """Rates in percent over all items.   errors: edits of each.   lengths: tokens of its truth.

    Returns exrate, at_most_1, at_most_2, at_most_3 and token_error_rate (edits per token of truth).
    """
    errors, is_read = np.asarray(errors, np.int64), np.asarray(is_read, bool)
    at_most = {k: percent(int((is_read & (errors <= k)).sum()), len(errors)) for k in (0, *AT_MOST)}
    return {
        "exrate": at_most[0],
        **{f"at_most_{k}": at_most[k] for k in AT_MOST},
        "token_error_rate": percent(int(errors.sum()), sum(lengths)),
    }


def scores(truths: Sequence[Sequence], predictions: Sequence[Sequence | None]) -> dict[str, float]:
    """Scores in percent over all items; a missing prediction (None) is wrong in every token.

    Returns items, exrate, at_most_1, at_most_2, at_most_3 and token_error_rate (edits per token of truth).
    """
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} truths, {len(predictions)} predictions")
    lengths = [len(truth) for truth in truths]
    is_read = [predicted is not None for predicted in predictions]
    errors = [
        length if predicted is None else edit_distance(truth, predicted)
        for truth, predicted, length in zip(truths, predictions, lengths, strict=True)
    ]
    return {"items": len(truths), **rates(errors, lengths, is_read)}


def interval(values: Sequence[float], of: Sequence[float] | None = None, seed: int = 0) -> list[float]:
    """The 95 % bootstrap interval, in percent, of sum(values) / sum(of); `of` is 1 an item where it is not given.

    Items are drawn anew, with replacement; the interval reaches from the 2.5th to the 97.5th percentile of what the
    draws score. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979; the
    percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    Where all items score alike, the draws do too, and the interval is a point.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if of is None else np.asarray(of, np.float64)
    if not weights.sum():
        return [0.0, 0.0]
    random, count = np.random.default_rng(seed), len(values)
    found = []
    for start in range(0, RESAMPLES, per_turn := max(1, DRAWN_AT_ONCE // count)):
        drawn = random.integers(count, size=(min(per_turn, RESAMPLES - start), count), dtype=np.int32)
        found.append(values[drawn].sum(axis=1) / np.maximum(weights[drawn].sum(axis=1), 1e-9))
    return [round(100 * float(end), 4) for end in np.percentile(np.concatenate(found), [2.5, 97.5])]


def mcnemar(only_here: int, only_there: int) -> float:
    """How likely two equally good systems differ at least so much on the items that just one of them got right.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947, in
    its exact form: each such item falls to either side like a coin (two-sided binomial test), few as they may be.
    """
    items = only_here + only_there
    term, tail = 1, 0  # binomial coefficients, exact however many items there are
    for k in range(min(only_here, only_there) + 1):
        tail += term
        term = term * (items - k) // (k + 1)
    return min(1.0, 2 * tail / 2**items)
