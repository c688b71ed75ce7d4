"""The kinds of errors of a reading, in words."""

import pytest

from dataset.latex.error_kinds import BREAK, BROKEN, ERROR_KINDS, error_kinds


@pytest.mark.parametrize(
    "reference, prediction, expected",
    [
        ("x + y", "x + y", []),
        ("x + y", "", ["nothing was read"]),
        (r"x \le 1", r"x \leq 1", ["another spelling of the same"]),
        ("x ^ { 2 }", "x _ { 2 }", ["a script or brace in the wrong place, all symbols right"]),
        ("x ^ { 2 }", "y _ { 2 }", ["a script or brace in the wrong place, beside a wrong symbol",
                                    "a letter for another"]),
        (r"\frac { a } { b }", r"\sqrt { a } { b }", ["a fraction or root"]),
        (r"\sqrt { x }", "x", ["a fraction or root"]),
        ("x ^ { 2 + 1 }", "x ^ { 2 } + 1", ["a script or brace in the wrong place, all symbols right"]),
        ("x + y", "x y", ["a symbol left out"]),
        ("x y", "x + y", ["a symbol added"]),
        ("x", "X", ["a capital for a small letter, or the reverse"]),
        ("1", "7", ["a digit for another"]),
        ("9", "q", ["a digit for a letter, or the reverse"]),
        ("q", "9", ["a digit for a letter, or the reverse"]),
        ("u", "v", ["a letter for another"]),
        ("( a", "1 a", ["a bracket or bar"]),
        (r"\alpha", "a", ["a Greek letter, wanted or read"]),
        (r"\alpha", r"\gamma", ["a Greek letter, wanted or read"]),
        (r"\times", "x", ["another sign, wanted or read"]),
        ("= 2", "- 3", ["a digit for another", "another sign, wanted or read"]),
    ],
)  # fmt: skip
def test_what_went_wrong_is_named(reference, prediction, expected):
    assert list(error_kinds(reference.split(), prediction.split())) == expected
    assert set(expected) <= set(ERROR_KINDS)


def test_a_reading_with_many_tokens_too_few_or_too_many_broke_off_or_ran_on():
    whole = [*"a+b=c+d-e+f-g+h-i"]
    assert BROKEN not in error_kinds(whole, whole[: 1 - BREAK])
    assert BROKEN in error_kinds(whole, whole[:-BREAK])
    assert BROKEN in error_kinds(whole[:-BREAK], whole)


def test_a_reading_without_an_end_is_wrong_though_all_of_its_tokens_are_right():
    tokens = "a + b".split()
    assert list(error_kinds(tokens, tokens, is_truncated=True)) == [BROKEN]
