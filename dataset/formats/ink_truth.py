"""The truth of an InkML file as a label: LaTeX, or MathML, in the way that CROHME's published labels are written."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from dataset.formats.ink_traces import tag_of
from dataset.formats.labels import clean_label
from dataset.latex.markup import without_markup
from dataset.latex.normalization import apply_rule
from dataset.latex.parser import LatexError, parse, walk
from dataset.typesetter.symbols import is_drawn
from utils.errors import DataError

MAX_DEPTH = 200  # of LaTeX groups; CROHME has less than 60
CROHME_TOKENS = frozenset(
    r"""! ' ( ) + , - . / 0 1 2 3 4 5 6 7 8 9 < = > A B C E F G H I L M N P R S T V X Y [ ] ^ _ { | }
    a b c d e f g h i j k l m n o p q r s t u v w x y z \Delta \alpha \beta \cdot \cdots \cos \div \exists \forall
    \frac \gamma \geq \in \infty \int \lambda \ldots \leq \lim \limits \log \mu \neq \phi \pi \pm \prime \rightarrow
    \sigma \sin \sqrt \sum \tan \theta \times \{ \}""".split()
)


def truth_tokens(latex: str | None, math: Element | None = None) -> list[str]:
    """The label of an expression of CROHME: braces always, subscript before superscript, `\\limits` after `\\int` only.

    latex: the LaTeX truth.   math: the `<math>` element. The published labels follow the LaTeX truth, so it comes
    first; where it cannot be read, or uses a token that CROHME does not have, the MathML is taken instead.
    Raises DataError when neither can be read.
    """
    labels, problems = [], []
    for read, truth in ((_latex, latex), (lambda math: [token for token, _ in mathml_tokens(math)], math)):
        if truth is None or (isinstance(truth, str) and not truth.strip(" $\n\t")):
            continue
        try:
            labels.append(read(truth))
        except DataError as error:
            problems.append(str(error))
    if not labels:
        raise DataError("; ".join(problems) or "the truth is empty")
    return next((label for label in labels if CROHME_TOKENS.issuperset(label)), labels[0])


def tree_tokens(latex: str) -> list[str]:
    """The label of an expression of any other data set: commands keep their names, `\\ge` is not `\\geq`.

    Braces stand around every argument, and nowhere else; subscripts come before superscripts. Raises DataError.
    """
    try:
        return _tree_label(_cut(latex))
    except LatexError as error:
        raise DataError(f"the LaTeX truth cannot be a label: {error}") from None


_PIECE = re.compile(r"\\[A-Za-z]+|\\.|\S", re.DOTALL)
# What changes how a formula looks and not what it says, and `\left.`, a bracket that is not there.
_LOOKS = re.compile(
    r"\\(left|right) *\.|\\(left|right|[bB]igg?[lr]?|mbox|text|mathrm|mathit|mathbf|displaystyle|q?quad)(?![A-Za-z])"
    r"|\\[ ,:;!]|~"
)
_SAME = {r"\lt": "<", r"\gt": ">", r"\to": r"\rightarrow", r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq",
         r"\lbrack": "[", r"\rbrack": "]", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|"}  # fmt: skip


def _latex(latex: str) -> list[str]:
    """The tokens of a LaTeX truth: by CROHME's rules where its tokens are enough, else those of the tree."""
    tokens, problem = _cut(latex), ""
    try:
        label = _crohme_label(tokens)
    except DataError as error:
        label, problem = [], str(error)
    if label and CROHME_TOKENS.issuperset(label):
        return label
    try:
        return _tree_label(tokens)
    except LatexError as error:
        raise DataError(problem or f"the LaTeX truth cannot be a label: {error}") from None


def _cut(latex: str) -> list[str]:
    """The tokens of a LaTeX truth as they are written, without markup."""
    tokens, _, problem = clean_label(latex.strip().strip("$"))
    if problem:
        raise DataError(f"the LaTeX truth: {problem}")
    tokens = without_markup(tokens)
    if not tokens:
        raise DataError("the LaTeX truth says nothing")
    return tokens


def _tree_label(tokens: list[str]) -> list[str]:
    r"""The canonical label: braces around every argument and no others, `\left (` as `(`, no spaces, upright letters.

    Commands keep their names. Raises LatexError where it is not well-formed, DataError for a command without a sign.
    """
    for node in walk(parse(tokens)):
        if node.kind == "symbol" and re.fullmatch(r"\\[A-Za-z]+", node.name) and not is_drawn(node.name):
            raise DataError(f"the LaTeX truth has {node.name}, which is no sign of mathematics")
    for rule in ("spaces", "delimiters", "functions", "alphabets", "braces"):
        tokens = apply_rule(rule, tokens)
    return _named_functions(tokens)


def _named_functions(tokens: list[str]) -> list[str]:
    for name in (r"\log", r"\lim"):  # written as letters in some truths, never in a label
        tokens = f" {' '.join(tokens)} ".replace(f" {' '.join(name[1:])} ", f" {name} ").split()
    return tokens


def _crohme_label(tokens: list[str]) -> list[str]:
    text = _LOOKS.sub(" ", " ".join(tokens)).replace(r"\parallel", "||")
    pieces = [_SAME.get(piece, piece) for piece in _PIECE.findall(text)]
    # Empty groups go: some truths write `_ {} ,` for a comma that hangs low, and its label is `_ { , }`.
    pieces = re.sub(r"(?<!\S)\{ \}(?!\S)", "", " ".join(pieces)).split()
    return _named_functions(_LatexReader(pieces).row(None))


class _LatexReader:
    """A recursive-descent reader of the LaTeX in CROHME's truths."""

    def __init__(self, pieces: list[str]):
        self.pieces, self.next, self.depth = pieces, 0, 0

    def peek(self) -> str | None:
        return self.pieces[self.next] if self.next < len(self.pieces) else None

    def take(self) -> str:
        self.next += 1
        if self.next > len(self.pieces):
            raise DataError("the LaTeX truth ends too early")
        return self.pieces[self.next - 1]

    def row(self, end: str | None) -> list[str]:
        """Everything up to the closing piece, which is taken too."""
        tokens: list[str] = []
        while (piece := self.peek()) != end:
            if piece == "}":
                raise DataError("the LaTeX truth has a } without {")
            if piece in ("_", "^"):
                tokens += self.scripts()
            elif piece == r"\limits" and tokens[-1:] != [r"\int"]:  # sums and limits have theirs there anyway
                self.take()
            else:
                tokens += self.item()
        if end:
            self.take()
        return tokens

    def scripts(self) -> list[str]:
        scripts = []
        while self.peek() in ("_", "^"):
            scripts.append((self.take(), self.item()))
        scripts.sort(key=lambda script: script[0] == "^")
        return [token for mark, content in scripts for token in (mark, "{", *content, "}")]

    def item(self) -> list[str]:
        """One token, one group without its braces, or one command with its arguments."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise DataError(f"the LaTeX truth is nested more than {MAX_DEPTH} deep")
        piece = self.take()
        if piece == "{":
            tokens = self.row("}")
        elif piece == r"\frac":
            tokens = [piece, "{", *self.item(), "}", "{", *self.item(), "}"]
        elif piece == r"\sqrt":
            degree = []
            if self.peek() == "[":
                degree = [self.take(), *self.row("]"), "]"]
            tokens = [piece, *degree, "{", *self.item(), "}"]
        else:
            tokens = [piece]
        self.depth -= 1
        return tokens


_MATHML_NAMES = {"infin": r"\infty", "im": r"\lim", "ctdot": r"\cdots", "hellip": r"\ldots", "exist": r"\exists",
                 "rarr": r"\rightarrow", "{": r"\{", "}": r"\}"}  # fmt: skip
# What stands before, between and after the children of an element.
_MATHML_FORMS = {
    "mfrac": [r"\frac {", "} {", "}"],
    "msub": ["", "_ {", "}"],
    "munder": ["", "_ {", "}"],
    "msup": ["", "^ {", "}"],
    "msubsup": ["", "_ {", "} ^ {", "}"],
    "munderover": ["", "_ {", "} ^ {", "}"],
}


def leaf_tokens(text: str) -> list[str]:
    """The tokens of a MathML leaf or a symbol's name: `alpha`, `\\alpha`, `≤`'s name `le`, or letters and digits."""
    text = text.strip()
    name = text.removeprefix("\\")
    word = _MATHML_NAMES.get(name, _SAME.get(f"\\{name}", f"\\{name}"))
    return [word] if word in CROHME_TOKENS or (text.startswith("\\") and len(name) > 1) else list(text)


def mathml_tokens(element: Element) -> list[tuple[str, str | None]]:
    """The label of a MathML element: each token with the id of the element that it comes from, where it has one."""
    tag, identity = tag_of(element), element.get("xml:id")
    if tag in ("mi", "mo", "mn", "mtext"):
        return [(token, identity) for token in leaf_tokens(element.text or "")]
    children = [mathml_tokens(child) for child in element]
    if tag == "mroot" and len(children) == 2:
        return [(r"\sqrt", identity), ("[", None), *children[1], ("]", None), ("{", None), *children[0], ("}", None)]
    if tag == "msqrt":
        forms, children = [r"\sqrt {", "}"], [sum(children, [])]
    elif tag in ("math", "mrow", "mstyle", "mpadded"):
        forms = [""] * (len(children) + 1)
    elif tag in _MATHML_FORMS:
        forms = _MATHML_FORMS[tag]
    else:
        raise DataError(f"the MathML truth has a <{tag}>, which CROHME does not use")
    if len(forms) != len(children) + 1:
        raise DataError(f"the MathML truth has a <{tag}> with {len(children)} children, expected {len(forms) - 1}")
    # The element's symbol is the first token, a bar or a root; the brace after it belongs to no element.
    tokens = [(token, None if index else identity) for index, token in enumerate(forms[0].split())]
    for child, form in zip(children, forms[1:], strict=True):
        tokens += [*child, *((token, None) for token in form.split())]
    return tokens
