r"""Commands that color, number, name or space a formula: what they take is no part of what is written by hand.

without_markup([r"\color", "{", "r", "e", "d", "}", "x", r"\tag", "{", "1", "}"])  ->  ["x"]
"""

import re
from collections.abc import Sequence

# Each with its arguments in braces; all are dropped.
DROPPED_ARGUMENTS = {
    r"\color": 1,
    r"\definecolor": 3,
    r"\hspace": 1,
    r"\label": 1,
    r"\mspace": 1,
    r"\tag": 1,
    r"\vspace": 1,
    r"\cite": 1,
    r"\ref": 1,
    r"\eqref": 1,
}
# Each with the arguments before the one that is kept, as a group of its own.
DROPPED_BEFORE_CONTENT = {
    r"\textcolor": 1,
    r"\colorbox": 1,
    r"\fcolorbox": 2,
    r"\href": 1,
    r"\raisebox": 1,
    r"\scalebox": 1,
    r"\smash": 0,
    r"\ensuremath": 0,
}
DROPPED = frozenset(
    r"""\nonumber \notag \hfill \hfil \strut \mathstrut \protect \allowbreak \nobreak \noindent \relax \null
    \tiny \small \normalsize \footnotesize \scriptsize \large \Large \LARGE \huge \Huge""".split()
)
# Followed by a length without braces, such as `\kern 2pt` or `\hskip 1em plus 1fil`.
BARE_LENGTHS = frozenset([r"\kern", r"\mkern", r"\hskip", r"\mskip", r"\vskip"])
_LENGTH = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:pt|em|ex|mu|cm|mm|in|pc|bp|sp|dd|cc)")
_MARKUP = frozenset(DROPPED_ARGUMENTS) | frozenset(DROPPED_BEFORE_CONTENT) | DROPPED | BARE_LENGTHS


def without_markup(tokens: Sequence[str]) -> list[str]:
    r"""The tokens without such commands. Where an argument is missing or never closed, the command stays."""
    if _MARKUP.isdisjoint(tokens):
        return list(tokens)
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        after = _after_markup(tokens, position)
        if after is None:
            kept.append(tokens[position])
            after = position + 1
        position = after
    return kept


def _after_markup(tokens: Sequence[str], position: int) -> int | None:
    """Where the tokens go on behind the command at `position` and what it drops; None where there is none to drop."""
    token = tokens[position]
    if token in DROPPED:
        return position + 1
    if token in BARE_LENGTHS:
        return _after_length(tokens, position + 1)
    count = DROPPED_ARGUMENTS.get(token, DROPPED_BEFORE_CONTENT.get(token))
    if count is None:
        return None
    position += 1
    if tokens[position : position + 1] == ["*"]:
        position += 1
    if tokens[position : position + 1] == ["["]:  # a color model, or what a \smash keeps
        if "]" not in tokens[position:]:
            return None
        position = tokens.index("]", position) + 1
    for _ in range(count):
        after = _after_group(tokens, position)
        if after is None:
            return None
        position = after
    return position


def _after_group(tokens: Sequence[str], position: int) -> int | None:
    """Where the tokens go on behind the group in braces at `position`; None where there is no whole group."""
    if position < len(tokens) and re.fullmatch(r"\{[^{}]+\}", tokens[position]):
        return position + 1
    depth = 0
    for index in range(position, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[index], 0)
        if depth == 0:
            return index + 1 if tokens[position] == "{" else None
    return None


def _after_length(tokens: Sequence[str], position: int) -> int | None:
    text = ""
    for index in range(position, min(position + 16, len(tokens))):
        text += tokens[index]
        if _LENGTH.fullmatch(text):
            return index + 1
    return None
