"""Autoregressive decoding: from the features of images to token sequences, greedily or by beam search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decoders.interface import Decoder, DecoderState, teacher_forcing
from utils.hypotheses import MINUS_INFINITY, Braces, Hypothesis, best_hypotheses, max_tokens, rescored
from utils.special_tokens import END, PAD, START

# Steps between two checks of which images are done: each check makes the CPU wait for the GPU.
CHECK_EVERY = {"cpu": 1, "cuda": 8}
MAX_RESCORED = 2**21  # hypotheses x tokens x feature positions of one pass of rescoring; each needs some 500 bytes


def token_limits(padding: Tensor) -> Tensor:
    """The most tokens that an image may have, from its size alone.   padding: (B, h, w).   Returns (B,)."""
    is_image = ~padding
    return max_tokens(is_image.any(2).sum(1), is_image.any(1).sum(1))


def _log_probabilities(logits: Tensor, starts: Tensor, sequences: Tensor, braces: Braces | None) -> Tensor:
    """Of the next token, (…, V) fp32; minus infinity for padding, the start, and an end where there is nothing to end.

    starts: (…).   sequences: (…, L) the tokens so far.   braces: no formula ends before all of its braces are closed,
    and none is closed that is not open.
    """
    scores = logits.float().log_softmax(-1)
    scores[..., PAD] = MINUS_INFINITY
    scores.scatter_(-1, starts[..., None], MINUS_INFINITY)
    is_forward = starts == START
    can_end = (sequences != PAD).any(-1)
    if braces:
        left, right = braces
        open_braces = ((sequences == left).long() - (sequences == right).long()).sum(-1)  # fewer than 0 backwards
        can_end &= open_braces == 0
        _forbid(scores, torch.where(is_forward, right, left), open_braces == 0)
    _forbid(scores, START + END - starts, ~can_end)
    return scores


def _forbid(scores: Tensor, tokens: Tensor, where: Tensor) -> None:
    """Minus infinity for a token of each row, (…), where that is so, (…)."""
    tokens = tokens[..., None]
    scores.scatter_(-1, tokens, scores.gather(-1, tokens).masked_fill(where[..., None], MINUS_INFINITY))


# ---- greedy ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def greedy(
    decoder: Decoder,
    features: Tensor,
    padding: Tensor,
    counts: Tensor | None = None,
    length_penalty: float = 1.0,
    braces: Braces | None = None,
) -> list[Hypothesis]:
    """The likeliest token at every step, from left to right.   features: (B, C, h, w), padding: (B, h, w).

    braces: of the vocabulary, which are then balanced.
    """
    size, device = len(features), features.device
    check_every = CHECK_EVERY.get(device.type, 8)
    limits = token_limits(padding)
    max_length = int(limits.max())
    state = decoder.start(features, padding, counts)
    starts = tokens = torch.full((size,), START, device=device)
    is_done = torch.zeros(size, dtype=torch.bool, device=device)
    active = torch.arange(size, device=device)  # images that are not done
    sequences = torch.full((size, max_length), PAD, device=device)
    totals = torch.zeros(size, device=device)

    for step in range(max_length):
        logits, state, _ = decoder.step(state, tokens)
        gains, tokens = _log_probabilities(logits, starts, sequences[active, :step], braces).max(-1)
        tokens = tokens.masked_fill(is_done, PAD)
        sequences[active, step] = tokens
        totals[active] += gains.masked_fill(is_done, 0)
        is_done = is_done | (tokens == END) | (step + 1 >= limits)
        if (step + 1) % check_every == 0:
            kept = (~is_done).nonzero()[:, 0]
            if len(kept) == 0:
                break
            if len(kept) < len(active):
                active, limits, starts, tokens, is_done = (x[kept] for x in (active, limits, starts, tokens, is_done))
                state = state.select_images(kept)

    scores = totals / (sequences != PAD).sum(1) ** length_penalty
    return [
        Hypothesis([token for token in row if token not in (PAD, END)], score, END not in row)
        for row, score in zip(sequences.tolist(), scores.tolist(), strict=True)
    ]


# ---- beam search -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    features: Tensor,
    padding: Tensor,
    counts: Tensor | None = None,
    beam: int = 10,
    directions: int | None = None,
    length_penalty: float = 1.0,
    braces: Braces | None = None,
) -> list[Hypothesis]:  # more than 7 parameters: those of greedy(), and two of the beam
    """Keep the `beam` likeliest prefixes at every step. An image is done when `beam` hypotheses have ended that are
    better than all its prefixes, each score being normalized by its present length.

    An end counts when it is among the `beam` best continuations, so that a beam of one finds what greedy() finds.
    directions: 1, or 2 where the decoder reads both ways (its own number by default): then each direction proposes
    hypotheses, and the other one scores them too.   Truncated hypotheses rank behind all that ended.
    braces: of the vocabulary, which are then balanced in all that ended.
    """
    directions = directions or decoder.directions
    check_every = CHECK_EVERY.get(features.device.type, 8)
    beams = _Beams.start(decoder, features, padding, counts, beam, directions)
    max_length = int(beams.limits.max())
    finished = _Finished.empty(len(features), directions, beam, max_length, features.device)

    for length in range(1, max_length + 1):
        logits, state, _ = decoder.step(beams.state, beams.tokens.flatten())
        beams = _advance(replace(beams, state=state), logits, finished, length, length_penalty, braces)
        if length % check_every == 0:
            kept = (~beams.is_done.all(1)).nonzero()[:, 0]
            if len(kept) == 0:
                break
            if len(kept) < len(beams.images):
                beams = beams.select_images(kept)

    sequences, scores = finished.sequences[..., :length], finished.scores
    if directions == 2:
        scores = (scores + _rescore(decoder, features, padding, counts, sequences, length_penalty)) / 2
    return best_hypotheses(sequences.tolist(), scores.tolist(), finished.is_truncated.tolist(), beam)


@dataclass(frozen=True)
class _Beams:
    """The prefixes that are being continued, for the n images that are not done."""

    images: Tensor  # (n,) indices in the batch
    limits: Tensor  # (n,) see token_limits()
    starts: Tensor  # (n, directions) start token
    is_done: Tensor  # (n, directions)
    tokens: Tensor  # (n, directions, beam) the last of each prefix
    sequences: Tensor  # (n, directions, beam, length) prefixes without start
    scores: Tensor  # (n, directions, beam) log-probabilities
    state: DecoderState

    @classmethod
    def start(
        cls,
        decoder: Decoder,
        features: Tensor,
        padding: Tensor,
        counts: Tensor | None,
        beam: int,
        directions: int,
    ) -> "_Beams":
        size, device = len(features), features.device
        images = torch.arange(size, device=device)
        starts = torch.tensor([START, END][:directions], device=device).expand(size, -1)
        tokens = starts[..., None].expand(-1, -1, beam)
        scores = torch.full((size, directions, beam), MINUS_INFINITY, device=device)
        scores[..., 0] = 0  # all prefixes are still the same: only one of them continues
        return cls(
            images=images,
            limits=token_limits(padding),
            starts=starts,
            is_done=torch.zeros(size, directions, dtype=torch.bool, device=device),
            tokens=tokens,
            sequences=tokens.new_zeros(size, directions, beam, 0),
            scores=scores,
            state=decoder.start(features, padding, counts).select(images.repeat_interleave(directions * beam)),
        )

    def select_images(self, kept: Tensor) -> "_Beams":
        """Continue with some of the n images."""
        tensors = {name: value[kept] for name, value in vars(self).items() if name != "state"}
        return _Beams(**tensors, state=self.state.select_images(kept))


@dataclass(frozen=True)
class _Finished:
    """For each image and direction, the best hypotheses so far that ended or were truncated. Changed in place."""

    sequences: Tensor  # (B, directions, beam, max length), padded with 0
    scores: Tensor  # (B, directions, beam), normalized by length; minus infinity where there is none
    is_truncated: Tensor  # (B, directions, beam)

    @classmethod
    def empty(cls, size: int, directions: int, beam: int, max_length: int, device: torch.device) -> "_Finished":
        shape = (size, directions, beam)
        return cls(
            torch.full((*shape, max_length), PAD, device=device),
            torch.full(shape, MINUS_INFINITY, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def add(self, images: Tensor, sequences: Tensor, scores: Tensor, is_truncated: Tensor) -> None:
        """Keep the best of what there is and of m more.

        images: (n,).   sequences: (n, directions, m, length).   scores, is_truncated: (n, directions, m).
        """
        beam, length = self.scores.shape[2], sequences.shape[3]
        sequences = torch.cat([self.sequences[images, ..., :length], sequences], dim=2)
        scores = torch.cat([self.scores[images], scores], dim=2)
        is_truncated = torch.cat([self.is_truncated[images], is_truncated], dim=2)
        # In 64 bits: 32 would round the scores of what is truncated to a thousandth.
        best = (scores.double() - 1e4 * is_truncated).topk(beam).indices
        self.sequences[images, ..., :length] = _gather_sequences(sequences, best)
        self.scores[images] = scores.gather(2, best)
        self.is_truncated[images] = is_truncated.gather(2, best)


def _advance(
    beams: _Beams, logits: Tensor, finished: _Finished, length: int, length_penalty: float, braces: Braces | None
) -> _Beams:
    """Continue each prefix by a token, to `length` tokens; what ends or is truncated goes into `finished`.

    logits: (R, V) of the next tokens.
    """
    size, directions, beam = beams.tokens.shape
    starts = beams.starts[..., None]
    logits = logits.view(size, directions, beam, -1)
    gains = _log_probabilities(logits, starts.expand(-1, -1, beam), beams.sequences, braces)

    # Twice as many as needed: at most one continuation of each prefix is its end.
    scores, best = (beams.scores[..., None] + gains).flatten(2).topk(2 * beam)
    parents, tokens = best // gains.shape[-1], best % gains.shape[-1]
    sequences = torch.cat([_gather_sequences(beams.sequences, parents), tokens[..., None]], dim=-1)
    is_end = tokens == START + END - starts
    has_ended = is_end & ~beams.is_done[..., None]
    has_ended[..., beam:] = False
    is_at_limit = (length >= beams.limits)[:, None] & ~beams.is_done
    is_truncated = ~is_end & is_at_limit[..., None]
    normalized = (scores / length**length_penalty).masked_fill(~(has_ended | is_truncated), MINUS_INFINITY)
    finished.add(beams.images, sequences, normalized, is_truncated)

    # Continue with the best that did not end, as long as the best of them is better than the worst that is finished.
    scores, chosen = scores.masked_fill(is_end, MINUS_INFINITY).topk(beam)
    is_hopeless = scores[..., 0] / length**length_penalty <= finished.scores[beams.images].amin(2)
    first_rows = torch.arange(size * directions, device=logits.device).view(size, directions, 1) * beam
    return replace(
        beams,
        is_done=beams.is_done | is_at_limit | is_hopeless,
        tokens=tokens.gather(2, chosen),
        sequences=_gather_sequences(sequences, chosen),
        scores=scores,
        state=beams.state.select((first_rows + parents.gather(2, chosen)).flatten()),
    )


def _gather_sequences(sequences: Tensor, chosen: Tensor) -> Tensor:
    """sequences: (B, directions, n, L), chosen: (B, directions, m) of the n.   Returns (B, directions, m, L)."""
    return sequences.gather(2, chosen[..., None].expand(-1, -1, -1, sequences.shape[-1]))


@torch.no_grad()
def rescore(
    hypotheses: Sequence[Hypothesis],
    backwards: Decoder,
    features: Tensor,
    padding: Tensor,
    counts: Tensor | None = None,
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """The hypotheses of each image with a decoder that reads from right to left scoring them, too, best first.

    It goes by what comes after a token instead of what came before, and so is wrong elsewhere: Liu et al., Agreement on
    Target-bidirectional Neural Machine Translation, NAACL 2016. See utils.hypotheses.rescored().
    """
    beams = [(one, *one.alternatives) for one in hypotheses]
    length = max(1, *(len(one.tokens) for beam in beams for one in beam))
    sequences = torch.full((len(beams), 1, max(map(len, beams)), length), PAD, device=features.device)
    for rows, beam in zip(sequences[:, 0], beams, strict=True):
        for row, one in zip(rows, beam, strict=False):
            row[: len(one.tokens)] = torch.tensor(one.tokens, device=features.device)
    return rescored(
        hypotheses, _rescore(backwards, features, padding, counts, sequences, length_penalty)[:, 0].tolist()
    )


def _rescore(
    decoder: Decoder,
    features: Tensor,
    padding: Tensor,
    counts: Tensor | None,
    sequences: Tensor,
    length_penalty: float,
) -> Tensor:
    """Scores of sequences (B, K, beam, L) of K directions, 1 or 2, each by the other one.   Returns (B, K, beam)."""
    _, directions, beam, _ = sequences.shape
    inputs, targets, lengths = _reversed(sequences)
    length = inputs.shape[-1]
    scores = torch.zeros(lengths.shape, device=sequences.device)
    max_lengths = lengths.flatten(1).amax(1)
    max_sequences = MAX_RESCORED // (length * padding[0].numel())
    images_at_once = max(1, max_sequences // (directions * beam))
    beams_at_once = min(max(1, max_sequences // directions), beam)  # fewer than all where a single image is too much
    for images in max_lengths.argsort().split(images_at_once):
        end = int(max_lengths[images[-1]]) + 1
        for part in torch.arange(beam, device=sequences.device).split(beams_at_once):
            logits = decoder(
                features[images],
                padding[images],
                inputs[images][:, :, part, :end].flatten(0, 2),
                None if counts is None else counts[images],
            ).logits
            losses = F.cross_entropy(
                logits.float().flatten(0, 1),
                targets[images][:, :, part, :end].flatten(),
                ignore_index=PAD,
                reduction="none",
            )
            losses = losses.view(len(images), directions, len(part), end).sum(-1)
            scores[images[:, None], :, part] = -losses.transpose(1, 2)
    return scores / (lengths + 1) ** length_penalty


def _reversed(sequences: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences (B, K, beam, L) of K directions as inputs and targets, (B, K, beam, length + 1), of the other one.

    Also returns their lengths (B, K, beam), without ends.
    """
    size, directions, beam, _ = sequences.shape
    sequences = sequences.masked_fill((sequences == START) | (sequences == END), PAD)
    lengths = (sequences != PAD).sum(-1)
    length = max(int(lengths.max()), 1)
    forced = teacher_forcing(sequences[..., :length].flatten(0, 2), lengths.flatten(), 2)
    # Of the two directions of each sequence, the second, which is backwards.
    inputs, targets = (
        ids.view(size, directions, beam, 2, length + 1)[:, :, :, 1].clone() for ids in (forced.inputs, forced.targets)
    )
    for ids in (inputs, targets):  # what was proposed from right to left is now read forwards: swap start and end
        second = ids[:, 1:]
        ids[:, 1:] = torch.where((second == START) | (second == END), START + END - second, second)
    return inputs, targets, lengths
