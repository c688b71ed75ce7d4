"""From references and predictions to scores: all of scores.json, and the text that a person sees.

What only LaTeX knows (structure, symbols, the drawn image, kinds) comes with each item; utils does not import dataset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from utils.evaluation.calibration import calibration
from utils.evaluation.metrics import aligned_tokens, interval, mcnemar, percent, rates
from utils.tables import table

LENGTHS = ((5, "up to 5"), (10, "6 to 10"), (20, "11 to 20"), (40, "21 to 40"), (math.inf, "41 and more"))
DEPTHS = ((0, "0"), (1, "1"), (2, "2"), (math.inf, "3 and more"))
MAX_CONFUSIONS = 40
# Scores in the order of a table: key, and what a person calls it.
RATES = {"at_most_1": "<=1", "at_most_2": "<=2", "at_most_3": "<=3", "token_error_rate": "wrong tokens %"}
SHARES = {
    "structure_exprate": "structure right",
    "symbol_accuracy": "symbols right",
    "well_formed": "well-formed",
    "visual_exprate": "same image",
}


class Reference(NamedTuple):
    """One line of labels.txt.   where: for messages.   problem: why nothing can be read for it, or empty.

    path: the image as labels.txt calls it.
    """

    name: str
    tokens: list[str]
    where: str = ""
    problem: str = ""
    path: str = ""


class Prediction(NamedTuple):
    """What was read.   score: mean log-probability of a token.   alternatives: (tokens, score) of others, best first.

    is_truncated: it never came to its end.
    """

    tokens: list[str]
    score: float | None = None
    is_truncated: bool = False
    alternatives: tuple[tuple[list[str], float | None], ...] = ()


class Comparison(Protocol):
    """A prediction beside its reference: edits, lengths, and what both have in common."""

    is_read: bool
    errors: int
    length: int
    normal_errors: int
    normal_length: int
    symbol_errors: int
    symbols: int
    same_structure: bool
    is_well_formed: bool
    same_image: bool
    is_exact: bool
    is_normal: bool


class ScoredItem(NamedTuple):
    """One item of a split.   normalized: reference and prediction.   depth, kinds: of the reference's structure.

    error_kinds: of what is wrong in the prediction, in words.
    """

    reference: Reference
    prediction: Prediction | None
    comparison: Comparison
    normalized: tuple[Sequence[str], Sequence[str]]
    depth: int
    kinds: Collection[str]
    error_kinds: Collection[str]


class Conventions(NamedTuple):
    """What the scores depend on beside the items.   rules: version of the normalization.   kinds: in their order.

    structure_tokens: that stand for no sign on paper.
    """

    rules: str | int
    kinds: Sequence[str]
    structure_tokens: Collection[str]


def compute_scores(
    items: Sequence[ScoredItem], conventions: Conventions, confidence_exponent: float | None = None
) -> dict[str, Any]:
    """All scores, in percent, as scores.json keeps them.

    confidence_exponent: what the network's probabilities are raised to; see utils/evaluation/calibration.py.
    """
    comparisons = [item.comparison for item in items]

    def column(name: str) -> list:
        return [getattr(comparison, name) for comparison in comparisons]

    is_read = column("is_read")
    exact = rates(column("errors"), column("length"), is_read) | {"interval": interval(column("is_exact"))}
    normal = rates(column("normal_errors"), column("normal_length"), is_read)
    normal |= {"interval": interval(column("is_normal")), "rules": conventions.rules}
    # A share of the references' symbols. Symbols that were read beside them count against it, but an item costs at most
    # its own symbols: one endless reading must not decide about a split.
    symbols = column("symbols")
    right_symbols = [max(0, count - wrong) for count, wrong in zip(symbols, column("symbol_errors"), strict=True)]
    shares = {
        "structure_exprate": column("same_structure"),
        "well_formed": column("is_well_formed"),
        "visual_exprate": column("same_image"),
    }
    return {
        "exact": exact,
        "normalized": normal,
        **{name: percent(sum(values), len(values)) for name, values in shares.items()},
        "symbol_accuracy": percent(sum(right_symbols), sum(symbols)),
        "intervals": {
            **{name: interval(values) for name, values in shares.items()},
            "symbol_accuracy": interval(right_symbols, symbols),
        },
        "calibration": calibration_of(items, confidence_exponent or 1.0),
        "by": by_groups(items, conventions.kinds),
        "confusions": confusions(items, conventions.structure_tokens),
        "error_kinds": by_error(items),
    }


def calibration_of(items: Sequence[ScoredItem], exponent: float) -> dict[str, Any] | None:
    """Of the items that were read with a score; None where there is none."""
    scored = [item for item in items if item.prediction and item.prediction.score is not None]
    if not scored:
        return None
    confidences = [probability(item.prediction) for item in scored]
    return calibration(confidences, [item.comparison.is_exact for item in scored], exponent)


def probability(prediction: Prediction) -> float:
    """Of a whole reading with its end, from its score, which is a mean over tokens."""
    return math.exp(prediction.score * (len(prediction.tokens) + (not prediction.is_truncated)))


def by_groups(items: Sequence[ScoredItem], kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """ExpRate by the length, the nesting depth and the kinds of structure of the reference."""

    def rows(groups: Sequence[Collection[str]], names: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for name in names:
            right = [item.comparison.is_exact for item, own in zip(items, groups, strict=True) if name in own]
            if right:
                exprate = percent(sum(right), len(right))
                found.append({"name": name, "items": len(right), "exprate": exprate, "interval": interval(right)})
        return found

    lengths = [(_bucket(len(item.reference.tokens), LENGTHS),) for item in items]
    depths = [(_bucket(item.depth, DEPTHS),) for item in items]
    return {
        "length": rows(lengths, [name for _, name in LENGTHS]),
        "depth": rows(depths, [name for _, name in DEPTHS]),
        "kind": rows([item.kinds for item in items], kinds),
    }


def _bucket(number: int, buckets: Sequence[tuple[float, str]]) -> str:
    return next(name for limit, name in buckets if number <= limit)


def confusions(items: Sequence[ScoredItem], structure_tokens: Collection[str]) -> list[dict[str, Any]]:
    """What was read for what, most frequent first; "" for nothing. Braces go with what they belong to."""
    counts: Counter[tuple[str, str]] = Counter()
    for item in items:
        if not item.comparison.is_read or item.comparison.is_normal:
            continue
        pairs = aligned_tokens(*item.normalized, structure_tokens)
        counts.update(pair for pair in pairs if pair[0] != pair[1] and not {*pair} <= {"", "{", "}"})
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_CONFUSIONS]
    return [{"reference": wanted, "prediction": read, "count": count} for (wanted, read), count in ordered]


def by_error(items: Sequence[ScoredItem]) -> list[dict[str, Any]]:
    """Kinds of errors, most frequent first: the items that have one, and those that have no other."""
    counts = Counter(kind for item in items for kind in item.error_kinds)
    alone = Counter(kind for item in items if len(item.error_kinds) == 1 for kind in item.error_kinds)
    return [{"name": name, "items": count, "alone": alone[name]} for name, count in counts.most_common()]


def find_failures(items: Sequence[ScoredItem], reasons: dict[str, str]) -> list[dict[str, str]]:
    """What went wrong, in the order of the split.   reasons: of items that could not be read, by name."""
    found = []
    for item in items:
        name, reason = item.reference.name, reasons.get(item.reference.name)
        if reason is None and (item.prediction is None or not item.prediction.tokens):
            reason = "nothing was predicted"
        elif reason is None and item.prediction.is_truncated:
            reason = f"truncated: it had not ended after {len(item.prediction.tokens)} tokens"
        if reason is not None:
            found.append({"id": name, "reason": reason})
    return found


def compare_systems(file: str, outcomes: Sequence[bool], items: Sequence[ScoredItem]) -> dict[str, Any]:
    """The exact McNemar test against another system, token-exact.   outcomes: what the other one got right."""
    pairs = Counter((item.comparison.is_exact, there) for item, there in zip(items, outcomes, strict=True))
    here, there = pairs[True, False], pairs[False, True]
    return {"file": file, "only_here": here, "only_there": there, "p": round(mcnemar(here, there), 6)}


# ---- for a person ----------------------------------------------------------------------------------------------------


def describe(scores: dict[str, Any]) -> str:
    """The scores as text: exact and normalized beside each other."""
    columns = [scores["exact"], scores["normalized"]]
    rows = [("", "exact", f"normalized (rules {scores['normalized']['rules']})")]
    rows.append(("ExpRate %", *(_with_interval(each["exprate"], each["interval"]) for each in columns)))
    rows += [(shown, *(f"{each[name]:6.2f}" for each in columns)) for name, shown in RATES.items()]
    shares = [(shown, _with_interval(scores[name], scores["intervals"][name])) for name, shown in SHARES.items()]
    lines = [f"{scores['dataset']} {scores['split']}: {scores['items']} items; {describe_source(scores)}", ""]
    lines += [table(rows), "", table([("", "%"), *shares]), ""]
    if found := scores["calibration"]:
        lines += [
            f"Confidence: {found['mean_confidence']:.1f} % on average, {found['right']:.1f} % right; calibration error "
            f"{found['error']:.1f} % (exponent {found['exponent']:g}; {found['fitted_exponent']:g} would fit best).",
        ]
    lines += ["In parentheses: 95 % bootstrap intervals. Symbols right: an item costs at most its own symbols."]
    if scores["failed"]:
        lines.append(f"{len(scores['failed'])} items failed, and count as wrong.")
    if scores["seconds"]:
        lines.append(f"{scores['seconds']:.1f} s, {scores['images_per_second']:.1f} images/s on {scores['device']}")
    if scores["against"]:
        lines.append(describe_comparison(scores["against"]))
    return "\n".join(lines)


def describe_source(scores: dict[str, Any]) -> str:
    """Where the predictions are from: a file, or a checkpoint with its search and its cleaning."""
    search = scores.get("search")
    if not search:
        return str(scores.get("predictions") or "")
    cleaned = f"{scores['cleaned']} images cleaned (--clean {scores['clean']})"
    return f"{scores['checkpoint']}, {describe_search(search)}; {cleaned}"


def describe_search(search: dict[str, Any]) -> str:
    """In words; what scores of earlier versions do not say is left out."""
    beam = search.get("beam") or 1
    text = "greedy" if beam == 1 else f"beam {beam}"
    text += ", both directions" if (search.get("directions") or 1) > 1 else ""
    scales = search.get("scales") or [1.0]
    return text + ("" if scales == [1.0] else f", at scales {', '.join(f'{scale:g}' for scale in scales)}")


def describe_comparison(against: dict[str, Any]) -> str:
    return (
        f"Right here alone: {against['only_here']}; right in {against['file']} alone: {against['only_there']}; "
        f"exact McNemar p {'= ' + format(against['p'], '.3g') if against['p'] else '< 0.000001'}."
    )


def _with_interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:6.2f}  ({ends[0]:.1f} to {ends[1]:.1f})"
