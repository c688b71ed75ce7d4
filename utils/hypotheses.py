"""What decoding found in an image, however it was computed: torch and onnxruntime both end here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from utils.special_tokens import END, PAD, START

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """What an image was read as.

    tokens: ids without start and end.   score: log-probability of tokens and end / their number ** length_penalty;
    with two directions, the mean of both.   is_truncated: it had not ended at the limit; see models/search.py.
    alternatives: the other hypotheses of the beam, best first.
    """

    tokens: list[int]
    score: float
    is_truncated: bool
    alternatives: tuple[Hypothesis, ...] = ()


def max_tokens(height: int, width: int) -> int:
    """The most tokens that an image of height x width feature positions may have; numbers, or arrays of them.

    With stride 16, 9,820 of CROHME's 9,821 labels (train and 2014) have at most 3.1 tokens per position of
    height + width; the densest, 60 tokens in 7 x 6 positions, may have 84.
    """
    return 32 + 4 * (height + width)


def best_hypotheses(
    sequences: Sequence[Sequence[Sequence[Sequence[int]]]],
    scores: Sequence[Sequence[Sequence[float]]],
    is_truncated: Sequence[Sequence[Sequence[bool]]],
    beam: int,
) -> list[Hypothesis]:
    """The best `beam` different hypotheses of each image, from both directions together.

    Nested lists: image, direction, hypothesis; of sequences, token ids as they were proposed, ends included. A score of
    minus infinity stands where there is no hypothesis.
    """
    results = []
    for image in zip(sequences, scores, is_truncated, strict=True):
        found: dict[tuple[int, ...], Hypothesis] = {}
        for direction, rows in enumerate(zip(*image, strict=True)):
            for hypothesis in _of_direction(direction, *rows):
                key = tuple(hypothesis.tokens)
                if key not in found or _rank(hypothesis) > _rank(found[key]):
                    found[key] = hypothesis
        best, *rest = sorted(found.values(), key=_rank, reverse=True)[:beam]
        results.append(replace(best, alternatives=tuple(rest)))
    return results


def _of_direction(
    direction: int, sequences: Sequence[Sequence[int]], scores: Sequence[float], is_truncated: Sequence[bool]
) -> list[Hypothesis]:
    """The hypotheses of one image and direction, from left to right."""
    hypotheses = []
    for row, score, truncated in zip(sequences, scores, is_truncated, strict=True):
        tokens = [token for token in row if token not in (PAD, START, END)]
        if score > MINUS_INFINITY:
            hypotheses.append(Hypothesis(tokens[::-1] if direction == 1 else tokens, score, truncated))
    return hypotheses


def _rank(hypothesis: Hypothesis) -> tuple[bool, float]:
    return not hypothesis.is_truncated, hypothesis.score
