"""evaluate.py: every item of a split counts, whoever read it, and whatever went wrong is named."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate
from models.recognizer import Recognizer
from recognize import Reader
from tests.test_reader import recognizer, saved
from utils.evaluation.report import choose_items
from utils.evaluation.scores import describe
from utils.reading.checkpoints import find_checkpoint
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
TALL = "six"  # the only image of this height
KEYS = {
    "dataset", "split", "items", "search", "confidence_exponent", "calibration", "clean", "cleaned", "device",
    "seconds", "images_per_second", "exact", "normalized",
    "structure_exprate", "symbol_accuracy", "well_formed", "visual_exprate", "intervals", "by", "confusions",
    "error_kinds", "failed", "against",
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
            image = np.full((100 if name == TALL else 40 + number, 50 + 7 * number), 255, np.uint8)
            image[4:-4, 8:12] = image[10:14, 5:-5] = 0
            image[random.integers(20, 30) : -4, -16:-12] = 0
            cv2.imwrite(str(images / f"{name}.png"), image)
        lines = "".join(f"{name}\t{label}\n" for name, label in LABELS.items())
        (images.parent / "labels.txt").write_text(lines)
    tokens = sorted({token for label in LABELS.values() for token in label.split()})
    (folder / "datasets" / "MINE" / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens))
    torch.manual_seed(1)
    encoder = {"growth": 4, "layers": [1, 1], "compression": 0.5, "dropout": 0.0}
    options = {"width": 16, "heads": 2, "layers": 2, "feed_forward": 16, "dropout": 0.0}
    model = Recognizer(len(tokens) + 3, encoder, "transformer", options, domains=("handwritten",))
    about = {"architecture": model.architecture(), "vocabulary": tokens}
    about["data"] = {"image_scale": 1.0, "max_height": 512, "max_width": 512}
    save_checkpoint(folder / "model.safetensors", model.state_dict(), about)
    return folder


@pytest.fixture
def home(made, tmp_path, monkeypatch) -> Path:
    """A copy to work in, and to spoil."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home, monkeypatch, capsys):
    """run("--json", …) -> (scores or the text, stderr): the script as a person calls it."""

    def run(*arguments: str, expected: int = 0):
        monkeypatch.setattr(
            sys, "argv", ["evaluate.py", "--root", "datasets", "--dataset", "MINE", "--device", "cpu", *arguments]
        )
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
    from utils.evaluation import report

    seen = []
    monkeypatch.setattr(report, "write_page", lambda path, title, scores, items: seen.append((title, scores, items)))
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
    assert scores["confusions"] == [{"reference": "b", "prediction": "a", "count": 1}]
    assert scores["error_kinds"] == [
        {"name": "another spelling of the same", "items": 2, "alone": 2},
        {"name": "a letter for another", "items": 1, "alone": 1},
        {"name": "a script or brace in the wrong place, all symbols right", "items": 1, "alone": 1},
    ]
    assert {row["name"]: row["items"] for row in scores["by"]["length"]} == {"up to 5": 3, "6 to 10": 3}
    assert {row["name"]: row["exprate"] for row in scores["by"]["kind"]} == {
        "flat": 50, "scripts": 0, "fraction": 0, "root": 100
    }  # fmt: skip


def test_a_sign_is_not_confused_with_a_brace(home, run):
    scores, _ = run("--predictions", write(home, LABELS | {"six": r"\sqrt { x 2", "two": "a ^ b"}), "--json")
    pairs = [(row["reference"], row["prediction"]) for row in scores["confusions"]]
    assert pairs == [("", "2"), ("", "^"), ("+", "")]


def test_missing_predictions_count_as_wrong_and_are_named(home, run):
    scores, errors = run("--predictions", write(home, {name: LABELS[name] for name in ("one", "five")}), "--json")
    assert scores["items"] == 6 and scores["exact"]["exprate"] == pytest.approx(100 / 3, abs=1e-3)
    assert [failed["id"] for failed in scores["failed"]] == ["two", "three", "four", "six"]
    assert all(f"{name}: nothing was predicted" in errors for name in ("two", "three", "four", "six"))


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
        (["--predictions", "latin.txt"], "latin.txt, line 1: expected UTF-8"),
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


LAYOUTS = {
    "names.txt": lambda items: "".join(f"{name}.png\t{label}\n" for name, label in items),
    "inkml.txt": lambda items: "".join(f"{name}.inkml {label}\n" for name, label in items),
    "paths.txt": lambda items: "".join(f"some/folder\\{name}.BMP\t{label}\n" for name, label in items),
    "rows.jsonl": lambda items: "".join(json.dumps({"img_id": name, "pred": label}) + "\n" for name, label in items),
    "recognize.jsonl": lambda items: "".join(json.dumps({"input": f"a/{n}.jpg", "latex": t}) + "\n" for n, t in items),
    "list.json": lambda items: json.dumps([{"name": name, "latex": label.split()} for name, label in items]),
    "map.json": lambda items: json.dumps({name: label for name, label in items}),
    "nested.json": lambda items: json.dumps({"results": {name: label for name, label in items}}),
    "table.csv": lambda items: "image,latex\n" + "".join(f'{name}.png,"{label}"\n' for name, label in items),
    "semicolons.csv": lambda items: "img_id;pred\n" + "".join(f"{name};{label}\n" for name, label in items),
    "columns.csv": lambda items: "label,prediction,id\n" + "".join(f'x,"{label}",{name}\n' for name, label in items),
    "untitled.tsv": lambda items: "".join(f"{name}.png\t{label}\n" for name, label in items),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_predictions_come_in_the_usual_layouts(home, run, layout):
    (home / layout).write_text(LAYOUTS[layout](LABELS.items()))
    scores, _ = run("--predictions", layout, "--json")
    assert scores["exact"]["exprate"] == 100 and not scores["failed"]


def test_commas_of_a_prediction_without_quotes_are_its_own(home, run):
    labels = home / "datasets" / "MINE" / "test" / "labels.txt"
    labels.write_text(labels.read_text() + "seven\t( x , y )\n")
    rows = "".join(f"{name}.png,{label}\n" for name, label in (LABELS | {"seven": "( x , y )"}).items())
    (home / "commas.csv").write_text(f"name,latex\n{rows}")
    scores, _ = run("--predictions", "commas.csv", "--json")
    assert scores["exact"]["exprate"] == 100 and not scores["failed"]


def test_predictions_come_in_a_zip_of_one_file_for_each_item_or_one_for_all(home, run):
    with zipfile.ZipFile(home / "each.zip", "w") as archive:
        for name, label in LABELS.items():
            archive.writestr(f"result/{name}.txt", f"%{name}\n${label}$\n")
        archive.writestr("__MACOSX/result/._one.txt", "x")
    with zipfile.ZipFile(home / "all.zip", "w") as archive:
        archive.writestr("rows.jsonl", LAYOUTS["rows.jsonl"](LABELS.items()))
    for file in ("each.zip", "all.zip"):
        scores, _ = run("--predictions", file, "--json")
        assert scores["exact"]["exprate"] == 100, file


def test_names_match_in_either_unicode_form(home, run):
    (home / "datasets" / "NAMES" / "test").mkdir(parents=True)
    (home / "datasets" / "NAMES" / "test" / "labels.txt").write_text("e\u0301t\tx\n")
    (home / "theirs.txt").write_text("\u00e9t.png\tx\n")
    scores, _ = run("--dataset", "NAMES", "--predictions", "theirs.txt", "--json")
    assert scores["exact"]["exprate"] == 100


def test_labels_alone_are_enough_to_score_predictions(home, run):
    folder = home / "datasets" / "MINE"
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "test" / "images")
    (folder / "vocabulary.txt").unlink()
    scores, _ = run("--predictions", write(home, LABELS), "--json", "--out", "out")
    assert scores["exact"]["exprate"] == 100
    assert {path.name for path in folder.rglob("*")} == {"test", "labels.txt"}
    assert "nothing was predicted" not in (home / "out" / "report.html").read_text()


def test_an_empty_prediction_scores_like_a_missing_one_in_every_column(home, run):
    empty, _ = run("--predictions", write(home, dict.fromkeys(LABELS, "") | {"two": "a + b"}), "--json")
    missing, _ = run("--predictions", write(home, {"two": "a + b"}), "--json")
    assert empty == missing
    assert empty["exact"]["at_most_3"] == pytest.approx(100 / 6, abs=1e-3)  # `a + b` alone, though others are as short
    assert len(empty["failed"]) == 5


def test_an_endless_reading_costs_no_more_than_its_own_symbols(home, run):
    scores, _ = run("--predictions", write(home, LABELS | {"two": "x " * 500}), "--json")
    assert scores["symbol_accuracy"] == pytest.approx(100 * 13 / 16, abs=1e-3)  # `a + b` has three of the sixteen
    low, high = scores["intervals"]["symbol_accuracy"]
    assert low > 40 and high <= 100
    text, _ = run("--predictions", "theirs.txt")
    assert "an item costs at most its own symbols" in text


def test_default_folders_do_not_depend_on_where_one_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--dataset", "MINE"])
    root = Path(evaluate.__file__).resolve().parent
    assert evaluate.parse_options().root == root / "datasets"
    assert find_checkpoint(None) == root / "checkpoints" / "crohme.safetensors"


# ---- a checkpoint ----------------------------------------------------------------------------------------------------

CHECKPOINT = ("--checkpoint", "model.safetensors")


def numbers(scores: dict) -> dict:
    return {name: scores[name] for name in KEYS - {"seconds", "images_per_second", "search", "clean", "cleaned"}}


def test_no_other_flag_changes_the_scores(home, run, page):
    for search in ([], ["--beam", "3"]):
        plain, _ = run(*CHECKPOINT, *search, "--json")
        others, _ = run(*CHECKPOINT, *search, "--json", "--batch", "2", "--out", "out", "--gallery", "1")
        assert numbers(plain) == numbers(others)
        text, _ = run(*CHECKPOINT, *search)
        assert f"{plain['exact']['exprate']:.2f}" in text and f"{plain['normalized']['exprate']:.2f}" in text
        again, _ = run("--predictions", "out/predictions.jsonl", "--json")
        of_the_network = {"search", "confidence_exponent", "calibration", "clean", "cleaned", "device"}
        same = KEYS - of_the_network - {"seconds", "images_per_second"}
        assert {name: again[name] for name in same} == {name: plain[name] for name in same}
        assert json.loads((home / "out" / "scores.json").read_text())["exact"] == plain["exact"]


def test_a_batch_has_at_most_so_many_images(run, monkeypatch):
    encode, sizes = Recognizer.encode, []

    def counting(self, images, padding, domain):
        sizes.append(len(images))
        return encode(self, images, padding, domain)

    monkeypatch.setattr(Recognizer, "encode", counting)
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


def test_a_search_that_the_network_cannot_do_is_refused(home, run):
    saved(home / "gru.safetensors", recognizer("gru"))
    _, errors = run("--checkpoint", "gru.safetensors", "--direction", "both", expected=2)
    assert "decodes from left to right only" in errors


def test_a_test_split_alone_is_evaluated(home, run):
    shutil.rmtree(home / "datasets" / "MINE" / "train")
    (home / "datasets" / "MINE" / "vocabulary.txt").unlink()
    scores, _ = run(*CHECKPOINT, "--json")
    assert scores["items"] == 6 and not any("image" in failed["reason"] for failed in scores["failed"])


def test_weights_that_do_not_say_what_validated_them_are_told(home, run):
    scores, errors = run(*CHECKPOINT, "--split", "validation", "--json")
    assert "does not say which labels validated it" in errors
    labels = (home / "datasets" / "MINE" / "train" / "labels.txt").read_text().splitlines()
    assert 0 < scores["items"] < len(labels)


def test_photographs_are_read_as_recognize_reads_them_and_that_is_told(home, run, page):
    split = home / "datasets" / "MINE" / "test"
    (split / "labels.txt").write_text("one\tx\ntwo\ta + b\n")
    for name in ("one", "two"):
        drawn = cv2.imread(str(split / "images" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        large = cv2.resize(drawn, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(
            str(split / "images" / f"{name}.png"), (large * np.linspace(0.6, 1, large.shape[1])).astype(np.uint8)
        )
    reader = Reader.load(home / "model.safetensors")
    for clean, count in (("auto", 2), ("never", 0)):
        scores, _ = run(*CHECKPOINT, "--json", "--out", "out", "--clean", clean)
        assert (scores["clean"], scores["cleaned"]) == (clean, count)
        rows = [json.loads(line) for line in (home / "out" / "predictions.jsonl").read_text().splitlines()]
        prepared = [reader.prepare(split / "images" / f"{row['id']}.png", clean_when=clean) for row in rows]
        readings = reader.read_many(prepared)
        assert [row["prediction"] for row in rows] == [reading.latex for reading in readings]
        assert [reading.is_cleaned for reading in readings] == [bool(count)] * 2
        for item, reading in zip(page.pop()[2], readings, strict=True):
            assert np.array_equal(item.image, reading.image)
    assert "0 images cleaned (--clean never)" in describe(scores)


def test_readings_that_never_end_are_named_and_wrong(home, run, page):
    scores, errors = run(*CHECKPOINT, "--json", "--out", "out")
    lines = [json.loads(line) for line in (home / "out" / "predictions.jsonl").read_text().splitlines()]
    cut = [line["id"] for line in lines if line["is_truncated"]]
    assert cut  # it has learnt nothing, not even to stop
    assert [failed["id"] for failed in scores["failed"]] == cut
    assert all(f"{name}: truncated" in errors for name in cut)


def test_an_image_that_fails_costs_itself_alone(home, run, page, monkeypatch):
    run(*CHECKPOINT, "--out", "whole")
    encode = Recognizer.encode

    def failing(self, images, padding, domain):
        if images.shape[2] >= 90:
            raise RuntimeError("not enough memory")
        return encode(self, images, padding, domain)

    monkeypatch.setattr(Recognizer, "encode", failing)
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

    monkeypatch.setattr(Recognizer, "encode", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is no failure of an image
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--root", "datasets", "--dataset", "MINE", *CHECKPOINT])
        evaluate.main()
    monkeypatch.setattr(Recognizer, "encode", lambda *_, **__: int("x"))
    _, errors = run(*CHECKPOINT, expected=2)
    assert "could not read a single image" in errors


def test_an_image_that_cannot_be_opened_counts_as_wrong(home, run):
    split = home / "datasets" / "MINE" / "test"
    (split / "images" / "two.png").write_bytes(b"no image")
    (split / "images" / "four.png").unlink()
    with open(split / "labels.txt", "a") as file:
        file.write("one\tx\nseven\n")
    scores, errors = run(*CHECKPOINT, "--json")
    reasons = {failed["id"]: failed["reason"] for failed in scores["failed"]}
    assert scores["items"] == 8
    assert "two.png" in reasons["two"]
    assert "no image 'four'" in reasons["four"]
    assert "no label" in reasons["seven"]
    assert "duplicate name 'one', first in line 1" in reasons["one (test/labels.txt, line 7)"]
    assert "two" in errors
    assert not (split / "store").exists()  # training must not take what is left for the whole
    again, _ = run(*CHECKPOINT, "--json")
    assert numbers(again) == numbers(scores)


def test_what_prepare_left_out_counts_as_wrong(home, run):
    from dataset.formats.preparation import prepare

    folder = home / "datasets" / "MINE"
    (folder / "test" / "images" / "two.png").write_bytes(b"no image")
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


def test_against_reads_what_predictions_are_read_from(home, run, page):
    right, _ = run("--predictions", write(home, LABELS), "--json")
    (home / "other.csv").write_text(LAYOUTS["table.csv"](list(LABELS.items())[:4]))
    scores, _ = run("--predictions", "theirs.txt", "--against", "other.csv", "--json")
    assert scores["against"] == {"file": "other.csv", "only_here": 2, "only_there": 0, "p": 0.5}


def test_predictions_of_earlier_versions_are_read(home, run):
    rows = [
        {"id": name, "truth": label, "prediction": label, "score": -0.5, "is_cut": name == "two", "alternatives": []}
        for name, label in LABELS.items()
    ]
    (home / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores, errors = run("--predictions", write(home, LABELS), "--against", "old.jsonl", "--json")
    assert (scores["against"]["only_here"], scores["against"]["only_there"]) == (1, 0)
    scores, errors = run("--predictions", "old.jsonl", "--json")
    assert scores["exact"]["exprate"] == pytest.approx(100 * 5 / 6, abs=1e-3) and "two: truncated" in errors
    rows[0]["truth"] = "y"
    (home / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, errors = run("--predictions", "theirs.txt", "--against", "old.jsonl", expected=2)
    assert "old.jsonl, line 1: 'one' is not in this split, or has another label there" in errors


def test_the_report_shows_what_went_wrong(home, run, page):
    scores, _ = run(*CHECKPOINT, "--beam", "2", "--out", "out", "--json")
    title, shown, items = page.pop()
    assert title == "MINE test" and shown == scores
    assert [item.name for item in items] == list(LABELS)
    for item in items:
        height, width = item.image.shape
        assert item.image.dtype == np.uint8 and item.image.max() == 255
        assert len(item.reference_marks) == len(item.reference) and len(item.prediction_marks) == len(item.prediction)
        cells = item.attention.shape[1:]
        assert item.attention.shape[0] == len(item.confidences) == len(item.prediction)
        assert cells == (-(-height // item.stride), -(-width // item.stride))
        assert item.attention.sum((1, 2)) == pytest.approx(1, abs=1e-3)
        assert item.reference_drawn.image.ndim == 2 and item.reference_drawn.boxes
        assert (item.errors > 0) == any(item.reference_marks + item.prediction_marks)
        assert item.alternatives and item.alternatives[0][0].split()


def test_the_report_of_predictions_from_elsewhere_has_images_but_no_attention(home, run, page):
    run("--predictions", write(home, LABELS | {"one": "x ^ {"}), "--out", "out", "--gallery", "5")
    items = {item.name: item for item in page.pop()[2]}
    assert "one" in items and len(items) == 2  # the wrong one, and a fifth of five right ones
    assert items["one"].image.max() == 255 and items["one"].attention is None
    assert items["one"].prediction_drawn is None and items["one"].reference_drawn is not None


def test_the_gallery_is_spread_evenly():
    chosen = choose_items([place % 2 == 0 for place in range(1000)], 100)
    assert len(chosen) == 120 and chosen == sorted(set(chosen))
    wrong = [place for place in chosen if place % 2]
    assert len(wrong) == 100 and max(np.diff(wrong)) == min(np.diff(wrong)) == 10
    assert choose_items([True, False, True], 300) == [0, 1, 2]
    assert choose_items([True, False, True], 0) == []
