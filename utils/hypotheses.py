"""What decoding found in an image, however it was computed: torch and onnxruntime both end here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from utils.special_tokens import END, PAD, START

MINUS_INFINITY = float("-inf")
Braces = tuple[int, int]  # the ids of `{` and `}` in a vocabulary
# What the score of a preferred hypothesis may be lower than the best one's; see prefer(). With the published weights
# and a beam of 10, the best of 7 of 468 validation images is no LaTeX; 5 have another within this margin, 6 have any.
# Taking it made none of them right, and 68 tokens wrong instead of 45: it is for who has to typeset what is read.
PREFERENCE_MARGIN = 0.05
BACKWARDS_SHARE = 0.3  # of the decoder that reads backwards in the score of a hypothesis; chosen on validation


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

    32 + 4 (height + width). With stride 16, 9,820 of CROHME's 9,821 labels (train and 2014) have at most 3.1 tokens per
    position of height + width. A small image may be densely written on, as a matrix is: where 3 tokens in each
    position, at most 160 in all, are more, it may have so many. CROHME's densest has 60 in 7 x 6, and may have 126.
    """
    usual, dense = 32 + 4 * (height + width), 3 * height * width
    dense = dense - (dense - 160) * (dense > 160)
    return usual + (dense - usual) * (dense > usual)


def prefer(
    best: Hypothesis, is_preferred: Callable[[list[int]], bool], margin: float = PREFERENCE_MARGIN
) -> Hypothesis:
    """The best hypothesis of a beam that is preferred, such as one that is well-formed; the others stand behind it.

    best: with its alternatives.   margin: where the first preferred one has a score that is lower by more, or was
    truncated while the best one was not, the best one stays. Where there is one hypothesis alone, nothing is asked.
    """
    if not best.alternatives:
        return best
    beam = (replace(best, alternatives=()), *best.alternatives)
    for one in beam:
        is_close = one.score >= best.score - margin and one.is_truncated <= best.is_truncated
        if is_close and is_preferred(one.tokens):
            return replace(one, alternatives=tuple(other for other in beam if other is not one))
    return best


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
        results.append(ranked(found.values(), beam))
    return results


def ranked(hypotheses: Iterable[Hypothesis], beam: int | None = None) -> Hypothesis:
    """The best hypothesis of an image, with the next ones, `beam` in all or as many as there are, behind it."""
    best, *rest = (replace(one, alternatives=()) for one in sorted(hypotheses, key=_rank, reverse=True)[:beam])
    return replace(best, alternatives=tuple(rest))


def rescored(hypotheses: Iterable[Hypothesis], scores: Iterable[Sequence[float]]) -> list[Hypothesis]:
    """The hypotheses of each image anew, best first, by the mean of their own scores and those of a second decoder.

    scores: for each image, of the best hypothesis and its alternatives; their share is BACKWARDS_SHARE.
    """

    def both(one: Hypothesis, score: float) -> Hypothesis:
        return replace(one, score=(1 - BACKWARDS_SHARE) * one.score + BACKWARDS_SHARE * score)

    pairs = zip(hypotheses, scores, strict=True)
    return [ranked(map(both, (best, *best.alternatives), others)) for best, others in pairs]


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
