r"""One spelling for each formula: labels that a reader of the ink could not tell apart become the same tokens.

    normalize(r"x ^ 2 \le { \left( y \right) } '".split())  ->  x ^ { 2 } \leq ( y ) ^ { \prime }

Data sets differ in spelling, and within one the annotators do. A recognizer cannot see which spelling was meant, so
scores are told twice: of the tokens as they are, and after these rules. A rule is here only where two spellings are
written by hand in the same way; that they *mean* the same is not enough: `\phi` and `\varphi`, `\ldots` and `\cdots`,
`\leq` and `\leqslant` stay apart.
"""

import html
import operator
import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from dataset.latex.characters import meaning_of
from dataset.latex.markup import without_markup
from dataset.latex.parser import FENCES, LatexError, Node, parse, to_tokens, tokenize
from dataset.typesetter.symbols import ALIASES, FUNCTIONS, FUNCTIONS_WITH_LIMITS, INTEGRALS, LARGE_OPERATORS

# Raise this with every change of a rule: scores of two versions do not compare.
RULES_VERSION = 2

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
NEGATED = {  # `\not =`
    "=": r"\neq",
    r"\in": r"\notin",
    r"\exists": r"\nexists",
    "<": r"\nless",
    ">": r"\ngtr",
    r"\leq": r"\nleq",
    r"\geq": r"\ngeq",
    r"\subseteq": r"\nsubseteq",
    r"\supseteq": r"\nsupseteq",
    r"\cong": r"\ncong",
    r"\sim": r"\nsim",
    "|": r"\nmid",
    r"\|": r"\nparallel",
}
SIZES = {
    **dict.fromkeys([r"\dfrac", r"\tfrac", r"\cfrac"], r"\frac"),
    **dict.fromkeys([r"\dbinom", r"\tbinom"], r"\binom"),
    r"\widehat": r"\hat",
    r"\widetilde": r"\tilde",
    r"\widecheck": r"\check",
    r"\underbar": r"\underline",
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
# Another command for the same alphabet, and the declarations that `{ \bf x }` writes it with.
ALPHABET_NAMES = {
    r"\textbf": r"\mathbf",
    r"\textsf": r"\mathsf",
    r"\texttt": r"\mathtt",
    r"\bm": r"\boldsymbol",
    r"\pmb": r"\boldsymbol",
}
DECLARED_ALPHABETS = {
    r"\bf": r"\mathbf",
    r"\sf": r"\mathsf",
    r"\tt": r"\mathtt",
    r"\cal": r"\mathcal",
    r"\frak": r"\mathfrak",
    r"\boldmath": r"\boldsymbol",
}
# Environments that align lines, which ink does not show exactly, and those that hold one formula.
ALIGNED = frozenset("align align* alignedat split eqnarray eqnarray* gather gather* gathered".split())
OF_ONE_FORMULA = frozenset("equation equation*".split())
WITH_LIMITS = (LARGE_OPERATORS - INTEGRALS) | FUNCTIONS_WITH_LIMITS | frozenset([r"\lim"])
TOKEN_NAMES = {
    "°": r"\degree",
    "%": r"\%",
    "#": r"\#",
    r"\sp": "^",
    r"\sb": "_",
    r"\Bbb": r"\mathbb",
    r"\mathds": r"\mathbb",
}


class Rule(NamedTuple):
    """name: of the rule, for tests and messages.

    change: a node whose children have been changed already -> the node that takes its place.
    change_tokens: tokens -> tokens, before there is a tree. Each rule has one of the two.
    """

    name: str
    change: Callable[[Node], Node] | None = None
    change_tokens: Callable[[list[str]], list[str]] | None = None


def normalize(tokens: Sequence[str]) -> list[str]:
    """The label in its one spelling: what was normalized already stays as it is. Never raises.

    Writing it from its tree puts braces around every argument and around nothing else, and subscripts first. A
    label that is not well-formed has no tree: only the signs of it that have two names get the same one.
    """
    tokens = list(tokens)
    for _ in range(MAX_PASSES):
        changed = _pass(tokens)
        if changed == tokens:
            break
        tokens = changed
    return tokens


# A rule may make work for one before it, as braces do that hide a sign from `\not`; each pass removes a layer of them.
MAX_PASSES = 60


def _pass(tokens: list[str]) -> list[str]:
    for rule in RULES:
        if rule.change_tokens:
            tokens = rule.change_tokens(tokens)
    try:
        tree = parse(tokens)
    except LatexError:
        return [token if token in GRAMMAR else SIGNS.get(token, token) for token in tokens]
    for rule in RULES:
        if rule.change:
            tree = _everywhere(tree, rule.change)
    return to_tokens(tree)


def apply_rule(name: str, tokens: Sequence[str]) -> list[str]:
    """The tokens after one rule alone. Raises LatexError where the rule needs a tree and there is none."""
    rule = next(rule for rule in RULES if rule.name == name)
    if rule.change_tokens:
        return rule.change_tokens(list(tokens))
    return to_tokens(_everywhere(parse(tokens), rule.change))


GRAMMAR = frozenset(["'", "′", r"\lbrack", r"\rbrack"])  # names that mean something else to the parser than their sign


def _everywhere(node: Node, change: Callable[[Node], Node]) -> Node:
    if node.children:
        children = tuple([child and _everywhere(child, change) for child in node.children])
        if any(map(operator.is_not, children, node.children)):
            node = node._replace(children=children)
    return change(node)


def _symbol(name: str) -> Node:
    return Node("symbol", name, -1, 0, 0)


def _row(children: Sequence[Node]) -> Node:
    return Node("row", "", -1, 0, 0, tuple(children))


def _group(children: Sequence[Node]) -> Node:
    return Node("group", "{", -1, 0, 0, (_row(children),))


# ---- the rules, in their order: first those of tokens ----------------------------------------------------------------


def _characters(tokens: list[str]) -> list[str]:
    r"""`≤` `\leq`, `−` `-`, `&lt;` `<`, a bare `%` and `#`, `\sp` `^`: characters and names that TeX has others for."""
    text = "".join(tokens)
    if text.isascii() and TOKEN_NAMES.keys().isdisjoint(tokens) and "&" not in text:
        return tokens
    changed: list[str] = []
    for token in tokens:
        meaning = meaning_of(token) if len(token) == 1 and not token.isascii() else None
        if token in TOKEN_NAMES or meaning is None or "^" in meaning:
            changed.append(TOKEN_NAMES.get(token, token))
        else:
            changed += tokenize(meaning)
    return _without_entities(changed)


_ENTITY = re.compile(r"(?<!\S)& ?(lt|gt|l t|g t) ?;(?!\S)")


def _without_entities(tokens: list[str]) -> list[str]:
    """`& l t ;` outside a matrix, where `&` could be nothing else, is what a web page makes of `<`."""
    if any(token in ("&lt;", "&gt;") for token in tokens):
        tokens = [html.unescape(token) if token in ("&lt;", "&gt;") else token for token in tokens]
    if "&" not in tokens or any(token.startswith(r"\begin") for token in tokens):
        return tokens
    return _ENTITY.sub(lambda match: html.unescape(f"&{match[1].replace(' ', '')};"), " ".join(tokens)).split()


def _line_ends(tokens: list[str]) -> list[str]:
    r"""A `\\` at the end of a label begins no line."""
    while tokens and tokens[-1] == "\\\\":
        tokens = tokens[:-1]
    return tokens


def _old_roots(tokens: list[str]) -> list[str]:
    r"""`\root 3 \of { x }` `\sqrt [ 3 ] { x }`."""
    ends = iter([index for index, token in enumerate(tokens) if token == r"\of"])
    changed = [[token] for token in tokens]
    for start, token in enumerate(tokens):
        if token == r"\root":
            end = next((index for index in ends if index > start), None)
            if end is None:
                break
            changed[start], changed[end] = [r"\sqrt", "["], ["]"]
    return list(chain.from_iterable(changed))


# ---- and those of the tree -------------------------------------------------------------------------------------------


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


def _delimiters(node: Node) -> Node:
    r"""`\left (` `\big (` `(`: as large as it takes."""
    if node.kind not in ("delimited", "big"):
        return node
    pieces = [*_delimiter(node, 0)]
    for number, row in enumerate(node.children, 1):
        pieces += [*row.children, *_delimiter(node, number)]
    return _group(pieces)


def _sizes(node: Node) -> Node:
    r"""`\dfrac` `\frac`, `\displaystyle`, `\widehat` `\hat`: all as large as it takes."""
    if node.kind == "row":
        return _row([child for child in node.children if child.name not in SIZE_DECLARATIONS])
    return node._replace(name=SIZES.get(node.name, node.name)) if node.kind != "symbol" else node


def _delimiter(node: Node, number: int) -> list[Node]:
    """A delimiter as a sign of its own, in a list; `.` draws none."""
    name = node.details[number][0]
    name = {"<": r"\langle", ">": r"\rangle"}.get(name, name)
    return [] if name == "." else [_symbol(name)]


def _spaces(node: Node) -> Node:
    r"""`\,` `\quad` `\phantom { x }` and their like: ink has no exact spaces."""
    if node.kind == "row":
        return _row([child for child in node.children if child.kind != "space" and not child.name.endswith("phantom")])
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


def _stacks(node: Node) -> Node:
    r"""`\underset { x } { \lim }` `\lim _ { x }`, `\stackrel` `\overset`."""
    if node.kind != "stack":
        return node
    script, base = node.children
    pieces = base.children[0].children[0].children if _is_one_group(base) else base.children
    if len(pieces) != 1:
        return node._replace(name=r"\overset") if node.name == r"\stackrel" else node
    operator, scripts = pieces[0], [None, None]
    if operator.kind == "scripts" and operator.children[0] is not None and not operator.details[2]:
        operator, *scripts = operator.children
    index = 0 if node.name == r"\underset" else 1
    if operator.name in WITH_LIMITS and scripts[index] is None:
        scripts[index] = script
        return Node("scripts", "", -1, 0, 0, (operator, *scripts), ("", -1, ()))
    return node._replace(name=r"\overset") if node.name == r"\stackrel" else node


def _is_one_group(row: Node) -> bool:
    return len(row.children) == 1 and row.children[0].kind == "group"


def _declared_alphabets(node: Node) -> Node:
    r"""`{ \bf x }` `\mathbf { x }`, `\bm` `\boldsymbol`, `\mathbf { a } \mathbf { b }` `\mathbf { a b }`."""
    if node.kind == "alphabet":
        return node._replace(name=ALPHABET_NAMES.get(node.name, node.name))
    if node.kind != "row":
        return node
    pieces = list(node.children)
    for index in reversed(range(len(pieces))):
        alphabet = DECLARED_ALPHABETS.get(pieces[index].name) if pieces[index].kind == "declaration" else None
        if alphabet is not None:
            inside = pieces[index + 1 :]
            pieces[index:] = [Node("alphabet", alphabet, -1, 0, 0, (_row(inside),))] if inside else []
    joined: list[Node] = []
    for (kind, name), group in groupby(pieces, key=lambda piece: (piece.kind, piece.name)):
        members = list(group)
        if kind == "alphabet" and len(members) > 1 and name not in PLAIN_ALPHABETS:
            inside = [child for member in members for child in member.children[0].children]
            members = [members[0]._replace(children=(_row(inside),))]
        joined += members
    return _row(joined)


def _alphabets(node: Node) -> Node:
    r"""`\mathrm { d }` `d`: upright or slanted is for printers."""
    if node.kind == "row":
        return _row([child for child in node.children if child.kind != "declaration" or not _is_plain(child)])
    return _group(node.children[0].children) if node.kind == "alphabet" and _is_plain(node) else node


def _is_plain(node: Node) -> bool:
    return node.name in PLAIN_ALPHABETS


def _matrices(node: Node) -> Node:
    r"""`pmatrix` is `( matrix )`, `cases` is `\{ matrix`, an `array` without lines a `matrix`; `align` is `aligned`."""
    if node.kind != "matrix":
        return node
    columns = re.sub("[lr]", "c", node.details[1])
    name, (left, right) = node.name, FENCES.get(node.name, (".", "."))
    if name in OF_ONE_FORMULA and len(node.children) == len(node.children[0].children) == 1:
        return _group(node.children[0].children[0].children)
    if name in ALIGNED:
        name, columns = "aligned", ""
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


def _degrees(node: Node) -> Node:
    r"""`9 0 \degree` `9 0 ^ { \circ }`."""
    if node.kind != "row" or all(child.name != r"\degree" for child in node.children):
        return node
    pieces: list[Node] = []
    for child in node.children:
        last = pieces[-1] if pieces else None
        if child.name != r"\degree" or last is None or (last.kind == "scripts" and last.children[2] is not None):
            pieces.append(child)
        elif last.kind == "scripts":
            pieces[-1] = last._replace(children=(*last.children[:2], _row([_symbol(r"\circ")])))
        else:
            scripts = (last, None, _row([_symbol(r"\circ")]))
            pieces[-1] = Node("scripts", "", -1, 0, 0, scripts, ("", -1, ()))
    return _row(pieces)


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
        return _row([_on_its_base(piece, is_first=not index) for index, piece in enumerate(pieces)])
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
    Rule("characters", change_tokens=_characters),
    Rule("markup", change_tokens=without_markup),
    Rule("line ends", change_tokens=_line_ends),
    Rule("old roots", change_tokens=_old_roots),
    Rule("signs", _signs),
    Rule("delimiters", _delimiters),
    Rule("sizes", _sizes),
    Rule("spaces", _spaces),
    Rule("limits", _limits),
    Rule("functions", _functions),
    Rule("stacks", _stacks),
    Rule("declared alphabets", _declared_alphabets),
    Rule("alphabets", _alphabets),
    Rule("matrices", _matrices),
    Rule("degrees", _degrees),
    Rule("primes", _primes),
    Rule("braces", _braces),
)
