"""What makes a reading doubtful is told, and what does not is not."""

import pytest

from utils.errors import DataError
from utils.reading.strokes import as_strokes
from utils.reading.warnings import find_repetition, warnings_about


def test_a_sure_whole_and_well_formed_reading_has_no_warning():
    assert warnings_about("x ^ { 2 }".split(), 0.9, is_truncated=False, is_well_formed=True) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": []}, ("nothing was read",)),
        ({"is_truncated": True}, ("the formula had not ended after 2 tokens",)),
        ({"is_well_formed": False}, ("not well-formed LaTeX",)),
        ({"confidence": 0.02}, ("the network is unsure (2 % for all tokens together)",)),
        ({"tokens": ["x", "+"] * 12}, ("`x +` is repeated 12 times",)),
        ({"is_well_formed": False, "confidence": 0.0}, ("not well-formed LaTeX",
                                                        "the network is unsure (0 % for all tokens together)")),
    ],
)  # fmt: skip
def test_each_reason_is_named(changes, expected):
    reading = {"tokens": ["x", "y"], "confidence": 0.9, "is_truncated": False, "is_well_formed": True}
    assert warnings_about(**reading | changes) == expected


def test_a_repetition_is_a_piece_that_follows_itself_for_long():
    assert find_repetition(["a", *["1"] * 25]) == (["1"], 25)
    assert find_repetition("x _ { 1 } + y".split() * 6 + ["z"]) == ("x _ { 1 } + y".split(), 6)
    assert find_repetition(["1"] * 19) is None  # digits repeat
    assert find_repetition("( X ) ( X ) ( X ) ( X ) ( X )".split()) is None
    assert find_repetition([]) is None


@pytest.mark.parametrize(
    "value",
    [
        [[(0, 0), (10, 40)], [(5, 5)]],
        [[[0, 0, 0.1], [10, 40, 0.2]], [[5, 5, 0.9]]],
        {"strokes": [[[0, 0], [10, 40]], [[5, 5]]]},
        [{"x": [0, 10], "y": [0, 40], "t": [0, 1]}, {"x": [5], "y": [5]}],
        [[{"x": 0, "y": 0}, {"x": 10, "y": 40}], [{"x": 5, "y": 5}]],
    ],
)
def test_strokes_come_as_lists_arrays_and_json(value):
    assert [stroke.tolist() for stroke in as_strokes(value)] == [[[0, 0], [10, 40]], [[5, 5]]]


@pytest.mark.parametrize("value", [None, "x", 3, [], [[]], [[1, 2]], [[[1]]], {"x": 1}, [[["a", "b"]]]])
def test_what_is_no_list_of_strokes_is_an_error_that_says_what_is_expected(value):
    with pytest.raises(DataError, match=r"expected strokes \[\[\[x, y\]"):
        as_strokes(value)


def test_a_coordinate_that_is_no_number_is_an_error():
    with pytest.raises(DataError, match="not a finite number"):
        as_strokes([[[0, float("nan")]]])
