"""Autoregressive decoding in NumPy: models/search.py again, for a network that runs without torch.

B: images, K: rows of each, V: tokens of the vocabulary, h w: feature positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from utils.hypotheses import MINUS_INFINITY, Braces, Hypothesis, best_hypotheses, max_tokens, rescored
from utils.special_tokens import END, PAD, START

Array = np.ndarray


class State(NamedTuple):
    """What a decoder carries from one step to the next; see DecoderState in models/decoders/interface.py."""

    image: dict[str, Array]  # (B, …) each: what does not change while an image is read
    past: dict[str, Array]  # (B, K, …) each: what depends on the tokens so far

    def select(self, rows: Array) -> State:
        """Rows of each image to continue with: (B, K') indices."""
        images = np.arange(len(rows))[:, None]
        return State(self.image, {name: array[images, rows] for name, array in self.past.items()})

    def select_images(self, images: Array) -> State:
        """Images to continue with, (B',) indices, each with all of its rows."""
        image, past = ({name: array[images] for name, array in part.items()} for part in self)
        return State(image, past)


# One more token (B, K) in every row: logits (B, K, V), the state after it, attention (B, K, h, w).
Step = Callable[[State, Array], tuple[Array, State, Array]]


class Explanation(NamedTuple):
    """Probability and place of each token of a reading, the end not included."""

    confidences: Array  # (L,) probability of each token given those before it, from left to right
    attention: Array  # (L, h, w) attention weights of each token


class Encoded(NamedTuple):
    """What a decoder is given of images."""

    state: State  # before the first token; one row an image
    sizes: Array  # (B, 2) height and width of each image in feature positions
    seen: dict[tuple[int, tuple[int, ...]], Explanation]  # by image and tokens: what decoding computed on its way
    backwards: State | None = None  # as `state`, for a decoder that reads backwards, where there is one

    @property
    def limits(self) -> Array:
        """(B,) the most tokens that each image may have."""
        return max_tokens(*self.sizes.T)


def log_softmax(logits: Array) -> Array:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _log_probabilities(logits: Array, starts: Array, sequences: Array, braces: Braces | None) -> Array:
    """Of the next token, (…, V); minus infinity for what cannot be: see _log_probabilities() of models/search.py."""
    scores = log_softmax(logits)
    scores[..., PAD] = MINUS_INFINITY
    np.put_along_axis(scores, starts[..., None], MINUS_INFINITY, -1)
    can_end = (sequences != PAD).any(-1)
    if braces:
        left, right = braces
        open_braces = (sequences == left).sum(-1) - (sequences == right).sum(-1)  # fewer than 0 backwards
        can_end &= open_braces == 0
        _forbid(scores, np.where(starts == START, right, left), open_braces == 0)
    _forbid(scores, START + END - starts, ~can_end)
    return scores


def _forbid(scores: Array, tokens: Array, where: Array) -> None:
    """Minus infinity for a token of each row, (…), where that is so, (…)."""
    rows = np.nonzero(where)
    scores[(*rows, tokens[rows])] = MINUS_INFINITY


# ---- greedy ----------------------------------------------------------------------------------------------------------


def greedy(
    step: Step, encoded: Encoded, length_penalty: float = 1.0, braces: Braces | None = None
) -> list[tuple[Hypothesis, Explanation]]:
    """The likeliest token at every step, from left to right, with its probability and place.   braces: see greedy()
    of models/search.py."""
    state, limits = encoded.state, encoded.limits
    active = np.arange(len(limits))  # images that are not done
    tokens = np.full(len(limits), START)
    found: list[list[tuple[int, float, Array]]] = [[] for _ in limits]  # token, log-probability, attention

    for length in range(1, int(limits.max()) + 1):
        logits, state, attention = step(state, tokens[:, None])
        sequences = np.array([[one[0] for one in found[image]] for image in active], int).reshape(len(active), -1)
        scores = _log_probabilities(logits[:, 0], np.full(len(active), START), sequences, braces)
        tokens = scores.argmax(-1)
        gains = np.take_along_axis(scores, tokens[:, None], -1)[:, 0]
        for image, *one in zip(active, tokens.tolist(), gains, attention[:, 0], strict=True):
            found[image].append(tuple(one))
        kept = np.flatnonzero((tokens != END) & (length < limits[active]))
        if len(kept) == 0:
            break
        if len(kept) < len(active):
            active, tokens, state = active[kept], tokens[kept], state.select_images(kept)

    return [_greedy_result(steps, size, length_penalty) for steps, size in zip(found, encoded.sizes, strict=True)]


def _greedy_result(
    steps: Sequence[tuple[int, float, Array]], size: Array, length_penalty: float
) -> tuple[Hypothesis, Explanation]:
    tokens, gains, attention = zip(*steps, strict=True)
    has_ended = tokens[-1] == END
    count = len(tokens) - has_ended
    score = float(np.sum(gains, dtype=np.float32) / len(tokens) ** length_penalty)
    explanation = Explanation(np.exp(gains[:count]), _cropped(attention[:count], size))
    return Hypothesis(list(tokens[:count]), score, not has_ended), explanation


def _cropped(attention: Sequence[Array], size: Array) -> Array:
    """Maps (h, w) of several steps without the padding: (L, height, width) of the image."""
    height, width = size
    return np.array([one[:height, :width] for one in attention], np.float32).reshape(-1, height, width)


# ---- beam search -----------------------------------------------------------------------------------------------------


def beam_search(
    step: Step,
    encoded: Encoded,
    beam: int = 10,
    directions: int = 1,
    length_penalty: float = 1.0,
    braces: Braces | None = None,
) -> list[Hypothesis]:
    """See beam_search() of models/search.py: the same hypotheses, in the same order."""
    beams = _Beams.start(encoded, beam, directions)
    finished = _Finished.empty(len(encoded.limits), directions, beam, int(encoded.limits.max()))
    for length in range(1, int(encoded.limits.max()) + 1):
        logits, state, _ = step(beams.state, beams.tokens.reshape(len(beams.images), -1))
        beams = _advance(replace(beams, state=state), logits, finished, length, length_penalty, braces)
        kept = np.flatnonzero(~beams.is_done.all(1))
        if len(kept) == 0:
            break
        if len(kept) < len(beams.images):
            beams = beams.select_images(kept)

    sequences, scores = finished.sequences[..., :length], finished.scores
    if directions == 2:
        scores = (scores + _rescore(step, encoded, sequences, length_penalty)) / 2
    return best_hypotheses(sequences.tolist(), scores.tolist(), finished.is_truncated.tolist(), beam)


@dataclass(frozen=True)
class _Beams:
    """The prefixes that are being continued, for the n images that are not done."""

    images: Array  # (n,) indices in the batch
    limits: Array  # (n,)
    starts: Array  # (directions,) start tokens
    is_done: Array  # (n, directions)
    tokens: Array  # (n, directions, beam) the last of each prefix
    sequences: Array  # (n, directions, beam, length) prefixes without start
    scores: Array  # (n, directions, beam) log-probabilities
    state: State

    @classmethod
    def start(cls, encoded: Encoded, beam: int, directions: int) -> _Beams:
        shape = (len(encoded.limits), directions, beam)
        starts = np.array([START, END][:directions])
        scores = np.full(shape, MINUS_INFINITY, np.float32)
        scores[..., 0] = 0  # all prefixes are still the same: only one of them continues
        return cls(
            images=np.arange(shape[0]),
            limits=encoded.limits,
            starts=starts,
            is_done=np.zeros(shape[:2], bool),
            tokens=np.broadcast_to(starts[:, None], shape),
            sequences=np.zeros((*shape, 0), np.int64),
            scores=scores,
            state=encoded.state.select(np.zeros((shape[0], directions * beam), np.int64)),
        )

    def select_images(self, kept: Array) -> _Beams:
        """Continue with some of the n images."""
        names = ("images", "limits", "is_done", "tokens", "sequences", "scores")
        state = self.state.select_images(kept)
        return replace(self, **{name: getattr(self, name)[kept] for name in names}, state=state)


@dataclass(frozen=True)
class _Finished:
    """For each image and direction, the best hypotheses so far that ended or were truncated. Changed in place."""

    sequences: Array  # (B, directions, beam, max length), padded with 0
    scores: Array  # (B, directions, beam), normalized by length; minus infinity where there is none
    is_truncated: Array  # (B, directions, beam)

    @classmethod
    def empty(cls, size: int, directions: int, beam: int, max_length: int) -> _Finished:
        shape = (size, directions, beam)
        scores = np.full(shape, MINUS_INFINITY, np.float32)
        return cls(np.full((*shape, max_length), PAD), scores, np.zeros(shape, bool))

    def add(self, images: Array, sequences: Array, scores: Array, is_truncated: Array) -> None:
        """Keep the best of what there is and of m more.

        images: (n,).   sequences: (n, directions, m, length).   scores, is_truncated: (n, directions, m).
        """
        beam, length = self.scores.shape[2], sequences.shape[3]
        sequences = np.concatenate([self.sequences[images, ..., :length], sequences], 2)
        scores = np.concatenate([self.scores[images], scores], 2)
        is_truncated = np.concatenate([self.is_truncated[images], is_truncated], 2)
        _, best = _top(scores.astype(np.float64) - 1e4 * is_truncated, beam)
        self.sequences[images, ..., :length] = np.take_along_axis(sequences, best[..., None], 2)
        self.scores[images] = np.take_along_axis(scores, best, 2)
        self.is_truncated[images] = np.take_along_axis(is_truncated, best, 2)


def _advance(
    beams: _Beams, logits: Array, finished: _Finished, length: int, length_penalty: float, braces: Braces | None
) -> _Beams:
    """Continue each prefix by a token, to `length` tokens; what ends or is truncated goes into `finished`.

    logits: (n, directions x beam, V) of the next tokens.
    """
    size, directions, beam = beams.tokens.shape
    vocabulary_size = logits.shape[-1]
    starts = np.broadcast_to(beams.starts[:, None], beams.tokens.shape)
    logits = logits.reshape(size, directions, beam, vocabulary_size)
    gains = _log_probabilities(logits, starts, beams.sequences, braces)

    # Twice as many as needed: at most one continuation of each prefix is its end.
    totals = (beams.scores[..., None] + gains).reshape(size, directions, -1)
    scores, best = _top(totals, 2 * beam)
    parents, tokens = best // vocabulary_size, best % vocabulary_size
    sequences = np.take_along_axis(beams.sequences, parents[..., None], 2)
    sequences = np.concatenate([sequences, tokens[..., None]], -1)
    is_end = tokens == (START + END - beams.starts)[:, None]
    has_ended = is_end & ~beams.is_done[..., None]
    has_ended[..., beam:] = False
    is_at_limit = (length >= beams.limits)[:, None] & ~beams.is_done
    is_truncated = ~is_end & is_at_limit[..., None]
    normalized = np.where(has_ended | is_truncated, scores / np.float32(length**length_penalty), MINUS_INFINITY)
    finished.add(beams.images, sequences, normalized.astype(np.float32), is_truncated)

    # Continue with the best that did not end, as long as the best of them is better than the worst that is finished.
    scores, chosen = _top(np.where(is_end, np.float32(MINUS_INFINITY), scores), beam)
    is_hopeless = scores[..., 0] / np.float32(length**length_penalty) <= finished.scores[beams.images].min(2)
    rows = np.arange(directions)[:, None] * beam + np.take_along_axis(parents, chosen, 2)
    return replace(
        beams,
        is_done=beams.is_done | is_at_limit | is_hopeless,
        tokens=np.take_along_axis(tokens, chosen, 2),
        sequences=np.take_along_axis(sequences, chosen[..., None], 2),
        scores=scores,
        state=beams.state.select(rows.reshape(size, -1)),
    )


def _top(scores: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of the last axis, largest first, and their indices."""
    indices = np.argpartition(scores, -count, -1)[..., -count:] if count < scores.shape[-1] else np.argsort(scores, -1)
    values = np.take_along_axis(scores, indices, -1)
    order = np.argsort(-values, -1, kind="stable")
    return np.take_along_axis(values, order, -1), np.take_along_axis(indices, order, -1)


# ---- given sequences -------------------------------------------------------------------------------------------------


def explain(step: Step, encoded: Encoded, predictions: Sequence[Sequence[int]]) -> list[Explanation]:
    """Probability and place of each token of given predictions, ids without start and end, one for each image."""
    confidences: list[list[float]] = [[] for _ in predictions]
    attention: list[list[Array]] = [[] for _ in predictions]
    forced = _teacher_forced(step, encoded.state, [[(START, tokens)] for tokens in predictions])
    for position, (images, logits, weights) in enumerate(forced):
        probabilities = np.exp(log_softmax(logits[:, 0]))
        for image, row, one in zip(images, probabilities, weights[:, 0], strict=True):
            confidences[image].append(row[predictions[image][position]])
            attention[image].append(one)
    return [
        Explanation(np.array(row, np.float32), _cropped(maps, size))
        for row, maps, size in zip(confidences, attention, encoded.sizes, strict=True)
    ]


def rescore(
    hypotheses: Sequence[Hypothesis], step: Step, state: State, length_penalty: float = 1.0
) -> list[Hypothesis]:
    """See rescore() of models/search.py.   step, state: of the decoder that reads backwards, before its first token."""
    rows = [[_reversed(END, one.tokens) for one in (best, *best.alternatives)] for best in hypotheses]
    most = max(map(len, rows))
    scores = _scores(step, state, [row + row[:1] * (most - len(row)) for row in rows], length_penalty)
    return rescored(hypotheses, [of_image[: len(row)].tolist() for of_image, row in zip(scores, rows, strict=True)])


def _rescore(step: Step, encoded: Encoded, sequences: Array, length_penalty: float) -> Array:
    """Scores of sequences (B, 2, beam, L), each by the direction that did not propose it.   Returns (B, 2, beam)."""
    # What came from left to right is scored from right to left, beginning with END, and so on.
    rows = [
        [_reversed(start, one) for start, part in zip((END, START), image, strict=True) for one in part]
        for image in sequences.tolist()
    ]
    return _scores(step, encoded.state, rows, length_penalty).reshape(sequences.shape[:3])


def _reversed(start: int, tokens: Sequence[int]) -> tuple[int, list[int]]:
    """A start token, and what stands behind it in the other direction: the tokens, and the end."""
    return start, [*(token for token in reversed(tokens) if token > END), START + END - start]


def _scores(
    step: Step, state: State, rows: Sequence[Sequence[tuple[int, Sequence[int]]]], length_penalty: float
) -> Array:
    """Scores (B, K) of given sequences; see _teacher_forced()."""
    lengths = np.array([[len(targets) for _, targets in image] for image in rows])
    scores = np.zeros(lengths.shape, np.float32)
    for position, (images, logits, _) in enumerate(_teacher_forced(step, state, rows)):
        gains = log_softmax(logits)
        for place, image in enumerate(images):
            for row in np.flatnonzero(position < lengths[image]):
                scores[image, row] += gains[place, row, rows[image][row][1][position]]
    return (scores / lengths**length_penalty).astype(np.float32)


def _teacher_forced(
    step: Step, state: State, rows: Sequence[Sequence[tuple[int, Sequence[int]]]]
) -> Iterator[tuple[Array, Array, Array]]:
    """Every step of given sequences, K an image: its start token, and the tokens to be predicted.

    Yields the indices (n,) of the images that have a token at this position, with logits (n, K, V) that predict it and
    attention (n, K, h, w).
    """
    lengths = np.array([max(len(targets) for _, targets in image) for image in rows])
    inputs = np.full((len(rows), len(rows[0]), int(lengths.max()) + 1), PAD)
    for image, sequences in enumerate(rows):
        for row, (start, targets) in enumerate(sequences):
            inputs[image, row, : len(targets) + 1] = [start, *targets]
    images = np.arange(len(rows))
    state = state.select(np.zeros(inputs.shape[:2], np.int64))
    for position in range(int(lengths.max())):
        kept = np.flatnonzero(lengths[images] > position)
        if len(kept) < len(images):
            images, state = images[kept], state.select_images(kept)
        logits, state, attention = step(state, inputs[images, :, position])
        yield images, logits, attention
