"""New labels: what they may never be, what they look like, and the file that keeps them."""

import json

import pytest

from dataset.images.sample import make_labels
from dataset.latex import expressions
from dataset.latex.expressions import canonical, cell_of, digest, open_expressions, profile, synthesize
from dataset.latex.parser import parse, to_tokens
from dataset.renderer import layout


@pytest.fixture(scope="module")
def old():
    return make_labels(800, seed=1)


@pytest.fixture(scope="module")
def new(old):
    return synthesize(old[:600], 2000, seed=0, exclude=old[600:])


def keys(labels):
    return {tuple(label) for label in labels}


def distance(one, other):
    """Total variation between two distributions: 0 where they are equal, 1 where they share nothing."""
    return sum(abs(one.get(cell, 0) - other.get(cell, 0)) for cell in {*one, *other}) / 2


def test_new_labels_differ_from_one_another_from_the_old_and_from_the_excluded(old, new):
    assert len(keys(new)) == len(new) == 2000
    assert not keys(new) & keys(old)


def test_an_excluded_label_is_excluded_however_it_is_written(old, new):
    scripts = [label for label in new if [label[1:2], label[4:6], label[8:9]] == [["_"], ["}", "^"], ["}"]]][:5]
    swapped = [[label[0], *label[5:9], *label[1:5], *label[9:]] for label in scripts]  # superscript first
    assert swapped and [canonical(label) for label in swapped] == [tuple(label) for label in scripts]
    again = synthesize(old[:600], 2000, seed=0, exclude=[*old[600:], *swapped])
    assert not keys(again) & keys(scripts)


def test_new_labels_are_canonical_and_can_be_drawn(new):
    for label in new[:400]:
        assert to_tokens(parse(label)) == label
        layout(label)


def test_new_labels_use_the_symbols_of_the_old_ones(old, new):
    assert {token for label in new for token in label} == {token for label in old[:600] for token in label}


def test_lengths_and_nesting_are_those_of_the_old_labels(old, new):
    shares = profile(old[:600])
    rare = sum(share for cell, share in shares.items() if cell[0] <= 3)  # hardly any other label is as short
    assert distance(profile(new), shares) < rare + 0.05


def test_lengths_and_nesting_are_as_asked(old):
    target = {cell_of("x + 1 2 = y".split()): 0.75, cell_of(r"\frac { x } { x + 1 2 }".split()): 0.25}
    assert profile(synthesize(old, 200, seed=0, target=target)) == target


def test_the_same_seed_gives_the_same_labels_and_another_seed_others(old, new):
    assert synthesize(old[:600], 2000, seed=0, exclude=old[600:]) == new
    other = synthesize(old[:600], 2000, seed=1, exclude=old[600:])
    assert len(keys(other) & keys(new)) < 1000


def test_brackets_that_open_close():
    sides = [f"( {a} + {b} = {c} )".split() for a, b, c in ("xy1", "xz2", "ab3", "cd4", "nm5", "pq6")]
    for label in synthesize(sides, 200, seed=0):
        assert label.count("(") == label.count(")")
        assert "(" not in label or label.index("(") < label.index(")")


def test_a_script_is_never_given_to_a_base_that_has_one():
    bare = [f"{a} ^ {{ {b} }} {c} ^ {{ {d} }}".split() for a, b, c, d in ("x1y2", "a3b4", "n5m6")]
    bare += [f"^ {{ {digit} }} {letter}".split() for digit, letter in ("1c", "2d", "3e")]  # as before an isotope
    for label in synthesize(bare, 200, seed=0):
        assert to_tokens(parse(label)) == label


def test_letters_of_words_are_not_renamed():
    words = [rf"\mathrm {{ k g }} {letter} ^ {{ {digit} }}".split() for letter in "xyzabc" for digit in "123456789"]
    for label in synthesize(words[::2], 20, seed=0):
        assert r"\mathrm" not in label or "k g" in " ".join(label)


def test_malformed_labels_are_no_templates_but_are_excluded():
    bad = "x ^ { 2".split()
    made = synthesize([bad, *(["x", "^", "{", a, b, "}"] for a in "1234" for b in "567")], 20, seed=0, exclude=[bad])
    assert bad not in made


def test_where_few_labels_give_no_more_there_are_fewer_and_that_is_said(tmp_path, capsys):
    few = ["x + 1".split(), "y - 2".split(), "x ^ { 2 }".split()]
    made = synthesize(few, 500, seed=0)
    assert 0 < len(made) < 500
    assert synthesize([["{"]], 5, seed=0) == []
    assert open_expressions(tmp_path, few, 500, 0, {}, progress=False) == made
    assert f"only {len(made)} of 500 new labels can be made from 3" in capsys.readouterr().err


def test_the_manifest_says_what_was_excluded(old, tmp_path):
    held_out = {"validation": old[600:700], "2014": old[700:]}
    made = open_expressions(tmp_path, old[:600], 50, 0, held_out, progress=False)
    manifest = json.loads((tmp_path / "expressions-50-0.json").read_text())
    assert manifest["count"] == 50 and manifest["seed"] == 0
    assert manifest["excluded"]["2014"] == {"labels": 100, "sha256": digest(old[700:])}
    assert not keys(made) & keys(old)


def test_a_file_is_read_again_while_everything_it_came_from_is_the_same(old, tmp_path, monkeypatch):
    made = open_expressions(tmp_path, old[:600], 50, 0, {"test": old[700:]}, progress=False)
    calls = []
    synthesize_ = expressions.synthesize
    monkeypatch.setattr(expressions, "synthesize", lambda *a, **k: calls.append(a) or synthesize_(*a, **k))
    assert open_expressions(tmp_path, old[:600], 50, 0, {"test": old[700:]}, progress=False) == made and not calls
    other = open_expressions(tmp_path, old[:600], 50, 0, {"test": made}, progress=False)
    assert len(calls) == 1 and not keys(other) & keys(made)


def test_a_file_whose_making_was_broken_off_is_made_again(old, tmp_path):
    made = open_expressions(tmp_path, old[:600], 50, 0, {}, progress=False)
    (tmp_path / "expressions-50-0.json").unlink()
    (tmp_path / "expressions-50-0.txt").write_text("x +")
    assert open_expressions(tmp_path, old[:600], 50, 0, {}, progress=False) == made


def test_new_labels_of_crohme_are_none_of_its_test_labels(shared_data):
    def read(split):
        return [line.split("\t")[1].split() for line in open(shared_data / "CROHME" / split / "labels.txt")]

    train, test = read("train"), read("2014")
    made = synthesize(train, 3000, seed=0, exclude=test)
    assert len(keys(made)) == 3000
    assert not keys(made) & {canonical(label) for label in [*train, *test]}
    for label in made[::10]:
        layout(label)
