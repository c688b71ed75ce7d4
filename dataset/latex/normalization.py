r"""One spelling for each formula: labels that a reader of the ink could not tell apart become the same tokens.

    normalize(r"x ^ 2 \le { \left( y \right) } '".split())  ->  x ^ { 2 } \leq ( y ) ^ { \prime }

Data sets differ in spelling, and within one the annotators do. A recogniser cannot see which spelling was meant, so
scores are told twice: of the tokens as they are, and after these rules. A rule is here only where two spellings are
written by hand in the same way; that they *mean* the same is not enough: `\phi` and `\varphi`, `\ldots` and `\cdots`,
`\leq` and `\leqslant` stay apart.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dataset.latex.parser import FENCES, LatexError, Node, parse, to_tokens
from dataset.typesetter.symbols import ALIASES, FUNCTIONS

# Raise this with every change of a rule: scores of two versions do not compare.
RULES_VERSION = 1

# Another command for the same sign: the aliases that the typesetter knows, and those that differ in spacing alone.
SIGNS = {
    **ALIASES,
    **dict.fromkeys([r"\vert", r"\lvert", r"\rvert", r"\mid", r"\arrowvert"], "|"),
    **dict.fromkeys([r"\Vert", r"\lVert", r"\rVert", r"\parallel"], r"\|"),
    **dict.fromkeys([r"\centerdot", r"\cdotp"], r"\cdot"),
    "′": r"\prime",
    "'": r"\prime",  # in an argument of its own; primes behind a letter are a rule below
    "⟨": r"\langle",
    "⟩": r"\rangle",
    r"\ast": "*",
    r"\bigtimes": r"\times",
    r"\bigtriangleup": r"\triangle",
    r"\bot": r"\perp",
    r"\Box": r"\square",
    r"\colon": ":",
    r"\iff": r"\Longleftrightarrow",
    r"\implies": r"\Longrightarrow",
    r"\ldotp": ".",
    r"\lozenge": r"\Diamond",
    r"\setminus": r"\backslash",
    r"\textdegree": r"\degree",
    r"\thickapprox": r"\approx",
    r"\thicksim": r"\sim",
    r"\varpropto": r"\propto",
}
NEGATED = {"=": r"\neq", r"\in": r"\notin"}  # `\not =`
SIZES = {
    **dict.fromkeys([r"\dfrac", r"\tfrac", r"\cfrac"], r"\frac"),
    **dict.fromkeys([r"\dbinom", r"\tbinom"], r"\binom"),
    r"\widehat": r"\hat",
    r"\widetilde": r"\tilde",
    r"\widecheck": r"\check",
    r"\overline": r"\bar",
    r"\overrightarrow": r"\vec",
    "smallmatrix": "matrix",
}
SIZE_DECLARATIONS = frozenset(r"\displaystyle \textstyle \scriptstyle \scriptscriptstyle".split())
# Alphabets that a hand does not write; bold, script, blackboard and their like stay.
PLAIN_ALPHABETS = frozenset(
    r"""\mathrm \mathit \mathnormal \text \textrm \textnormal \textup \textit \emph \mbox \hbox \operatorname
    \operatorname* \mathop \mathrel \mathbin \mathord \mathopen \mathclose \mathpunct \mathinner \rm \it""".split()
)


class Rule(NamedTuple):
    """change: a node whose children have been changed already -> the node that takes its place."""

    name: str
    change: Callable[[Node], Node]


def normalize(tokens: Sequence[str]) -> list[str]:
    """The label in its one spelling: what was normalised already stays as it is. Never raises.

    Writing it from its tree puts braces around every argument and around nothing else, and subscripts first. A
    label that is not well-formed has no tree: only the signs of it that have two names get the same one.
    """
    tokens = list(tokens)
    for _ in range(MOST_PASSES):
        changed = _pass(tokens)
        if changed == tokens:
            break
        tokens = changed
    return tokens


# A rule may make work for one before it, as braces do that hide a sign from `\not`; each pass removes a layer of them.
MOST_PASSES = 60


def _pass(tokens: list[str]) -> list[str]:
    try:
        tree = parse(tokens)
    except LatexError:
        return [token if token in GRAMMAR else SIGNS.get(token, token) for token in tokens]
    for rule in RULES:
        tree = _everywhere(tree, rule.change)
    return to_tokens(tree)


GRAMMAR = frozenset(["'", "′", r"\lbrack", r"\rbrack"])  # names that mean something else to the parser than their sign


def _everywhere(node: Node, change: Callable[[Node], Node]) -> Node:
    children = tuple(None if child is None else _everywhere(child, change) for child in node.children)
    return change(node._replace(children=children))


def _symbol(name: str) -> Node:
    return Node("symbol", name, -1, 0, 0)


def _row(children: Sequence[Node]) -> Node:
    return Node("row", "", -1, 0, 0, tuple(children))


def _group(children: Sequence[Node]) -> Node:
    return Node("group", "{", -1, 0, 0, (_row(children),))


# ---- the rules, in their order ---------------------------------------------------------------------------------------


def _signs(node: Node) -> Node:
    r"""`\le` `\leq`, `\to` `\rightarrow`, `\lbrace` `\{`, `\not =` `\neq` and their like."""
    if node.kind == "symbol":
        return node._replace(name=SIGNS.get(node.name, node.name))
    if node.kind in ("delimited", "big"):
        return node._replace(details=tuple((SIGNS.get(name, name), index) for name, index in node.details))
    if node.kind == "negation":
        struck = node.children[0].children
        if len(struck) == 1 and struck[0].kind == "symbol" and struck[0].name in NEGATED:
            return _symbol(NEGATED[struck[0].name])
    return node


def _sizes(node: Node) -> Node:
    r"""`\left (` `\big (` `(`, `\dfrac` `\frac`, `\displaystyle`, `\widehat` `\hat`: all as large as it takes."""
    if node.kind == "row":
        return _row([child for child in node.children if child.name not in SIZE_DECLARATIONS])
    if node.kind in ("delimited", "big"):
        pieces = [*_delimiter(node, 0)]
        for number, row in enumerate(node.children, 1):
            pieces += [*row.children, *_delimiter(node, number)]
        return _group(pieces)
    return node._replace(name=SIZES.get(node.name, node.name)) if node.kind != "symbol" else node


def _delimiter(node: Node, number: int) -> list[Node]:
    """A delimiter as a sign of its own, in a list; `.` draws none."""
    name = node.details[number][0]
    name = {"<": r"\langle", ">": r"\rangle"}.get(name, name)
    return [] if name == "." else [_symbol(name)]


def _spaces(node: Node) -> Node:
    r"""`\,` `\quad` and their like: ink has no exact spaces."""
    if node.kind == "row":
        return _row([child for child in node.children if child.kind != "space"])
    if node.kind == "scripts" and node.children[0] is not None and node.children[0].kind == "space":
        return node._replace(children=(None, *node.children[1:]))
    return node


def _limits(node: Node) -> Node:
    r"""`\limits`, `\nolimits`: CROHME has both spellings for scripts in either place."""
    return node._replace(details=("", -1, node.details[2])) if node.kind == "scripts" else node


def _functions(node: Node) -> Node:
    r"""`\operatorname { s i n }` `\mathrm { s i n }` `\sin`."""
    if node.kind == "alphabet" and node.name in PLAIN_ALPHABETS:
        letters = node.children[0].children
        name = "\\" + "".join(child.name for child in letters)
        if name in FUNCTIONS and all(child.kind == "symbol" and len(child.name) == 1 for child in letters):
            return _symbol(name)
    return node


def _alphabets(node: Node) -> Node:
    r"""`\mathrm { d }` `d`: upright or slanted is for printers."""
    if node.kind == "row":
        return _row([child for child in node.children if child.kind != "declaration" or not _is_plain(child)])
    return _group(node.children[0].children) if node.kind == "alphabet" and _is_plain(node) else node


def _is_plain(node: Node) -> bool:
    return node.name in PLAIN_ALPHABETS


def _matrices(node: Node) -> Node:
    r"""`pmatrix` is `( matrix )`, `cases` is `\{ matrix`; an `array` without lines is a `matrix`."""
    if node.kind != "matrix":
        return node
    columns = node.details[1]
    name, (left, right) = node.name, FENCES.get(node.name, (".", "."))
    if node.name in FENCES or (name == "array" and "|" not in columns):
        name, columns = "matrix", ""
    fences = [[] if fence == "." else [_symbol(fence)] for fence in (left, right)]
    matrix = node._replace(name=name, details=("joined", columns, -1))
    return _group([*fences[0], matrix, *fences[1]]) if fences != [[], []] else matrix


def _primes(node: Node) -> Node:
    r"""`x '` `x ^ { ' }` `x ^ { \prime }`."""
    if node.kind != "scripts":
        return node
    base, below, above = node.children
    written = [] if above is None else list(above.children)
    pieces = [_symbol(r"\prime") for _ in node.details[2]]
    for piece in written:
        inner = _superscript(piece)
        pieces += inner if inner and all(child.name == r"\prime" for child in inner) else [piece]
    return node._replace(children=(base, below, _row(pieces) if pieces else above), details=(*node.details[:2], ()))


def _superscript(piece: Node) -> tuple[Node, ...]:
    """What a superscript upon nothing holds, as the one that `{ ' }` is; empty for anything else."""
    is_bare = piece.kind == "scripts" and piece.children[0] is None and piece.children[1] is None
    return piece.children[2].children if is_bare else ()


def _braces(node: Node) -> Node:
    """`{ { a } }` `{ a }` `a`, `a ^ { }` `a`: no braces around what is no argument, and around nothing."""
    if node.kind == "scripts":
        base, *scripts = node.children
        below, above = (None if script is None or not script.children else script for script in scripts)
        if below is above is None:
            return _group([]) if base is None else base
        return node._replace(children=(base, below, above))
    if node.kind == "row":
        pieces: list[Node] = []
        for child in node.children:
            pieces += _unwrapped(child)
        return _row([_on_its_base(piece, is_first=not place) for place, piece in enumerate(pieces)])
    if node.kind in ("root", "arrow") and node.children[1] is not None and not _is_balanced(node.children[1]):
        return node._replace(children=(node.children[0], _row([_group(node.children[1].children)])))
    return node


def _unwrapped(node: Node) -> list[Node]:
    """The pieces of a group, or the node itself; a declaration needs its braces, and so do scripts under scripts."""
    group = node.children[0] if node.kind == "scripts" else node
    if group is None or group.kind != "group":
        return [node]
    inner = group.children[0].children
    if any(child.kind == "declaration" for child in inner):
        return [node]
    if node.kind == "group":
        return list(inner)
    if not inner:
        return [node._replace(children=(None, *node.children[1:]))]
    if inner[-1].kind == "scripts":
        return [node]
    return [*inner[:-1], node._replace(children=(inner[-1], *node.children[1:]))]


def _on_its_base(piece: Node, is_first: bool) -> Node:
    """Scripts upon nothing need braces behind other pieces, whose scripts they would be."""
    if piece.kind != "scripts" or piece.children[0] is not None or is_first:
        return piece
    return piece._replace(children=(_group([]), *piece.children[1:]))


def _is_balanced(row: Node) -> bool:
    """Whether brackets in an optional argument would be read back as its content."""
    level = 0
    for child in row.children:
        while child.kind == "scripts" and child.children[0] is not None:
            child = child.children[0]
        level += {"[": 1, "]": -1}.get(child.name, 0)
        if level < 0:
            return False
    return level == 0


RULES = (
    Rule("signs", _signs),
    Rule("sizes", _sizes),
    Rule("spaces", _spaces),
    Rule("limits", _limits),
    Rule("functions", _functions),
    Rule("alphabets", _alphabets),
    Rule("matrices", _matrices),
    Rule("primes", _primes),
    Rule("braces", _braces),
)
