"""What two labels have in common: structure, symbols, the image that they draw."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.latex.comparison import KINDS, compare, depth, is_well_formed, kinds, same_image, structure, symbols
from dataset.latex.normalization import normalize
from dataset.latex.parser import tokenize
from tests.test_latex import LABELS


def test_structure_sees_no_symbols_but_how_many_there_are():
    assert structure("x ^ { 2 } + 1".split()) == structure("y ^ { 3 } - a".split())
    assert structure(r"\sin x".split()) == structure("a b".split())
    hash(structure(r"\begin{matrix} a & \sqrt [ 3 ] { b } \end{matrix}".split()))
    for one, other in [
        ("x ^ { 2 }", "x _ { 2 }"),
        ("x ^ { 2 }", "x ^ { 2 3 }"),
        ("x ^ { 2 } 3", "x ^ { 2 3 }"),
        ("a b", "a b c"),
        (r"\frac { a } { b }", r"\binom { a } { b }"),
        (r"\hat { a }", r"\vec { a }"),
        (r"\sqrt { a }", r"\sqrt [ b ] { a }"),
    ]:
        assert structure(one.split()) != structure(other.split())


def test_without_a_tree_there_is_no_structure():
    assert structure("x ^ {".split()) is None
    assert not is_well_formed("x ^ {".split())
    assert not is_well_formed([])
    assert is_well_formed("x ^ { 2 }".split())


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\frac { x ^ { 2 } } { \sqrt { y } } . 5", r"x 2 y . 5"),
        (r"\left( a \right.", "( a"),
        (r"f ' _ { i }", "f ' i"),
        (r"\sqrt [ 3 ] { [ x ] }", "3 [ x ]"),
        (r"\begin{matrix} a & b \\ c \end{matrix}", "a b c"),
        (r"\int \limits _ { a } \, d x", r"\int a d x"),
        (r"x ^ { 2 \frac {", "x 2"),  # malformed: what no structure is written with
    ],
)
def test_symbols_are_what_is_left_without_structure(latex, expected):
    assert symbols(tokenize(latex)) == expected.split()


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        ("a + b", 0),
        ("x ^ 2", 1),
        ("{ x ^ 2 } ^ 2", 1),  # a base does not lie in its scripts
        ("x ^ { y ^ 2 }", 2),
        (r"\frac { \sqrt { x ^ 2 } } { 2 }", 3),
        ("{ { { x", 3),  # malformed: braces
    ],
)
def test_depth_counts_structures_inside_one_another(latex, expected):
    assert depth(latex.split()) == expected


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        ("a + b", {"flat"}),
        ("( a )", {"flat", "delimiters"}),
        (r"\sum _ { i } i", {"big operator"}),
        (r"\lim _ { x } \frac { a ^ 2 } { | b | }", {"big operator", "fraction", "scripts", "delimiters"}),
        (r"\sqrt { \hat a }", {"root", "accent"}),
        (r"\begin{matrix} a \end{matrix}", {"matrix"}),
        ("x ^ {", set()),
    ],
)
def test_kinds_name_the_structures(latex, expected):
    assert set(kinds(latex.split())) == expected
    assert set(kinds(latex.split())) <= set(KINDS)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"a \leq b", r"a \le b"),
        ("x ^ 2", "{ x } ^ { { 2 } }"),
        ("x ^ 2 _ i", "x _ i ^ 2"),
        ("x '", r"x ^ { \prime }"),
        (r"{ a \over b }", r"\frac a b"),
        (r"\lim \limits _ x", r"\lim _ x"),
        (r"\mathrm { s i n } x", r"\mathrm { s i n } { x }"),
        ("x ^ {", "x ^ {"),  # nobody can draw it, and it looks like itself
    ],
)
def test_what_draws_the_same_glyphs_in_the_same_places_is_the_same_image(one, other):
    assert same_image(one.split(), other.split())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b", "b a"),
        ("a a", "a"),
        ("x ^ 2", "x _ 2"),
        ("x ^ 2", "x 2"),
        (r"a \, b", "a b"),
        ("0 2 0", "0 3 0"),
        ("b a b", r"b \phantom { a } b"),
        (r"a \overline { b } c", r"a \hphantom { \overline { b } } c"),
        (r"\int \limits _ a", r"\int _ a"),
        (r"\frac { a } { b }", r"\frac { b } { a }"),
        (r"\sqrt { a } b", r"\sqrt { a b }"),
        (r"\frac { 1 } { 1 1 }", r"\frac { 1 1 } { 1 }"),
        ("x ^ {", "x ^ { {"),
        ("x ^ {", "x"),
    ],
)
def test_what_stands_elsewhere_is_another_image(one, other):
    assert not same_image(one.split(), other.split())
    assert not same_image(other.split(), one.split())


@settings(max_examples=100)
@given(LABELS)
def test_a_label_looks_like_itself_with_more_braces(tokens):
    assert same_image(tokens, ["{", "{", *tokens, "}", "}"]) or not is_drawn(tokens)


def is_drawn(tokens) -> bool:
    from dataset.renderer import RenderError, layout

    try:
        layout(tokens)
    except RenderError:
        return False
    return True


words = st.lists(st.sampled_from(r"a b \le \leq { } ^ _ \frac 2 ( \left( ) \right) \,".split()), max_size=9)


@settings(max_examples=300)
@given(words, words)
def test_exact_implies_normal_implies_structure_and_image(truth, prediction):
    for found in (compare(truth, prediction), compare(truth, truth)):
        assert not found.is_exact or found.is_normal
        assert not found.is_normal or (found.same_structure and found.same_image and found.symbol_errors == 0)
        assert found.length == len(truth) and found.normal_length == len(normalize(truth))
    assert compare(truth, truth).is_exact


def test_a_prediction_that_is_missing_or_cut_is_wrong():
    truth = "x ^ { 2 }".split()
    missing = compare(truth, None)
    assert (missing.is_read, missing.is_exact, missing.errors, missing.symbol_errors) == (False, False, 5, 2)
    cut = compare(truth, truth, is_truncated=True)
    assert cut.errors == cut.normal_errors == 1
    assert not (cut.is_exact or cut.is_normal or cut.same_structure or cut.same_image or cut.is_well_formed)


def test_a_comparison_by_hand():
    found = compare(r"a \leq x ^ { 2 }".split(), r"b \le x ^ 2".split())
    assert (found.errors, found.length) == (4, 7)  # a, \leq and two braces
    assert (found.normal_errors, found.symbol_errors, found.symbols) == (1, 1, 4)
    assert found.same_structure and found.is_well_formed and not found.same_image
