"""Scores, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.metrics import edit_distance, scores

words = st.lists(st.sampled_from("abc"), max_size=8)


def test_edit_distance_counts_single_token_edits():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3
    assert edit_distance("abc", "abc") == 0


@given(words, words, words)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_scores_count_every_item():
    truths = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4], [5, 6]]
    predictions = [[1, 2, 3], [1, 9, 3], [1], None, []]
    found = scores(truths, predictions)
    assert found["items"] == 5
    assert found["exrate"] == 20
    assert found["at_most_1"] == 40
    assert found["at_most_2"] == 80
    assert found["at_most_3"] == 80  # a missing prediction is wrong, however short the truth
    assert found["token_error_rate"] == pytest.approx(100 * (0 + 1 + 2 + 1 + 2) / 12, abs=1e-3)


def test_a_missing_score_list_is_refused():
    with pytest.raises(ValueError, match="2 truths, 1 predictions"):
        scores([[1], [2]], [[1]])
