"""What a prediction has in common with the truth: tokens, structure, symbols, the image that it draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset.latex.normalization import normalize
from dataset.latex.parser import DELIMITERS, LatexError, Node, parse, walk
from dataset.renderer import Layout, RenderError, layout
from dataset.typesetter.symbols import FUNCTIONS_WITH_LIMITS, LARGE_OPERATORS
from utils.evaluation.metrics import edit_distance

TOLERANCE = 0.05  # em by which a sign may stand, or be enlarged, otherwise; a thin space has 0.17
NOT_SYMBOLS = frozenset(r"{ } ^ _ & \\ \frac \sqrt \limits \nolimits \left \right \middle \begin \end".split())
OPERATORS = LARGE_OPERATORS | FUNCTIONS_WITH_LIMITS
FENCE_SIGNS = DELIMITERS - frozenset(r"/ \backslash . < > \uparrow \downarrow \Uparrow \Downarrow".split())
# The kinds of structure that `kinds` tells apart, in the order of a table; a node of the tree -> its kind.
KINDS = ("flat", "scripts", "fraction", "root", "big operator", "delimiters", "accent", "matrix")
KIND_OF_NODE = {"fraction": "fraction", "root": "root", "accent": "accent", "matrix": "matrix", "substack": "matrix"}
KIND_OF_NODE |= {"scripts": "scripts", "stack": "scripts", "arrow": "scripts", "delimited": "delimiters"}
KIND_OF_NODE |= {"big": "delimiters"}
DEEPER = frozenset(["scripts", "fraction", "root", "accent", "stack", "arrow", "matrix", "substack"])


def _tree(tokens: Sequence[str]) -> Node | None:
    try:
        return parse(tokens)
    except LatexError:
        return None


# ---- of one label ----------------------------------------------------------------------------------------------------


def is_well_formed(tokens: Sequence[str]) -> bool:
    """Whether there is something, and LaTeX could read it."""
    return len(tokens) > 0 and _tree(tokens) is not None


def structure(tokens: Sequence[str]) -> tuple | None:
    r"""The tree with its symbols blanked: equal where two labels differ in symbols alone. None where there is no tree.

    What draws or arranges keeps its name: \frac, \hat, a matrix. How many symbols there are remains, too.
    """
    tree = _tree(tokens)
    return None if tree is None else _blanked(tree)


def _blanked(node: Node) -> tuple | str:
    if node.kind in ("symbol", "big", "negation"):
        return "."
    name = "" if node.kind == "delimited" else node.name
    children = [None if child is None else _blanked(child) for child in node.children]
    if node.kind == "scripts":
        return (node.kind, *children, len(node.details[2]))
    return (node.kind, name, *(child for child, inner in zip(children, node.children, strict=True) if _counts(inner)))


def _counts(node: Node | None) -> bool:
    return node is None or node.kind not in ("space", "declaration")


def symbols(tokens: Sequence[str]) -> list[str]:
    """The signs of a label in reading order, delimiters and primes among them; its structure is left out.

    Of a label that is not well-formed: all tokens that no structure is written with.
    """
    tree = _tree(tokens)
    if tree is None:
        return [token for token in tokens if token not in NOT_SYMBOLS]
    indices = set()
    for node in walk(tree):
        if node.kind == "symbol":
            indices.add(node.token)
        elif node.kind == "scripts":
            indices.update(node.details[2])
        elif node.kind in ("delimited", "big"):
            indices.update(index for name, index in node.details if name != ".")
    return [tokens[index] for index in sorted(indices)]


def depth(tokens: Sequence[str]) -> int:
    r"""How many structures there are inside one another: 0 for `a + b`, 1 for `\frac { a } { b }`.

    A base does not lie in its scripts. Of a label that is not well-formed: how deep its braces nest.
    """
    tree = _tree(tokens)
    if tree is not None:
        return _depth(tree)
    deepest = level = 0
    for token in tokens:
        level = max(level + {"{": 1, "}": -1}.get(token, 0), 0)
        deepest = max(deepest, level)
    return deepest


def _depth(node: Node) -> int:
    if node.kind == "scripts":
        base, *scripts = node.children
        inner = max((_depth(script) for script in scripts if script is not None), default=0)
        return max(1 + inner, 0 if base is None else _depth(base))
    return (node.kind in DEEPER) + max((_depth(child) for child in node.children if child is not None), default=0)


def kinds(tokens: Sequence[str]) -> tuple[str, ...]:
    """Which of KINDS occur; `flat` where nothing stands above, below or around anything else.

    A label that is not well-formed is of none.
    """
    tree = _tree(tokens)
    if tree is None:
        return ()
    found = set()
    for node in walk(tree):
        base = node.children[0] if node.kind == "scripts" else None
        if base is not None and base.name in OPERATORS:
            found.add("big operator")
        elif node.kind in KIND_OF_NODE:
            found.add(KIND_OF_NODE[node.kind])
        elif node.kind == "symbol" and node.name in FENCE_SIGNS:
            found.add("delimiters")
    if not found - {"delimiters"}:
        found.add("flat")
    return tuple(kind for kind in KINDS if kind in found)


# ---- of two ----------------------------------------------------------------------------------------------------------


def same_image(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two labels draw the same image: the same glyphs and rules in the same places, in any order.

    What cannot be drawn looks like itself alone.
    """
    if list(a) == list(b):
        return True
    try:
        one, other = layout(list(a)), layout(list(b))
    except RenderError:
        return False
    if np.abs(one.extents - other.extents).max() > TOLERANCE:
        return False
    return _same_marks(one, other)


def _same_marks(one: Layout, other: Layout) -> bool:
    """Every mark of each has its like in the other. One that is drawn twice, on the same spot, is one."""
    marks, others = _marks(one), _marks(other)
    distances = np.abs(marks[:, None] - others[None]).max(axis=2)  # (marks, others)
    return bool(distances.min(axis=1).max() <= TOLERANCE and distances.min(axis=0).max() <= TOLERANCE)


def _marks(layout: Layout) -> np.ndarray:
    """(marks, 6): font, glyph, x, y and two scales of a glyph; -1, -1, x, y, width and height of a rule."""
    glyphs = np.concatenate([layout.glyph_ids[:, :2], layout.glyph_places], axis=1)
    rules = np.concatenate([np.full((len(layout.rule_places), 2), -1), layout.rule_places], axis=1)
    return np.concatenate([glyphs, rules])


class Comparison(NamedTuple):
    """A prediction beside the truth. Errors are edits of tokens; `normal` ones those of both labels normalized.

    What was not read to its end has at least one error: that end. Structure, symbols and images are those of the
    normalized labels, so that what is right after normalizing draws the same image, too.
    """

    is_read: bool
    errors: int
    length: int  # tokens of the truth
    normal_errors: int
    normal_length: int
    symbol_errors: int
    symbols: int  # of the truth
    same_structure: bool
    is_well_formed: bool
    same_image: bool

    @property
    def is_exact(self) -> bool:
        return self.is_read and self.errors == 0

    @property
    def is_normal(self) -> bool:
        return self.is_read and self.normal_errors == 0


def compare(truth: Sequence[str], prediction: Sequence[str] | None, is_truncated: bool = False) -> Comparison:
    """prediction: None where there is none, which is wrong in every token.   is_truncated: it never came to its end."""
    truth, normal_truth = list(truth), normalize(truth)
    signs = symbols(normal_truth)
    lengths = len(truth), len(normal_truth), len(signs)
    if prediction is None:
        pairs = [count for length in lengths for count in (length, length)]
        return Comparison(False, *pairs, same_structure=False, is_well_formed=False, same_image=False)
    prediction, normal = list(prediction), normalize(prediction)
    is_normal, own = normal == normal_truth, structure(normal)
    errors = (
        0 if prediction == truth else edit_distance(truth, prediction),
        0 if is_normal else edit_distance(normal_truth, normal),
        0 if is_normal else edit_distance(signs, symbols(normal)),
    )
    pairs = [
        count for found, length in zip(errors, lengths, strict=True) for count in (max(found, is_truncated), length)
    ]
    return Comparison(
        True,
        *map(int, pairs),
        same_structure=not is_truncated and (is_normal or (own is not None and own == structure(normal_truth))),
        is_well_formed=not is_truncated and is_well_formed(prediction),
        same_image=not is_truncated and same_image(normal_truth, normal),
    )
