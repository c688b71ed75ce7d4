"""Ids mean one thing, and what is not in the vocabulary is named."""

import pytest

from dataset.vocabulary import EOS, PAD, SOS, UNKNOWN, Vocabulary
from utils.errors import DataError


def test_the_three_specials_come_first():
    vocabulary = Vocabulary(["x", "+"])
    assert (PAD, SOS, EOS, len(vocabulary)) == (0, 1, 2, 5)
    assert vocabulary.encode(["x", "+"]) == [3, 4]
    assert vocabulary.tokens == ("x", "+")


def test_decoding_undoes_encoding_and_stops_at_the_end():
    vocabulary = Vocabulary(["x", "^", "{", "2", "}"])
    tokens = "x ^ { 2 }".split()
    ids = vocabulary.encode(tokens)
    assert vocabulary.decode(ids) == tokens
    assert vocabulary.decode([SOS, *ids, EOS, 3, PAD, PAD]) == tokens


def test_an_unknown_token_is_named_with_its_place():
    with pytest.raises(DataError, match=r"token 3 of 3, \\foo, is not in the vocabulary"):
        Vocabulary(["x", "+"]).encode(["x", "+", r"\foo"])


def test_an_unknown_token_of_the_truth_equals_no_id_that_can_be_predicted():
    vocabulary = Vocabulary(["x"])
    ids = vocabulary.encode(["x", "y"], unknown=UNKNOWN)
    assert ids == [3, UNKNOWN] and UNKNOWN not in range(len(vocabulary))
    assert vocabulary.decode(ids) == ["x", "<unknown>"]


def test_a_vocabulary_file_gives_the_same_ids_again(tmp_path):
    vocabulary = Vocabulary(["、", r"\frac", "a"])
    vocabulary.save(tmp_path / "vocabulary.txt")
    again = Vocabulary.from_file(tmp_path / "vocabulary.txt")
    assert again.tokens == vocabulary.tokens and again.digest == vocabulary.digest
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.txt"]


def test_the_order_of_the_labels_does_not_matter_but_the_order_of_the_tokens_does():
    one, other = (Vocabulary.from_labels(labels) for labels in ([["b", "a"], ["c"]], [["c"], ["a", "b", "a"]]))
    assert one.tokens == other.tokens == ("a", "b", "c")
    assert one.digest != Vocabulary(["b", "a", "c"]).digest


@pytest.mark.parametrize("lines", ["x\ny\nx\n", "x\n<eos>\n", "x\na b\n"])
def test_a_repeated_reserved_or_spaced_token_is_an_error_that_names_the_file(tmp_path, lines):
    (tmp_path / "vocabulary.txt").write_text(lines)
    with pytest.raises(DataError, match=r"vocabulary\.txt"):
        Vocabulary.from_file(tmp_path / "vocabulary.txt")
