"""evaluate.py: every item of a split counts, whoever read it, and whatever went wrong is named."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate
from models.recognizer import Recognizer
from utils.script import run_script
from utils.training.run_folder import save_checkpoint

LABELS = {
    "one": r"x ^ { 2 } \leq 1",
    "two": "a + b",
    "three": r"\frac { a } { b }",
    "four": "x _ { 1 } ^ { 2 }",
    "five": "b = a",
    "six": r"\sqrt { x }",
}
TALL = "six"  # the only picture of this height
KEYS = {
    "dataset", "split", "items", "search", "device", "seconds", "pictures_per_second", "exact", "normalized",
    "structure_exprate", "symbol_accuracy", "well_formed", "visual_exprate", "intervals", "by", "confusions", "failed",
    "against",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A data set in the plain form, and the checkpoint of a network that has learnt nothing."""
    folder = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        images = folder / "datasets" / "MINE" / split / "images"
        images.mkdir(parents=True)
        for number, name in enumerate(LABELS):
            picture = np.full((100 if name == TALL else 40 + number, 50 + 7 * number), 255, np.uint8)
            picture[4:-4, 8:12] = picture[10:14, 5:-5] = 0
            picture[random.integers(20, 30) :, -16:-12] = 0
            cv2.imwrite(str(images / f"{name}.png"), picture)
        lines = "".join(f"{name}\t{label}\n" for name, label in LABELS.items())
        (images.parent / "labels.txt").write_text(lines)
    tokens = sorted({token for label in LABELS.values() for token in label.split()})
    (folder / "datasets" / "MINE" / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens))
    torch.manual_seed(1)
    encoder = {"growth": 4, "layers": [1, 1], "compression": 0.5, "dropout": 0.0}
    options = {"width": 16, "heads": 2, "layers": 2, "feed_forward": 16, "dropout": 0.0}
    model = Recognizer(len(tokens) + 3, encoder, "transformer", options, domains=("handwritten",))
    about = {"architecture": model.architecture(), "vocabulary": tokens}
    about["data"] = {"picture_scale": 1.0, "max_height": 512, "max_width": 512}
    save_checkpoint(folder / "model.safetensors", model.state_dict(), about)
    return folder


@pytest.fixture
def home(made, tmp_path, monkeypatch) -> Path:
    """A copy to work in, and to spoil."""
    import shutil

    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home, monkeypatch, capsys):
    """run("--json", …) -> (scores or the text, stderr): the script as a person calls it."""

    def run(*arguments: str, expected: int = 0):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--dataset", "MINE", "--device", "cpu", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_script(evaluate.main)
        out, errors = capsys.readouterr()
        assert stop.value.code == expected, errors
        assert "Traceback" not in errors
        return (json.loads(out) if "--json" in arguments and not expected else out), errors

    return run


@pytest.fixture
def page(monkeypatch) -> list:
    """What the report is made of, in place of the report."""
    from utils.evaluation import page

    seen = []
    monkeypatch.setattr(page, "write_report", lambda path, title, scores, items: seen.append((title, scores, items)))
    return seen


def write(home: Path, predictions: dict[str, str]) -> str:
    (home / "theirs.txt").write_text("".join(f"{name}\t{text}\n" for name, text in predictions.items()))
    return "theirs.txt"


# ---- anybody's predictions -------------------------------------------------------------------------------------------


def test_scores_by_hand(home, run):
    predictions = LABELS | {"one": r"x ^ { 2 } \le 1", "two": "a + a", "three": r"\frac { a } { b", "four": "x _ 1 ^ 2"}
    scores, errors = run("--predictions", write(home, predictions), "--json")
    assert scores.keys() == KEYS | {"predictions"}
    assert scores["items"] == 6 and errors == "" and scores["failed"] == []
    exact, normal = scores["exact"], scores["normalized"]
    # one token of `one`, `two`, `three` each, four braces of `four`; 33 tokens in all
    assert exact["exprate"] == pytest.approx(100 * 2 / 6, abs=1e-3)
    assert [exact[f"at_most_{k}"] for k in (1, 2, 3)] == pytest.approx([100 * 5 / 6] * 3, abs=1e-3)
    assert exact["token_error_rate"] == pytest.approx(100 * 7 / 33, abs=1e-3)
    assert normal["exprate"] == pytest.approx(100 * 4 / 6, abs=1e-3)
    assert normal["token_error_rate"] == pytest.approx(100 * 2 / 33, abs=1e-3)
    assert scores["structure_exprate"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert scores["well_formed"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert scores["visual_exprate"] == pytest.approx(100 * 4 / 6, abs=1e-3)
    assert scores["symbol_accuracy"] == pytest.approx(100 * 15 / 16, abs=1e-3)
    assert exact["interval"][0] < exact["exprate"] < exact["interval"][1]
    assert scores["confusions"] == [{"truth": "b", "read": "a", "count": 1}]
    assert {row["name"]: row["items"] for row in scores["by"]["length"]} == {"up to 5": 3, "6 to 10": 3}
    assert {row["name"]: row["exprate"] for row in scores["by"]["kind"]} == {
        "flat": 50, "scripts": 0, "fraction": 0, "root": 100
    }  # fmt: skip


def test_a_sign_is_not_confused_with_a_brace(home, run):
    scores, _ = run("--predictions", write(home, LABELS | {"six": r"\sqrt { x 2", "two": "a ^ b"}), "--json")
    pairs = [(row["truth"], row["read"]) for row in scores["confusions"]]
    assert pairs == [("", "2"), ("", "^"), ("+", "")]


def test_missing_predictions_count_as_wrong_and_are_named(home, run):
    scores, errors = run("--predictions", write(home, {name: LABELS[name] for name in ("one", "five")}), "--json")
    assert scores["items"] == 6 and scores["exact"]["exprate"] == pytest.approx(100 / 3, abs=1e-3)
    assert [failed["id"] for failed in scores["failed"]] == ["two", "three", "four", "six"]
    assert all(f"{name}: no prediction" in errors for name in ("two", "three", "four", "six"))


def test_latex_as_people_write_it_is_cut_into_tokens(home, run):
    written = {
        "one": r"$x^{2}\leq 1$",
        "two": r"\(a+b\)",
        "three": r"$$ \frac{a}{b} $$",
        "four": "x_{1}^{2}",
        "five": r"\[ b = a \]",
        "six": r"$ \sqrt { x } $",
    }
    scores, _ = run("--predictions", write(home, written), "--json")
    assert scores["exact"]["exprate"] == 100
    folder = home / "theirs"
    folder.mkdir()
    for name, text in written.items():  # the form of the CoMER family
        (folder / f"{name}.txt").write_text(f"%{name}\n{text}\n")
    scores, _ = run("--predictions", "theirs", "--json")
    assert scores["exact"]["exprate"] == 100


def test_unknown_names_and_second_predictions_name_file_and_line(home, run):
    (home / "theirs.txt").write_text("one\tx\n\nnobody\tx\none\ty\n")
    _, errors = run("--predictions", "theirs.txt", expected=2)
    assert "theirs.txt, line 3: 'nobody' is not in the split" in errors
    assert "theirs.txt, line 4: a second prediction for 'one', the first: theirs.txt, line 1" in errors
    assert len(errors.strip().splitlines()) == 1
    (home / "folder").mkdir()
    (home / "folder" / "nobody.txt").write_text("x")
    _, errors = run("--predictions", "folder", expected=2)
    assert "nobody.txt: 'nobody' is not in the split" in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--predictions", "none.txt"], "none.txt: not found"),
        (["--predictions", "empty"], "empty: no predictions in it"),
        (["--predictions", "latin.txt"], "latin.txt: expected UTF-8"),
        (["--predictions", "broken.jsonl"], "broken.jsonl, line 1: not JSON"),
        (["--predictions", "foreign.jsonl"], 'foreign.jsonl, line 1: expected {"id"'),
        (["--predictions", "latin.txt", "--split", "2099"], "no split 2099; there are: test, train"),
        (["--predictions", "latin.txt", "--against", "foreign.jsonl"], "foreign.jsonl, line 1"),
        (["--checkpoint", "none.safetensors"], "none.safetensors: no such checkpoint"),
        (["--checkpoint", "model.safetensors", "--batch", "0"], "at least 1, got 0"),
        (["--checkpoint", "model.safetensors", "--predictions", "latin.txt"], "not allowed with"),
        (["--checkpoint", "model.safetensors", "--out", "latin.txt"], "latin.txt"),
    ],
)
def test_what_a_user_gets_wrong_is_told(home, run, arguments, expected):
    (home / "empty").mkdir()
    (home / "latin.txt").write_bytes("one\té".encode("latin-1"))
    (home / "broken.jsonl").write_text("{\n")
    (home / "foreign.jsonl").write_text('{"name": "one"}\n')
    _, errors = run(*arguments, expected=2)
    assert expected in errors


# ---- a checkpoint ----------------------------------------------------------------------------------------------------

CHECKPOINT = ("--checkpoint", "model.safetensors")


def numbers(scores: dict) -> dict:
    return {name: scores[name] for name in KEYS - {"seconds", "pictures_per_second", "search"}}


def test_no_other_flag_changes_the_scores(home, run, page):
    for search in ([], ["--beam", "3"]):
        plain, _ = run(*CHECKPOINT, *search, "--json")
        others, _ = run(*CHECKPOINT, *search, "--json", "--batch", "2", "--out", "out", "--gallery", "1")
        assert numbers(plain) == numbers(others)
        text, _ = run(*CHECKPOINT, *search)
        assert f"{plain['exact']['exprate']:.2f}" in text and f"{plain['normalized']['exprate']:.2f}" in text
        again, _ = run("--predictions", "out/predictions.jsonl", "--json")
        same = KEYS - {"search", "device", "seconds", "pictures_per_second"}
        assert {name: again[name] for name in same} == {name: plain[name] for name in same}
        assert json.loads((home / "out" / "scores.json").read_text())["exact"] == plain["exact"]


def test_a_batch_has_at_most_so_many_pictures(run, monkeypatch):
    read, sizes = Recognizer.read, []

    def counting(self, images, padding, **options):
        sizes.append(len(images))
        return read(self, images, padding, **options)

    monkeypatch.setattr(Recognizer, "read", counting)
    run(*CHECKPOINT, "--batch", "2")
    assert sum(sizes) == 6 and max(sizes) == 2
    sizes.clear()
    run(*CHECKPOINT)
    assert sum(sizes) == 6 and max(sizes) > 2


def test_the_search_that_was_used_is_told(run):
    for arguments, expected in (
        ([], (1, 1)),
        (["--direction", "both"], (1, 2)),
        (["--beam", "2"], (2, 2)),
        (["--beam", "2", "--direction", "left-to-right"], (2, 1)),
    ):
        scores, _ = run(*CHECKPOINT, *arguments, "--json")
        assert (scores["search"]["beam"], scores["search"]["directions"]) == expected


def test_readings_that_never_end_are_named_and_wrong(home, run, page):
    scores, errors = run(*CHECKPOINT, "--json", "--out", "out")
    lines = [json.loads(line) for line in (home / "out" / "predictions.jsonl").read_text().splitlines()]
    cut = [line["id"] for line in lines if line["is_cut"]]
    assert cut  # it has learnt nothing, not even to stop
    assert [failed["id"] for failed in scores["failed"]] == cut
    assert all(f"{name}: cut" in errors for name in cut)


def test_a_picture_that_fails_costs_itself_alone(home, run, page, monkeypatch):
    run(*CHECKPOINT, "--out", "whole")
    read = Recognizer.read

    def failing(self, images, padding, **options):
        if images.shape[2] >= 90:
            raise RuntimeError("not enough memory")
        return read(self, images, padding, **options)

    monkeypatch.setattr(Recognizer, "read", failing)
    scores, errors = run(*CHECKPOINT, "--json", "--out", "one-less")
    assert scores["items"] == 6
    assert f"counted as wrong: {TALL}: RuntimeError: not enough memory" in errors
    assert {"id": TALL, "reason": "RuntimeError: not enough memory"} in scores["failed"]
    whole, less = (
        {line["id"]: line for line in map(json.loads, (home / name / "predictions.jsonl").read_text().splitlines())}
        for name in ("whole", "one-less")
    )
    assert less[TALL]["prediction"] is None
    assert all(less[name]["prediction"] == whole[name]["prediction"] for name in LABELS if name != TALL)

    monkeypatch.setattr(Recognizer, "read", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is no failure of a picture
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--dataset", "MINE", *CHECKPOINT])
        evaluate.main()
    monkeypatch.setattr(Recognizer, "read", lambda *_, **__: int("x"))
    _, errors = run(*CHECKPOINT, expected=2)
    assert "could not read a single picture" in errors


def test_a_picture_that_cannot_be_opened_counts_as_wrong(home, run):
    split = home / "datasets" / "MINE" / "test"
    (split / "images" / "two.png").write_bytes(b"no picture")
    (split / "images" / "four.png").unlink()
    with open(split / "labels.txt", "a") as file:
        file.write("one\tx\nseven\n")
    scores, errors = run(*CHECKPOINT, "--json")
    reasons = {failed["id"]: failed["reason"] for failed in scores["failed"]}
    assert scores["items"] == 8
    assert "two.png" in reasons["two"]
    assert "no picture 'four'" in reasons["four"]
    assert "no label" in reasons["seven"]
    assert "duplicate name 'one', first in line 1" in reasons["one (test/labels.txt, line 7)"]
    assert "two" in errors
    assert not (split / "store").exists()  # training must not take what is left for the whole
    again, _ = run(*CHECKPOINT, "--json")
    assert numbers(again) == numbers(scores)


def test_what_prepare_left_out_counts_as_wrong(home, run):
    from dataset.formats.packages import prepare

    folder = home / "datasets" / "MINE"
    (folder / "test" / "images" / "two.png").write_bytes(b"no picture")
    assert len(prepare(folder, folder, progress=False)) == 1  # as --skip-bad does; its store stays
    scores, _ = run(*CHECKPOINT, "--json")
    (failed,) = [failed for failed in scores["failed"] if failed["id"] == "two"]
    assert scores["items"] == 6 and "two.png" in failed["reason"]
    assert (folder / "test" / "store").exists()


# ---- against another run, and the report -----------------------------------------------------------------------------


def test_against_itself_nothing_differs_and_against_the_truth_everything_wrong_does(home, run, page):
    scores, _ = run(*CHECKPOINT, "--out", "out", "--json")
    itself, _ = run(*CHECKPOINT, "--against", "out/predictions.jsonl", "--json")
    assert itself["against"] == {"file": "out/predictions.jsonl", "only_here": 0, "only_there": 0, "p": 1}
    right, _ = run("--predictions", write(home, LABELS), "--against", "out/predictions.jsonl", "--json")
    wrong = 6 - round(6 * scores["exact"]["exprate"] / 100)
    assert right["against"]["only_here"] == wrong and right["against"]["p"] == pytest.approx(2 / 2**wrong, abs=1e-6)
    lines = (home / "out" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (home / "half.jsonl").write_text("".join(lines[:3]))
    _, errors = run(*CHECKPOINT, "--against", "half.jsonl", expected=2)
    assert "half.jsonl: 3 items of this split are missing" in errors


def test_the_report_shows_what_went_wrong(home, run, page):
    scores, _ = run(*CHECKPOINT, "--beam", "2", "--out", "out", "--json")
    title, shown, items = page.pop()
    assert title == "MINE test" and shown == scores
    assert [item.name for item in items] == list(LABELS)
    for item in items:
        height, width = item.picture.shape
        assert item.picture.dtype == np.uint8 and item.picture.max() == 255
        assert len(item.truth_marks) == len(item.truth) and len(item.prediction_marks) == len(item.prediction)
        cells = item.attention.shape[1:]
        assert item.attention.shape[0] == len(item.confidences) == len(item.prediction)
        assert cells == (-(-height // item.stride), -(-width // item.stride))
        assert item.attention.sum((1, 2)) == pytest.approx(1, abs=1e-3)
        assert item.truth_drawn.picture.ndim == 2 and item.truth_drawn.boxes
        assert (item.errors > 0) == any(item.truth_marks + item.prediction_marks)
        assert item.alternatives and item.alternatives[0][0].split()


def test_the_report_of_predictions_from_elsewhere_has_pictures_but_no_attention(home, run, page):
    run("--predictions", write(home, LABELS | {"one": "x ^ {"}), "--out", "out", "--gallery", "5")
    items = {item.name: item for item in page.pop()[2]}
    assert "one" in items and len(items) == 2  # the wrong one, and a fifth of five right ones
    assert items["one"].picture.max() == 255 and items["one"].attention is None
    assert items["one"].prediction_drawn is None and items["one"].truth_drawn is not None


def test_the_gallery_is_spread_evenly():
    chosen = evaluate.gallery([place % 2 == 0 for place in range(1000)], 100)
    assert len(chosen) == 120 and chosen == sorted(set(chosen))
    wrong = [place for place in chosen if place % 2]
    assert len(wrong) == 100 and max(np.diff(wrong)) == min(np.diff(wrong)) == 10
    assert evaluate.gallery([True, False, True], 300) == [0, 1, 2]
    assert evaluate.gallery([True, False, True], 0) == []
