"""What went wrong in a reading: the kinds of its errors, in words."""

from collections.abc import Sequence

from dataset.latex.comparison import FENCE_SIGNS, NOT_SYMBOLS
from dataset.latex.normalization import normalize
from dataset.typesetter.symbols import ENTRIES
from utils.evaluation.metrics import aligned_tokens

BREAK = 9  # tokens too few, or too many, in all: a reading that broke off, or ran on
NOTHING = "nothing was read"
SPELLING = "another spelling of the same"
STRUCTURE = "a script or brace in the wrong place, all symbols right"
STRUCTURE_TOO = "a script or brace in the wrong place, beside a wrong symbol"
FRACTION_OR_ROOT = "a fraction or root"
LEFT_OUT, ADDED = "a symbol left out", "a symbol added"
BROKEN = f"broke off, or ran on: {BREAK} tokens or more too few or too many"
CASE = "a capital for a small letter, or the reverse"
# Two classes of symbols, in the order of the alphabet -> the kind. Other pairs are OTHER.
OF_TWO = {
    ("digit", "digit"): "a digit for another",
    ("digit", "letter"): "a digit for a letter, or the reverse",
    ("letter", "letter"): "a letter for another",
}
BRACKET, GREEK, OTHER = "a bracket or bar", "a Greek letter, wanted or read", "another sign, wanted or read"
ERROR_KINDS = (
    NOTHING, SPELLING, STRUCTURE, STRUCTURE_TOO, FRACTION_OR_ROOT, LEFT_OUT, ADDED, BROKEN, CASE,
    *OF_TWO.values(), BRACKET, GREEK, OTHER,
)  # fmt: skip
FRACTIONS_AND_ROOTS = frozenset([r"\frac", r"\sqrt"])
BRACE = ""  # no kind of its own: it goes with a fraction or root, or else with a script


def error_kinds(reference: Sequence[str], prediction: Sequence[str], is_truncated: bool = False) -> tuple[str, ...]:
    """Which of ERROR_KINDS a reading has; none where it is right.   prediction: empty where nothing was read.

    is_truncated: it never came to its end. Both labels are normalized, and compared along the fewest edits between
    them, as the confusions are.
    """
    if list(reference) == list(prediction) and not is_truncated:
        return ()
    if not prediction:
        return (NOTHING,)
    wanted, read = normalize(reference), normalize(prediction)
    found = {_kind_of(*pair) for pair in aligned_tokens(wanted, read, NOT_SYMBOLS) if pair[0] != pair[1]}
    if BRACE in found and FRACTION_OR_ROOT not in found:
        found.add(STRUCTURE)
    if STRUCTURE in found and found - {STRUCTURE, FRACTION_OR_ROOT, BRACE}:
        found = found - {STRUCTURE} | {STRUCTURE_TOO}
    if is_truncated or abs(len(wanted) - len(read)) >= BREAK:
        found.add(BROKEN)
    return tuple(kind for kind in ERROR_KINDS if kind in (found or {SPELLING}))


def _kind_of(wanted: str, read: str) -> str:
    """The kind of one error: a token that was read for another, or for nothing, or not at all."""
    if FRACTIONS_AND_ROOTS & {wanted, read}:
        return FRACTION_OR_ROOT
    if {wanted, read} <= NOT_SYMBOLS | {""}:
        return BRACE if {wanted, read} <= {"", "{", "}"} else STRUCTURE
    if not wanted or not read:
        return LEFT_OUT if wanted else ADDED
    classes = tuple(sorted((_class_of(wanted), _class_of(read))))
    if classes == ("letter", "letter") and wanted.lower() == read.lower():
        return CASE
    if "bracket" in classes:
        return BRACKET
    return GREEK if "Greek" in classes else OF_TWO.get(classes, OTHER)


def _class_of(token: str) -> str:
    if token in FENCE_SIGNS:
        return "bracket"
    if len(token) == 1 and token.isascii() and token.isalnum():
        return "digit" if token.isdigit() else "letter"
    return "Greek" if token in ENTRIES and 0x370 <= ENTRIES[token].code <= 0x3FF else "sign"
