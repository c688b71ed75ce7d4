"""Reasons to doubt a reading, in words: it is no LaTeX, it repeats itself, it never ended, the network was unsure."""

from __future__ import annotations

from collections.abc import Sequence

# A piece of up to so many tokens that follows itself so often, over so many tokens in all, is a loop of the decoder. No
# label of CROHME is like that.
MAX_PERIOD, MIN_REPEATS, MIN_REPEATED_TOKENS = 8, 5, 20
# The probability of all tokens together, below which a reading is doubted. With the published weights, greedy, on
# CROHME 2014, that are 45 % of the wrong readings, and 1.5 % of the right ones.
UNSURE = 0.1


def warnings_about(
    tokens: Sequence[str], confidence: float, is_truncated: bool, is_well_formed: bool
) -> tuple[str, ...]:
    """confidence: the probability of all tokens together."""
    found = []
    if not tokens:
        return ("nothing was read",)
    if is_truncated:
        found.append(f"the formula had not ended after {len(tokens)} tokens")
    if repeated := find_repetition(tokens):
        piece, count = repeated
        found.append(f"`{' '.join(piece)}` is repeated {count} times")
    if not is_well_formed:
        found.append("not well-formed LaTeX")
    if confidence < UNSURE:
        found.append(f"the network is unsure ({100 * confidence:.2g} % for all tokens together)")
    return tuple(found)


def find_repetition(tokens: Sequence[str]) -> tuple[list[str], int] | None:
    """The piece of a label that is repeated most, and how often it follows itself; None where that is usual."""
    best: tuple[int, list[str], int] | None = None
    for period in range(1, MAX_PERIOD + 1):
        run = 0
        for index in range(period, len(tokens) + 1):
            if index < len(tokens) and tokens[index] == tokens[index - period]:
                run += 1
                continue
            count = run // period + 1
            if count >= MIN_REPEATS and count * period >= MIN_REPEATED_TOKENS and (best is None or run > best[0]):
                start = index - run - period
                best = run, list(tokens[start : start + period]), count
            run = 0
    return best and best[1:]
