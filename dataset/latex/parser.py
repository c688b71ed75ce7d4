r"""LaTeX labels as trees: text -> tokens -> tree -> tokens.

One parser serves everything that must understand a label: the typesetter, canonical labels, structure scores, new
expressions.

    tokenize(r"x^2+\frac12")   ->  ['x', '^', '2', '+', '\\frac', '1', '2']
    parse(tokens)              ->  Node tree; every node knows the tokens it came from
    to_tokens(tree)            ->  ['x', '^', '{', '2', '}', '+', '\\frac', '{', '1', '}', '{', '2', '}']

The grammar is that of LaTeX mathematics, read as TeX reads it. A label that is not well formed is refused, with the
index of the token at fault. What a command *looks like* is not the parser's business: one that it does not know is a
symbol.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from utils.errors import DataError

# Braces, fractions and roots inside one another. Real labels stay below 12; Python's own recursion limit is far away.
MAX_DEPTH = 60

ACCENTS = frozenset(
    r"""\hat \widehat \check \widecheck \tilde \widetilde \acute \grave \dot \ddot \dddot \breve \bar \vec \mathring
    \overline \underline \overbrace \underbrace \overbracket \underbracket \overparen \underparen \wideparen \overarc
    \overrightarrow \overleftarrow \overleftrightarrow \underrightarrow \underleftarrow \underleftrightarrow
    \boxed \fbox \textcircled \cancel \bcancel \xcancel \phantom \hphantom \vphantom""".split()
)
ALPHABETS = frozenset(
    r"""\mathrm \mathbf \mathit \mathsf \mathtt \mathbb \mathcal \mathscr \mathfrak \mathnormal \boldsymbol \bm \pmb
    \text \textrm \textnormal \textup \textbf \textit \textsf \texttt \emph \mbox \hbox \operatorname \operatorname*
    \mathop \mathrel \mathbin \mathord \mathopen \mathclose \mathpunct \mathinner""".split()
)
DECLARATIONS = frozenset(
    r"\displaystyle \textstyle \scriptstyle \scriptscriptstyle \rm \bf \it \sf \tt \cal \frak \boldmath".split()
)
FRACTIONS = frozenset(r"\frac \dfrac \tfrac \cfrac \binom \dbinom \tbinom".split())
STACKS = frozenset(r"\overset \underset \stackrel".split())
ARROWS = frozenset(
    r"""\xrightarrow \xleftarrow \xleftrightarrow \xlongequal \xRightarrow \xLeftarrow \xLeftrightarrow \xmapsto
    \xhookrightarrow \xhookleftarrow \xrightleftharpoons \xleftrightharpoons""".split()
)
MODULI = frozenset(r"\pmod \pod".split())
INFIX = {r"\over": r"\frac", r"\choose": r"\binom"}
BIG_DELIMITERS = frozenset(
    "\\" + size + side for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")
)
ENVIRONMENTS = frozenset(
    """matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix array cases dcases rcases aligned align align*
    alignedat split gathered gather gather* eqnarray eqnarray* equation equation*""".split()
)
# Environments that come with delimiters: the name at \begin draws the left one, the name at \end the right one.
FENCES = {
    "pmatrix": ("(", ")"),
    "bmatrix": ("[", "]"),
    "Bmatrix": (r"\{", r"\}"),
    "vmatrix": ("|", "|"),
    "Vmatrix": (r"\|", r"\|"),
    "cases": (r"\{", "."),
    "dcases": (r"\{", "."),
    "rcases": (".", r"\}"),
}
SPACES = frozenset(
    r"\, \: \; \! \> \quad \qquad \thinspace \medspace \thickspace \negthinspace \enspace ~".split() + ["\\ "]
)
DELIMITERS = frozenset(
    r"""( ) [ ] | / . < > \{ \} \lbrace \rbrace \| \vert \Vert \lvert \rvert \lVert \rVert \langle \rangle \lfloor
    \rfloor \lceil \rceil \lbrack \rbrack \backslash \uparrow \downarrow \updownarrow \Uparrow \Downarrow \Updownarrow
    \lgroup \rgroup \ulcorner \urcorner \llcorner \lrcorner ⟨ ⟩""".split()
)


class LatexError(DataError):
    """A label that is not well-formed: the `index` of the token at fault, and the `reason`, with what was expected."""

    def __init__(self, index: int, reason: str):
        super().__init__(f"token {index}: {reason}")
        self.index = index
        self.reason = reason

    def __reduce__(self):
        return LatexError, (self.index, self.reason)


class Node(NamedTuple):
    r"""One piece of a label.

    kind         name            children                     details
    -----------  --------------  ---------------------------  ---------------------------------------------------------
    row          ""              the pieces, left to right    -
    group        "{"             (row,)                       braces that stand for themselves, as in `{ a b }`
    symbol       the token       -                            letters, digits, signs, operators, function names
    space        the token       -                            -
    scripts      ""              (base, below, above),        (limits token or "", its index, indices of the primes)
                                 each may be None
    fraction     \frac \binom …  (above, below)               -
    root         \sqrt           (radicand, degree or None)   -
    accent       \hat \boxed …   (row,)                       one argument, decorated
    alphabet     \mathrm \text … (row,)                       one argument, in another alphabet or class
    declaration  \displaystyle … -                            holds to the end of the row
    stack        \overset …      (first, second)              in the order of the arguments
    arrow        \xrightarrow …  (above, below or None)       -
    modulus      \pmod           (row,)                       -
    negation     \not            (what is struck through,)    -
    delimited    \left           rows between delimiters      ((delimiter, its index), …), one more than the rows
    big          \big …          -                            ((delimiter, its index),)
    substack     \substack       the lines, rows              -
    matrix       environment     lines                        (spelling, columns, index of the name at \end)
    line         ""              cells, rows                  -

    token: index of the token that names the piece, -1 where none does.
    start, stop: the half-open range of tokens that it came from.
    """

    kind: str
    name: str
    token: int
    start: int
    stop: int
    children: tuple = ()
    details: tuple = ()


_TOKEN = re.compile(
    r"""\\(?:begin|end)\{[A-Za-z]+\*?\}        # \begin{matrix} written in one piece is one token
    |   (?:(?<=\\begin\ )|(?<=\\end\ ))\{[A-Za-z]+\*?\}     # `\begin {matrix}`: the name is a token of its own
    |   \\operatorname\*
    |   \\[A-Za-z]+
    |   \\.                                     # \{  \,  \\  and the control space
    |   \S""",
    re.VERBOSE | re.DOTALL,
)


def tokenize(latex: str) -> list[str]:
    r"""Split a label into tokens; spaces may be missing.

    A label whose tokens are separated by single spaces gives back those tokens.
    """
    return _TOKEN.findall(latex)


def parse(latex: str | Sequence[str]) -> Node:
    """Read a label, a string or a sequence of tokens, into its tree, a Node of kind `row`.

    Raises LatexError with the index of the token where the label stops making sense, and what was expected there.
    """
    tokens = tokenize(latex) if isinstance(latex, str) else list(latex)
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise LatexError(index, f"a token must be text, got {token!r}")
    parser = _Parser(*_split_joined(tokens))
    tree = parser.row()
    if parser.position < len(parser.tokens):
        parser.misplaced(parser.tokens[parser.position])
    return tree


def to_tokens(node: Node) -> list[str]:
    """The canonical tokens of a tree: braces around every argument, primes before subscript before superscript."""
    tokens: list[str] = []
    _write(node, tokens)
    return tokens


def walk(node: Node) -> Iterator[Node]:
    """The node and all nodes below it, in reading order of their starts; rows and lines included."""
    yield node
    for child in node.children:
        if child is not None:
            yield from walk(child)


def ink_tokens(node: Node) -> set[int]:
    """Indices of the tokens that must leave ink: all but braces, script marks, spaces, commands that only arrange."""
    if node.name.endswith("phantom"):
        return set()
    own = set()
    if node.kind in ("symbol", "root", "arrow", "modulus", "negation", "accent", "fraction"):
        own.add(node.token)
    elif node.kind == "scripts":
        own.update(node.details[2])
    elif node.kind in ("delimited", "big"):
        own.update(index for delimiter, index in node.details if delimiter != ".")
    elif node.kind == "matrix":
        left, right = FENCES.get(node.name, (".", "."))
        own.update(index for fence, index in ((left, node.token), (right, node.details[2])) if fence != ".")
        if "|" in node.details[1]:
            own.add(node.token)
    return own.union(*(ink_tokens(child) for child in node.children if child is not None))


# ---- reading ---------------------------------------------------------------------------------------------------------


_SCRIPT_MARKS = frozenset(["^", "_", "'", r"\limits", r"\nolimits"])
_CLOSERS = frozenset(["}", "&", "\\\\", r"\right", r"\middle", r"\end"])


def _kinds() -> dict[str, str]:
    """The method of the parser that reads what a token starts; symbols are not in it."""
    groups = {
        "accent": ACCENTS,
        "alphabet": ALPHABETS,
        "declaration": DECLARATIONS,
        "fraction": FRACTIONS,
        "stack": STACKS,
        "arrow": ARROWS,
        "modulus": MODULI,
        "big": BIG_DELIMITERS,
        "space": SPACES,
        "group": ["{"],
        "root": [r"\sqrt"],
        "negation": [r"\not"],
        "delimited": [r"\left"],
        "matrix": [r"\begin"],
        "substack": [r"\substack"],
        # these can start nothing; the methods say what is wrong with each
        "misplaced": [*_SCRIPT_MARKS, *_CLOSERS, *INFIX],
        "refused": ["$", "%", "#", "\\", "\0", ""],
    }
    return {token: kind for kind, tokens in groups.items() for token in tokens}


_KINDS = _kinds()
# Two tokens written as one, as some data sets do: \begin{matrix}, \left(, \right\}, \bigl[; but not \leftarrow.
_JOINED = re.compile(
    r"(\\(?:begin|end|left|right|middle|[bB]igg?[lrm]?))(\{[A-Za-z]+\*?\}|[^A-Za-z\s\\{}]|\\[A-Za-z]+|\\[{}|])"
)


def _split_joined(tokens: list[str]) -> tuple[list[str], list[int]]:
    """Split tokens that are two in one. Also returns the index that each came from, and one for the end."""
    split, origin = [], []
    for index, token in enumerate(tokens):
        joined = _JOINED.fullmatch(token) if len(token) > 4 and token[0] == "\\" else None
        for part in joined.groups() if joined else (token,):
            split.append(part)
            origin.append(index)
    return split, [*origin, len(tokens)]


class _Parser:
    """Recursive descent over a list of tokens: a method reads the construct at `position` and moves behind it."""

    def __init__(self, tokens: list[str], origin: list[int]):
        self.tokens = tokens
        self.origin = origin
        self.position = 0
        self.depth = 0

    def peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def node(self, kind, name, token, start, children=(), details=(), stop=None) -> Node:
        """A node that ends here, or at `stop`; all places as they are in the label that was given."""
        origin = self.origin
        stop = self.position if stop is None else stop
        end = origin[stop - 1] + 1 if stop > start else origin[start]
        return Node(kind, name, origin[token] if token >= 0 else -1, origin[start], end, children, details)

    def error(self, position: int, reason: str) -> LatexError:
        return LatexError(self.origin[position], reason)

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(self.position, f"nested more than {MAX_DEPTH} deep")

    # -- rows and pieces

    def row(self, is_denominator: bool = False) -> Node:
        """Pieces up to a token that closes something, which is left for the caller, or to the end of the label."""
        tokens, count = self.tokens, len(self.tokens)
        self.enter()
        start = self.position
        pieces: list[Node] = []
        while self.position < count:
            token = tokens[self.position]
            if token in _CLOSERS:
                break
            if token in INFIX:
                if is_denominator:
                    raise self.error(self.position, f"a second '{token}' in one group; braces must say which is first")
                pieces = [self.infix(pieces, start)]
                break
            pieces.append(self.piece())
        self.depth -= 1
        return self.node("row", "", -1, start, tuple(pieces))

    def piece(self) -> Node:
        """One piece with its scripts."""
        start = self.position
        # `{}^2` is often written without the braces
        base = None if self.tokens[start] in _SCRIPT_MARKS else self.nucleus()
        if self.position < len(self.tokens) and self.tokens[self.position] in _SCRIPT_MARKS:
            return self.scripts(base, start)
        return base

    def nucleus(self) -> Node:
        """One piece without scripts."""
        position = self.position
        token = self.tokens[position]
        kind = _KINDS.get(token)
        if kind is None:
            self.position += 1
            return self.node("symbol", token, position, position)
        return getattr(self, kind)(token)

    def refused(self, token: str) -> Node:
        reasons = {
            "$": "a label is mathematics already; leave the $ out",
            "%": r"a bare % starts a comment in TeX; write \%",
            "#": r"a bare # is not a symbol in TeX; write \#",
            "\\": "a lone backslash; expected a command name",
            "\0": "a NUL character",
            "": "an empty token",
        }
        raise self.error(self.position, reasons[token])

    def misplaced(self, token: str) -> Node:
        reasons = {
            "&": "'&' outside a matrix",
            "\\\\": r"'\\' outside a matrix",
            "}": "'}' without an opening '{'",
            r"\right": r"'\right' without a '\left'",
            r"\middle": r"'\middle' without a '\left'",
            r"\end": r"'\end' without a '\begin'",
        }
        raise self.error(self.position, reasons.get(token, f"'{token}' where an argument was expected"))

    def argument(self, owner: str, owner_index: int) -> Node:
        """The argument of a command, always a row: a group without its braces, or the one piece that comes next."""
        token = self.peek()
        if token is None:
            raise self.error(owner_index, f"'{owner}' lacks an argument: the label ends")
        if token == "{":
            return self.braced()
        if token in _CLOSERS or token in _SCRIPT_MARKS - {"'"} or token in INFIX:
            raise self.error(self.position, f"'{owner}' lacks an argument: found '{token}'")
        start = self.position
        self.enter()
        if token == "'":
            self.position += 1
            piece = self.node("symbol", "'", start, start)
        else:
            piece = self.nucleus()
        self.depth -= 1
        return self.node("row", "", -1, start, (piece,))

    def braced(self) -> Node:
        """`{ … }` as a row whose range leaves the braces out."""
        opening = self.position
        self.position += 1
        row = self.row()
        self.expect("}", opening, "{")
        return row

    def expect(self, closer: str, opening: int, opener: str) -> None:
        token = self.peek()
        if token != closer:
            if token is None:
                raise self.error(opening, f"'{opener}' is never closed: expected '{closer}' before the label ends")
            raise self.error(
                self.position, f"expected '{closer}' for '{opener}' at token {self.origin[opening]}, found '{token}'"
            )
        self.position += 1

    def optional(self) -> Node | None:
        """`[ … ]` as a row, or None. Brackets inside braces or inside further brackets belong to the content."""
        if self.peek() != "[":
            return None
        opening = self.position
        self.position += 1
        self.enter()
        start, level, pieces = self.position, 0, []
        while (token := self.peek()) is not None and token not in _CLOSERS:
            if token == "[":
                level += 1
            elif token == "]":
                if level == 0:
                    break
                level -= 1
            pieces.append(self.piece())
        row = self.node("row", "", -1, start, tuple(pieces))
        self.depth -= 1
        self.expect("]", opening, "[")
        return row

    # -- constructs; each is named after the kind of node that it makes

    def scripts(self, base: Node | None, start: int) -> Node:
        below = above = None
        limits, limits_index, primes = "", -1, []
        while (token := self.peek()) in _SCRIPT_MARKS:
            index = self.position
            self.position += 1
            if token == "'":
                primes.append(self.origin[index])
            elif token == "_":
                if below is not None:
                    raise self.error(index, "a second subscript on the same base")
                below = self.argument("_", index)
            elif token == "^":
                if above is not None:
                    raise self.error(index, "a second superscript on the same base")
                above = self.argument("^", index)
            else:
                if base is None:
                    raise self.error(index, f"'{token}' needs an operator before it")
                limits, limits_index = token, self.origin[index]
        return self.node("scripts", "", -1, start, (base, below, above), (limits, limits_index, tuple(primes)))

    def group(self, token: str) -> Node:
        start = self.position
        row = self.braced()
        return self.node("group", "{", start, start, (row,))

    def space(self, token: str) -> Node:
        self.position += 1
        return self.node("space", token, self.position - 1, self.position - 1)

    def declaration(self, token: str) -> Node:
        self.position += 1
        return self.node("declaration", token, self.position - 1, self.position - 1)

    def _with_arguments(self, kind: str, token: str, count: int) -> Node:
        start = self.position
        self.position += 1
        children = tuple(self.argument(token, start) for _ in range(count))
        return self.node(kind, token, start, start, children)

    def accent(self, token: str) -> Node:
        return self._with_arguments("accent", token, 1)

    def alphabet(self, token: str) -> Node:
        return self._with_arguments("alphabet", token, 1)

    def modulus(self, token: str) -> Node:
        return self._with_arguments("modulus", token, 1)

    def negation(self, token: str) -> Node:
        return self._with_arguments("negation", token, 1)

    def fraction(self, token: str) -> Node:
        return self._with_arguments("fraction", token, 2)

    def stack(self, token: str) -> Node:
        return self._with_arguments("stack", token, 2)

    def infix(self, above: list[Node], start: int) -> Node:
        r"""`a \over b`: all before it in the group is the numerator, all behind it the denominator."""
        index = self.position
        name = self.tokens[index]
        self.position += 1
        below = self.row(is_denominator=True)
        numerator = self.node("row", "", -1, start, tuple(above), stop=index)
        return self.node("fraction", INFIX[name], index, start, (numerator, below))

    def root(self, token: str) -> Node:
        start = self.position
        self.position += 1
        degree = self.optional()
        radicand = self.argument(token, start)
        return self.node("root", token, start, start, (radicand, degree))

    def arrow(self, token: str) -> Node:
        start = self.position
        self.position += 1
        below = self.optional()
        above = self.argument(token, start)
        return self.node("arrow", token, start, start, (above, below))

    def delimiter(self, owner: str, owner_index: int) -> tuple[str, int]:
        token = self.peek()
        if token is None:
            raise self.error(owner_index, f"'{owner}' lacks a delimiter: the label ends")
        if token not in DELIMITERS:
            raise self.error(self.position, f"'{owner}' lacks a delimiter: found '{token}'")
        self.position += 1
        return token, self.origin[self.position - 1]

    def big(self, token: str) -> Node:
        start = self.position
        self.position += 1
        delimiter = self.delimiter(token, start)
        return self.node("big", token, start, start, (), (delimiter,))

    def delimited(self, token: str) -> Node:
        start = self.position
        self.position += 1
        delimiters = [self.delimiter(r"\left", start)]
        rows = []
        while True:
            rows.append(self.row())
            closer, index = self.peek(), self.position
            if closer not in (r"\right", r"\middle"):
                self.expect(r"\right", start, r"\left")
            self.position += 1
            delimiters.append(self.delimiter(closer, index))
            if closer == r"\right":
                return self.node("delimited", r"\left", start, start, tuple(rows), tuple(delimiters))

    def substack(self, token: str) -> Node:
        start = self.position
        self.position += 1
        opening = self.position
        if self.peek() != "{":
            raise self.error(start, rf"'{token}' lacks its lines: expected '{{'")
        self.position += 1
        lines = [self.row()]
        while self.peek() == "\\\\":
            self.position += 1
            lines.append(self.row())
        self.expect("}", opening, "{")
        return self.node("substack", token, start, start, tuple(lines))

    def environment_name(self, command: str) -> tuple[str, int, str]:
        r"""The name behind \begin or \end: (name, index of its token, how the two are spelt)."""
        start = self.position
        self.position += 1
        is_one_token = (self.peek() or "")[1:] != ""
        name = self.word(rf"'{command}' lacks the name of an environment")
        if not is_one_token:
            return name, start + 2, "spelled"
        return name, start + 1, "joined" if self.origin[start] == self.origin[start + 1] else "split"

    def word(self, complaint: str) -> str:
        """A word in braces: one token, `{matrix}`, or a token a letter, `{ m a t r i x }`."""
        opening, token = self.position, self.peek()
        if token is None or token[0] != "{" or token[1:] and token[-1] != "}":
            raise self.error(opening - 1, complaint)
        self.position += 1
        if token != "{":
            return token[1:-1]
        while self.peek() not in ("}", "{", None):
            self.position += 1
        word = "".join(self.tokens[opening + 1 : self.position])
        self.expect("}", opening, "{")
        return word

    def matrix(self, token: str) -> Node:
        start = self.position
        name, name_index, spelling = self.environment_name(r"\begin")
        if name not in ENVIRONMENTS:
            raise self.error(name_index, f"unknown environment '{name}'")
        columns = ""
        if name in ("array", "alignedat"):
            opening = self.position
            columns = self.word(f"'{name}' lacks its columns: expected '{{'")
            if name == "array" and not re.fullmatch(r"[lcr|]+", columns):
                raise self.error(opening, f"array columns are made of l, c, r and |, not '{columns}'")
        lines, cells, line_start = [], [], self.position
        while True:
            cells.append(self.row())
            separator = self.peek()
            if separator == "&":
                self.position += 1
                continue
            lines.append(self.node("line", "", -1, line_start, tuple(cells)))
            if separator == "\\\\":
                self.position += 1
                cells, line_start = [], self.position
                continue
            break
        if separator != r"\end":
            self.expect(r"\end", start, rf"\begin{{{name}}}")
        closing = self.position
        closing_name, closing_index, _ = self.environment_name(r"\end")
        if closing_name != name:
            opener = rf"'\begin{{{name}}}' at token {self.origin[start]}"
            raise self.error(closing, rf"expected '\end{{{name}}}' for {opener}, found '\end{{{closing_name}}}'")
        if len(lines) > 1 and all(not cell.children for cell in lines[-1].children) and len(lines[-1].children) == 1:
            lines.pop()  # a trailing \\ opens no line
        details = (spelling, columns, self.origin[closing_index])
        return self.node("matrix", name, name_index, start, tuple(lines), details)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _write(node: Node, tokens: list[str]) -> None:
    kind = node.kind
    if kind == "symbol" or kind == "space" or kind == "declaration":
        tokens.append(node.name)
    elif kind == "row":
        for child in node.children:
            _write(child, tokens)
    elif kind == "scripts":
        _write_scripts(node, tokens)
    elif kind == "group":
        _write_braced(node.children[0], tokens)
    elif kind in ("root", "arrow"):
        argument, optional = node.children
        tokens.append(node.name)
        if optional is not None:
            tokens.append("[")
            _write(optional, tokens)
            tokens.append("]")
        _write_braced(argument, tokens)
    elif kind == "negation":
        tokens.append(node.name)
        (struck,) = node.children
        plain = len(struck.children) == 1 and struck.children[0].kind == "symbol"
        (_write if plain else _write_braced)(struck, tokens)
    elif kind in ("delimited", "big"):
        _write_delimited(node, tokens)
    elif kind == "substack":
        tokens += [node.name, "{"]
        for number, line in enumerate(node.children):
            if number:
                tokens.append("\\\\")
            _write(line, tokens)
        tokens.append("}")
    elif kind == "matrix":
        _write_matrix(node, tokens)
    else:  # commands with braced arguments: accent, alphabet, fraction, stack, modulus
        tokens.append(node.name)
        for child in node.children:
            _write_braced(child, tokens)


def _write_braced(row: Node, tokens: list[str]) -> None:
    tokens.append("{")
    _write(row, tokens)
    tokens.append("}")


def _write_scripts(node: Node, tokens: list[str]) -> None:
    base, below, above = node.children
    limits, _, primes = node.details
    if base is not None:
        _write(base, tokens)
    if limits:
        tokens.append(limits)
    tokens += ["'"] * len(primes)
    for mark, script in (("_", below), ("^", above)):
        if script is not None:
            tokens.append(mark)
            _write_braced(script, tokens)


def _write_delimited(node: Node, tokens: list[str]) -> None:
    if node.kind == "big":
        tokens += [node.name, node.details[0][0]]
        return
    commands = [r"\left"] + [r"\middle"] * (len(node.children) - 1)
    for command, (delimiter, _), row in zip(commands, node.details, node.children, strict=False):
        tokens += [command, delimiter]
        _write(row, tokens)
    tokens += [r"\right", node.details[-1][0]]


def _write_matrix(node: Node, tokens: list[str]) -> None:
    spelling, columns, _ = node.details

    def name_tokens(command: str) -> list[str]:
        if spelling == "joined":
            return [f"{command}{{{node.name}}}"]
        if spelling == "split":
            return [command, f"{{{node.name}}}"]
        return [command, "{", *node.name, "}"]

    tokens += name_tokens(r"\begin")
    if columns:
        tokens += ["{", *columns, "}"]
    for number, line in enumerate(node.children):
        if number:
            tokens.append("\\\\")
        for column, cell in enumerate(line.children):
            if column:
                tokens.append("&")
            _write(cell, tokens)
    tokens += name_tokens(r"\end")
