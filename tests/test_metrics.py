"""Scores, by hand; how sure they are, by simulation and by formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.evaluation.metrics import align, differing, edit_distance, interval, mcnemar, rates, scores

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


@given(words, words)
def test_the_edit_distance_is_the_one_of_the_textbook(reference, prediction):
    row = list(range(len(prediction) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(prediction, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    assert edit_distance(reference, prediction) == row[-1]
    tokens = [[rf"\{letter}lpha" for letter in side] for side in (reference, prediction)]
    assert edit_distance(*tokens) == row[-1]
    assert edit_distance(*([ord(letter) - 98 for letter in side] for side in (reference, prediction))) == row[-1]


def test_scores_count_every_item():
    references = [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4], [5, 6]]
    predictions = [[1, 2, 3], [1, 9, 3], [1], None, []]
    found = scores(references, predictions)
    assert found["items"] == 5
    assert found["exprate"] == 20
    assert found["at_most_1"] == 40
    assert found["at_most_2"] == found["at_most_3"] == 60  # nothing is not within 3 of a short reference
    assert found["token_error_rate"] == pytest.approx(100 * (0 + 1 + 2 + 1 + 2) / 12, abs=1e-3)
    assert scores(references, [None] * 5) == scores(references, [[]] * 5)


def test_a_missing_score_list_is_refused():
    with pytest.raises(ValueError, match="2 references, 1 predictions"):
        scores([[1], [2]], [[1]])


@given(words, words)
def test_an_alignment_has_the_fewest_edits_and_every_token_in_order(reference, prediction):
    pairs = align(reference, prediction)
    assert [i for i, _ in pairs if i is not None] == list(range(len(reference)))
    assert [j for _, j in pairs if j is not None] == list(range(len(prediction)))
    edits = sum(i is None or j is None or reference[i] != prediction[j] for i, j in pairs)
    assert edits == edit_distance(reference, prediction)


def test_where_alignments_are_as_short_a_replacement_goes_first():
    assert align("ab", "bc") == [(0, 0), (1, 1)]  # not: a is missing, b, c is too many


def test_marks_are_on_what_differs():
    assert differing("abcd", "axcd") == ([False, True, False, False], [False, True, False, False])
    assert differing("abc", "ac") == ([False, True, False], [False, False])
    assert differing("", "ab") == ([], [True, True])


@given(words, words)
def test_without_marks_both_are_the_same(reference, prediction):
    marks = differing(reference, prediction)
    sides = zip((reference, prediction), marks, strict=True)
    kept = [[token for token, mark in zip(*side, strict=True) if not mark] for side in sides]
    assert kept[0] == kept[1]


def test_rates_are_scores_of_counts():
    references, predictions = [[1, 2], [3], [4, 5, 6]], [[1, 2], None, [4]]
    found = scores(references, predictions)
    assert {"items": 3, **rates([0, 1, 2], [2, 1, 3], [True, False, True])} == found


def test_the_interval_of_a_share_is_nearly_the_one_of_the_normal_distribution():
    right = np.arange(986) < 611
    low, high = interval(right)
    spread = 100 * 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 986)
    assert low == pytest.approx(100 * right.mean() - spread, abs=0.3)
    assert high == pytest.approx(100 * right.mean() + spread, abs=0.3)
    assert interval(right) == [low, high]  # seeded
    assert interval(right, seed=1) != [low, high]


def test_nineteen_of_twenty_intervals_contain_the_true_rate():
    """Errors per token of texts of different lengths, which no formula for shares fits."""
    random = np.random.default_rng(3)
    inside = 0
    for turn in range(100):
        lengths = random.integers(1, 40, 100)
        low, high = interval(random.binomial(lengths, 0.2), lengths, seed=turn)
        inside += low <= 20 <= high
    assert 88 <= inside <= 99


def test_the_interval_of_nothing_and_of_equals_is_a_point():
    assert interval([]) == [0, 0]
    assert interval([True] * 5) == [100, 100]


def test_drawing_in_turns_changes_nothing(monkeypatch):
    values = np.arange(50) % 3 == 0
    whole = interval(values)
    monkeypatch.setattr("utils.evaluation.metrics.MAX_INDICES", 50 * 7)
    assert interval(values) == whole


@pytest.mark.parametrize(
    ("here", "there", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (1, 9, 2 * 11 / 1024), (9, 1, 2 * 11 / 1024)],
)
def test_mcnemar_by_hand(here, there, p):
    assert mcnemar(here, there) == pytest.approx(p)


def test_mcnemar_with_many_pairs_is_nearly_the_normal_distribution():
    z = (abs(1100 - 1000) - 1) / math.sqrt(2100)  # with continuity correction: Edwards 1948
    assert mcnemar(1000, 1100) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert mcnemar(20_000, 10_000) < 1e-300
