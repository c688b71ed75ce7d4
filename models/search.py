"""Reading freely: from a picture to tokens, one step at a time, to the end of the formula."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decoder import END, PAD, START, frame

LOOK_EVERY = {"cpu": 1, "cuda": 8}  # steps between two looks at which pictures are done: looking makes a GPU wait
RESCORED_AT_ONCE = 2**21  # hypotheses x tokens x cells of one pass of re-scoring, which needs some 500 bytes for each


@dataclass(frozen=True)
class Hypothesis:
    """What a picture was read as.

    tokens: ids without start and end.   score: log-probability of tokens and end / their number ** length_penalty;
    where both directions were asked, the mean of the two.   is_cut: it had not ended at the limit.
    alternatives: what the beam found beside it, best first.
    """

    tokens: list[int]
    score: float
    is_cut: bool
    alternatives: tuple["Hypothesis", ...] = ()


def token_limits(padding: Tensor) -> Tensor:
    """The most steps in which a picture may be read, from its size alone.   padding: (B, h, w).   Returns (B,).

    32 + 4 (height + width) in cells. At 16 px a cell, 9,820 of CROHME's 9,821 labels (train and 2014) have at most
    3.1 tokens per cell of height + width; the densest, 60 tokens in 7 x 6 cells, may have 84.
    """
    inside = ~padding
    return 32 + 4 * (inside.any(2).sum(1) + inside.any(1).sum(1))


def _log_probabilities(logits: Tensor, starts: Tensor, step: int) -> Tensor:
    """Of the next token, (R, V) fp32; minus infinity for what cannot come: padding, the start (R,), an end at once."""
    scores = logits.float().log_softmax(-1)
    scores[:, PAD] = float("-inf")
    scores.scatter_(1, starts[:, None], float("-inf"))
    if step == 0:
        scores.scatter_(1, START + END - starts[:, None], float("-inf"))
    return scores


@torch.no_grad()
def greedy(
    decoder, features: Tensor, padding: Tensor, counts: Tensor | None = None, length_penalty: float = 1.0
) -> list[Hypothesis]:
    """The likeliest token at every step, from left to right.   features: (B, C, h, w), padding: (B, h, w)."""
    size, device = len(features), features.device
    look_every = LOOK_EVERY.get(device.type, 8)
    limits = token_limits(padding)
    longest = int(limits.max())
    state = decoder.start(features, padding, counts)
    starts = tokens = torch.full((size,), START, device=device)
    is_done = torch.zeros(size, dtype=torch.bool, device=device)
    left = torch.arange(size, device=device)  # pictures still being read
    written = torch.full((size, longest), PAD, device=device)
    totals = torch.zeros(size, device=device)

    for step in range(longest):
        logits, state, _ = decoder.step(state, tokens)
        gains, tokens = _log_probabilities(logits, starts, step).max(-1)
        tokens = tokens.masked_fill(is_done, PAD)
        written[left, step] = tokens
        totals[left] += gains.masked_fill(is_done, 0)
        is_done = is_done | (tokens == END) | (step + 1 >= limits)
        if (step + 1) % look_every == 0:
            going = (~is_done).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(left):
                left, limits, starts, tokens, is_done = (x[going] for x in (left, limits, starts, tokens, is_done))
                state = state.select_pictures(going)

    scores = totals / (written != PAD).sum(1) ** length_penalty
    hypotheses = []
    for row, score in zip(written.tolist(), scores.tolist(), strict=True):
        is_cut = END not in row
        tokens = [token for token in row if token not in (PAD, END)]
        hypotheses.append(Hypothesis(tokens, score, is_cut))
    return hypotheses


@torch.no_grad()
def beam_search(
    decoder,
    features: Tensor,
    padding: Tensor,
    counts: Tensor | None = None,
    beam: int = 10,
    directions: int | None = None,
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """Keep the `beam` likeliest beginnings at every step; a picture is done when `beam` have ended that are better than
    all that go on, each score being normalised by its present length.

    An end counts when it is among the `beam` best continuations, so that a beam of one reads what greedy() reads.
    directions: 1, or 2 where the decoder reads both ways (its own number by default): then each direction proposes
    its hypotheses and the other one scores them too.   Cut hypotheses rank behind all that ended.
    """
    directions = directions or decoder.directions
    size, device = len(features), features.device
    look_every = LOOK_EVERY.get(device.type, 8)
    limits = token_limits(padding)
    longest = int(limits.max())
    starts = torch.tensor([START, END][:directions], device=device).expand(size, -1)  # (B, directions)
    is_done = torch.zeros(size, directions, dtype=torch.bool, device=device)
    left = torch.arange(size, device=device)  # pictures still being read

    # The beams: (B, directions, beam) each, and the tokens that they have written.
    state = decoder.start(features, padding, counts).select(left.repeat_interleave(directions * beam))
    tokens = starts[..., None].expand(-1, -1, beam)
    texts = tokens.new_zeros(size, directions, beam, 0)
    scores = torch.full((size, directions, beam), float("-inf"), device=device)
    scores[..., 0] = 0  # all beams are the same yet: one of them goes on

    # The hypotheses that have ended, or were cut.
    pool_texts = torch.full((size, directions, beam, longest), PAD, device=device)
    pool_scores = torch.full((size, directions, beam), float("-inf"), device=device)
    pool_is_cut = torch.zeros(size, directions, beam, dtype=torch.bool, device=device)

    for step in range(longest):
        logits, state, _ = decoder.step(state, tokens.flatten())
        rows_starts = starts[..., None].expand(-1, -1, beam).flatten()
        gains = _log_probabilities(logits, rows_starts, step).view(*tokens.shape, -1)
        vocabulary_size = gains.shape[-1]

        # Twice as many as needed: at most one continuation of each beam is its end.
        scores, best = (scores[..., None] + gains).flatten(2).topk(2 * beam)
        parents, tokens = best // vocabulary_size, best % vocabulary_size
        texts = torch.cat([_pick(texts, parents), tokens[..., None]], dim=-1)
        is_end = tokens == (START + END - starts)[..., None]
        ended = is_end & ~is_done[..., None]
        ended[..., beam:] = False
        at_limit = (step + 1 >= limits)[:, None] & ~is_done  # (B, directions)
        cut = ~is_end & at_limit[..., None]

        # The pool keeps the best of what it has and of what ended or is cut now.
        normalised = scores / (step + 1) ** length_penalty
        all_texts = torch.cat([pool_texts[left, ..., : step + 1], texts], dim=2)
        all_scores = torch.cat([pool_scores[left], normalised.masked_fill(~(ended | cut), float("-inf"))], dim=2)
        all_is_cut = torch.cat([pool_is_cut[left], cut], dim=2)
        kept = (all_scores - 1e4 * all_is_cut).topk(beam).indices
        pool_texts[left, ..., : step + 1] = _pick(all_texts, kept)
        pool_scores[left] = all_scores.gather(2, kept)
        pool_is_cut[left] = all_is_cut.gather(2, kept)

        # The beams go on with the best of what did not end, while that is better than the worst of the pool.
        scores, chosen = scores.masked_fill(is_end, float("-inf")).topk(beam)
        is_hopeless = scores[..., 0] / (step + 1) ** length_penalty <= pool_scores[left].amin(2)
        is_done = is_done | at_limit | is_hopeless
        tokens, texts = tokens.gather(2, chosen), _pick(texts, chosen)
        first_rows = torch.arange(len(left) * directions, device=device).view(len(left), directions, 1) * beam
        state = state.select((first_rows + parents.gather(2, chosen)).flatten())

        if (step + 1) % look_every == 0:
            going = (~is_done.all(1)).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(left):
                left, limits, starts, is_done, tokens, texts, scores = (
                    x[going] for x in (left, limits, starts, is_done, tokens, texts, scores)
                )
                state = state.select_pictures(going)

    pool_texts = pool_texts[..., : step + 1]
    if directions == 2:
        other = _score_backwards(decoder, features, padding, counts, pool_texts, length_penalty)
        pool_scores = (pool_scores + other) / 2
    return _hypotheses(pool_texts, pool_scores, pool_is_cut, beam)


def _pick(texts: Tensor, chosen: Tensor) -> Tensor:
    """texts: (B, directions, n, L), chosen: (B, directions, m) of the n.   Returns (B, directions, m, L)."""
    return texts.gather(2, chosen[..., None].expand(-1, -1, -1, texts.shape[-1]))


def _score_backwards(
    decoder, features: Tensor, padding: Tensor, counts: Tensor | None, texts: Tensor, length_penalty: float
) -> Tensor:
    """Scores of texts (B, 2, beam, L), each by the direction that did not write it.   Returns (B, 2, beam)."""
    size, _, beam, _ = texts.shape
    texts = texts.masked_fill((texts == START) | (texts == END), PAD)
    lengths = (texts != PAD).sum(-1)
    length = max(int(lengths.max()), 1)
    framed = frame(texts[..., :length].flatten(0, 2), lengths.flatten(), 2)
    inputs, targets = (
        x.view(size, 2, beam, 2, length + 1)[:, :, :, 1].clone() for x in (framed.inputs, framed.targets)
    )
    for ids in (inputs, targets):  # what was itself written backwards is read forwards: start and end change places
        swapped = ids[:, 1]
        ids[:, 1] = torch.where((swapped == START) | (swapped == END), START + END - swapped, swapped)

    scores = torch.zeros(lengths.shape, device=texts.device)
    longest = lengths.flatten(1).amax(1)
    texts_at_once = RESCORED_AT_ONCE // ((length + 1) * padding[0].numel())
    pictures_at_once = max(1, texts_at_once // (2 * beam))
    beams_at_once = min(max(1, texts_at_once // 2), beam)  # fewer than all where a single picture is too much
    for part in longest.argsort().split(pictures_at_once):
        end = int(longest[part[-1]]) + 1
        for few in torch.arange(beam, device=texts.device).split(beams_at_once):
            logits = decoder(
                features[part],
                padding[part],
                inputs[part][:, :, few, :end].flatten(0, 2),
                None if counts is None else counts[part],
            ).logits
            losses = F.cross_entropy(
                logits.float().flatten(0, 1),
                targets[part][:, :, few, :end].flatten(),
                ignore_index=PAD,
                reduction="none",
            )
            scores[part[:, None], :, few] = -losses.view(len(part), 2, len(few), end).sum(-1).transpose(1, 2)
    return scores / (lengths + 1) ** length_penalty


def _hypotheses(texts: Tensor, scores: Tensor, is_cut: Tensor, beam: int) -> list[Hypothesis]:
    """The best `beam` different readings of each picture, from both directions together."""
    results = []
    for picture in zip(texts.tolist(), scores.tolist(), is_cut.tolist(), strict=True):
        found: dict[tuple[int, ...], Hypothesis] = {}
        for direction, (rows, row_scores, row_is_cut) in enumerate(zip(*picture, strict=True)):
            for row, score, cut in zip(rows, row_scores, row_is_cut, strict=True):
                tokens = [token for token in row if token not in (PAD, START, END)]
                if direction == 1:
                    tokens.reverse()
                hypothesis = Hypothesis(tokens, score, cut)
                key = tuple(tokens)
                if score > float("-inf") and (key not in found or _rank(hypothesis) > _rank(found[key])):
                    found[key] = hypothesis
        best, *rest = sorted(found.values(), key=_rank, reverse=True)[:beam]
        results.append(Hypothesis(best.tokens, best.score, best.is_cut, tuple(rest)))
    return results


def _rank(hypothesis: Hypothesis) -> tuple[bool, float]:
    return not hypothesis.is_cut, hypothesis.score
