"""Labels as trees: what is read, what is refused, and that nothing is lost between tokens and tree."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.latex.parser import MAX_DEPTH, LatexError, Node, ink_tokens, parse, to_tokens, tokenize, walk

SYMBOLS = r"""a b x y z A B N 0 1 2 7 \alpha \pi \Delta + - = < , . ( ) / | ! \times \leq \rightarrow \in \infty \sin
\log \lim \sum \int \prod \cdots \ldots \{ \} \prime \, \! \quad""".split()


def wrapped(command: str, *arguments: list[str]) -> list[str]:
    return [command, *(token for argument in arguments for token in ("{", *argument, "}"))]


def joined(parts: list[list[str]], separator: list[str]) -> list[str]:
    return [token for number, part in enumerate(parts) for token in (separator if number else []) + part]


def structures(inner: st.SearchStrategy) -> st.SearchStrategy:
    """Every construct of the grammar around token lists of `inner`, in canonical form."""
    row = st.lists(inner, min_size=1, max_size=3).map(lambda parts: joined(parts, []))
    base = st.sampled_from([["x"], ["2"], [")"], [r"\sum"], [r"\int"], [r"\lim"], ["{", "a", "b", "}"]])
    lines = st.lists(
        st.lists(row, min_size=2, max_size=2).map(lambda cells: joined(cells, ["&"])), min_size=1, max_size=3
    )
    sides = st.sampled_from([("(", ")"), ("[", "]"), (r"\{", "."), ("|", "|"), (r"\langle", r"\rangle")])
    name = st.sampled_from(["matrix", "pmatrix", "bmatrix", "cases", "aligned", "vmatrix"])
    return st.one_of(
        st.builds(lambda b, s: [*b, *wrapped("_", s)], base, row),
        st.builds(lambda b, s: [*b, *wrapped("^", s)], base, row),
        st.builds(
            lambda b, p, s, t: [*b, *["'"] * p, *wrapped("_", s), *wrapped("^", t)], base, st.integers(0, 2), row, row
        ),
        st.builds(lambda s: [r"\sum", r"\limits", *wrapped("_", s)], row),
        st.builds(
            wrapped,
            st.sampled_from([r"\frac", r"\dfrac", r"\binom", r"\overset", r"\underset", r"\stackrel"]),
            row,
            row,
        ),
        st.builds(wrapped, st.sampled_from([r"\sqrt", r"\hat", r"\overline", r"\vec", r"\boxed", r"\widehat"]), row),
        st.builds(wrapped, st.sampled_from([r"\mathrm", r"\mathbf", r"\text", r"\underbrace", r"\xrightarrow"]), row),
        st.builds(
            lambda d, s: [r"\sqrt", "[", *d, "]", *wrapped("", s)[1:]], st.sampled_from([["3"], ["n", "+", "1"]]), row
        ),
        st.builds(lambda s, r: [r"\left", s[0], *r, r"\right", s[1]], sides, row),
        st.builds(lambda n, ls: [rf"\begin{{{n}}}", *joined(ls, ["\\\\"]), rf"\end{{{n}}}"], name, lines),
        st.builds(lambda n, ls: [r"\begin", f"{{{n}}}", *joined(ls, ["\\\\"]), r"\end", f"{{{n}}}"], name, lines),
        st.builds(lambda ls: wrapped(r"\substack", joined(ls, ["\\\\"])), st.lists(row, min_size=1, max_size=3)),
    )


LEAVES = [*([token] for token in SYMBOLS), ["{", "}"]]
PIECES = st.recursive(st.sampled_from(LEAVES), structures, max_leaves=12)
LABELS = st.lists(PIECES, min_size=1, max_size=4).map(lambda parts: joined(parts, []))


def shape(node: Node):
    """A tree without its places in the label."""
    details = node.details
    if node.kind == "scripts":
        details = details[0], len(details[2])
    elif node.kind in ("delimited", "big"):
        details = tuple(delimiter for delimiter, _ in details)
    elif node.kind == "matrix":
        details = details[:2]
    return node.kind, node.name, details, tuple(child and shape(child) for child in node.children)


# ---- tokens ----------------------------------------------------------------------------------------------------------


@given(LABELS)
@settings(max_examples=60, deadline=None)
def test_tokens_separated_by_spaces_come_back(tokens):
    assert tokenize(" ".join(tokens)) == tokens


@pytest.mark.parametrize(
    ("latex", "tokens"),
    [
        (r"x^2+\frac12", ["x", "^", "2", "+", r"\frac", "1", "2"]),
        (r"\alpha\beta x", [r"\alpha", r"\beta", "x"]),
        (r"\{a\}\,b\\c", [r"\{", "a", r"\}", r"\,", "b", r"\\", "c"]),
        (r"\begin{matrix}a\end{matrix}", [r"\begin{matrix}", "a", r"\end{matrix}"]),
        (r"\begin {matrix} a \end {matrix}", [r"\begin", "{matrix}", "a", r"\end", "{matrix}"]),
        (r"\left(x\right)", [r"\left", "(", "x", r"\right", ")"]),
        (r"\operatorname*{f}", [r"\operatorname*", "{", "f", "}"]),
        ("", []),
    ],
)
def test_spaces_may_be_missing(latex, tokens):
    assert tokenize(latex) == tokens


# ---- round trips -----------------------------------------------------------------------------------------------------


@given(LABELS)
@settings(max_examples=150, deadline=None)
def test_canonical_labels_come_back_from_their_trees(tokens):
    assert to_tokens(parse(tokens)) == tokens


@given(LABELS)
@settings(max_examples=60, deadline=None)
def test_every_node_knows_the_tokens_it_came_from(tokens):
    for node in walk(parse(tokens)):
        assert 0 <= node.start <= node.stop <= len(tokens)
        for child in node.children:
            assert child is None or node.start <= child.start <= child.stop <= node.stop
        if node.kind in ("symbol", "fraction", "root", "accent", "alphabet", "stack", "group"):
            assert tokens[node.start] == tokens[node.token if node.token >= 0 else node.start] == node.name


def test_every_crohme_label_comes_back_up_to_the_order_of_scripts(shared_data):
    reordered = 0
    for split in ("train", "2014"):
        for line in (shared_data / "CROHME" / split / "labels.txt").read_text().splitlines():
            tokens = line.split("\t")[1].split(" ")
            assert tokenize(line.split("\t")[1]) == tokens
            back = to_tokens(parse(tokens))
            reordered += back != tokens
            assert sorted(back) == sorted(tokens)
            assert back == tokens or shape(parse(back)) == shape(parse(tokens))
    assert reordered < 50  # superscripts before subscripts, in old files


@pytest.mark.parametrize(
    ("sloppy", "canonical"),
    [
        (r"x^2_1", "x _ { 1 } ^ { 2 }"),
        (r"\frac12", r"\frac { 1 } { 2 }"),
        (r"\frac\pi2", r"\frac { \pi } { 2 }"),
        (r"\sqrt[3]x", r"\sqrt [ 3 ] { x }"),
        (r"\hat x", r"\hat { x }"),
        (r"x^\frac12", r"x ^ { \frac { 1 } { 2 } }"),
        (r"{a \over b}", r"{ \frac { a } { b } }"),
        (r"{n \choose k}", r"{ \binom { n } { k } }"),
        (r"f''^2", "f ' ' ^ { 2 }"),
        (r"\sqrt[[a]]{x}", r"\sqrt [ [ a ] ] { x }"),
        (r"\not{=}", r"\not ="),
        (r"^2", "^ { 2 }"),
    ],
)
def test_what_people_write_means_its_canonical_form(sloppy, canonical):
    assert " ".join(to_tokens(parse(sloppy))) == canonical


@pytest.mark.parametrize("ending", [r"\\", ""])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ([r"\begin{pmatrix}"], [r"\end{pmatrix}"]),
        ([r"\begin", "{pmatrix}"], [r"\end", "{pmatrix}"]),
        ([r"\begin", "{", *"pmatrix", "}"], [r"\end", "{", *"pmatrix", "}"]),
    ],
)
def test_matrices_are_read_in_every_spelling(opening, closing, ending):
    tokens = [*opening, "a", "&", "b", r"\\", "c", *([ending] if ending else []), *closing]
    (matrix,) = parse(tokens).children
    assert (matrix.kind, matrix.name) == ("matrix", "pmatrix")
    assert [[to_tokens(cell) for cell in line.children] for line in matrix.children] == [[["a"], ["b"]], [["c"]]]


def test_two_tokens_written_as_one_keep_the_indices_of_the_label():
    apart, together = [r"\left", "(", "x", r"\right", ")", "y"], [r"\left(", "x", r"\right)", "y"]
    assert shape(parse(apart)) == shape(parse(together))
    delimited, y = parse(together).children
    assert delimited.details == (("(", 0), (")", 2))
    assert (y.token, delimited.start, delimited.stop) == (3, 0, 3)


def test_tokens_that_leave_ink():
    tokens = r"\frac { x ^ { 2 } } { \sqrt [ 3 ] { y ' } } \, \left . z \right | \mathrm { d }".split()
    assert {tokens[index] for index in ink_tokens(parse(tokens))} == {*r"\frac x 2 \sqrt 3 y ' z | d".split()}
    tokens = r"\begin {pmatrix} a & b \end {pmatrix}".split()
    assert ink_tokens(parse(tokens)) == {1, 2, 4, 6}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latex", "index", "words"),
    [
        ("x ^ { 2", 2, "never closed"),
        ("x }", 1, "without an opening"),
        ("x ^", 1, "lacks an argument"),
        (r"\frac { 1 }", 0, "lacks an argument"),
        ("x ^ ^ 2", 2, "lacks an argument"),
        ("x _ 1 _ 2", 3, "second subscript"),
        ("x ^ 1 ^ 2", 3, "second superscript"),
        (r"\sqrt [ 3", 1, "never closed"),
        (r"\left ( x", 0, "never closed"),
        (r"\left x", 1, "lacks a delimiter"),
        (r"x \right )", 1, "without a"),
        (r"\begin {matrix} x", 0, "never closed"),
        (r"\begin {matrix} x \end {array}", 3, "expected"),
        (r"\begin {foo} x \end {foo}", 1, "unknown environment"),
        (r"\begin", 0, "lacks the name"),
        (r"\begin{array} x \end{array}", 0, "lacks its columns"),
        (r"\begin{array}{xx} x \end{array}", 1, "columns are made of"),
        ("a & b", 1, "outside a matrix"),
        (r"a \\ b", 1, "outside a matrix"),
        ("$ x $", 0, "leave the $ out"),
        ("50 %", 2, "comment"),
        (r"\limits _ x", 0, "needs an operator"),
        (r"a \over b \over c", 3, "braces"),
        ("x \\", 1, "lone backslash"),
        ("x \0", 1, "NUL"),
    ],
)
def test_malformed_labels_name_the_token_and_what_was_expected(latex, index, words):
    with pytest.raises(LatexError, match=".*") as caught:
        parse(latex)
    assert caught.value.index == index
    assert words in caught.value.reason
    assert str(caught.value) == f"token {index}: {caught.value.reason}"


@pytest.mark.parametrize(
    "opening", ["{", r"\frac{1}{", "x^{", r"\left(", r"\sqrt", r"\hat", r"\begin{matrix}", r"\sqrt["]
)
def test_deep_nesting_is_refused_not_a_crash(opening):
    with pytest.raises(LatexError, match=f"nested more than {MAX_DEPTH} deep|never closed"):
        parse(opening * 5000)


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 1
    assert len(to_tokens(parse("{" * depth + "x" + "}" * depth))) == 2 * depth + 1


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(LatexError(3, "why")))
    assert (error.index, error.reason) == (3, "why")
