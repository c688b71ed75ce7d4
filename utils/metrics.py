"""Scores of predicted token sequences against the truth.

ExpRate is token-exact: the share of expressions read without a single wrong token. The `<=k` rates count
expressions with at most k edits (Levenshtein over tokens), the convention of the published systems.
"""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(truth: Sequence, predicted: Sequence) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein 1966)."""
    row = list(range(len(predicted) + 1))
    for i, wanted in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(predicted, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def scores(truths: Sequence[Sequence], predictions: Sequence[Sequence | None]) -> dict[str, float]:
    """Scores in percent over all items; a missing prediction (None) is wrong in every token.

    Returns items, exrate, at_most_1, at_most_2, at_most_3 and token_error_rate (edits per token of truth).
    """
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} truths, {len(predictions)} predictions")
    distances = [
        edit_distance(truth, predicted)
        for truth, predicted in zip(truths, predictions, strict=True)
        if predicted is not None
    ]
    lost = sum(len(truth) for truth, predicted in zip(truths, predictions, strict=True) if predicted is None)
    items = len(truths)

    def percent(count: float, of: float) -> float:
        return round(100 * count / of, 4) if of else 0.0

    at_most = {f"at_most_{k}": percent(sum(d <= k for d in distances), items) for k in (1, 2, 3)}
    return {
        "items": items,
        "exrate": percent(sum(d == 0 for d in distances), items),
        **at_most,
        "token_error_rate": percent(sum(distances) + lost, sum(map(len, truths))),
    }
