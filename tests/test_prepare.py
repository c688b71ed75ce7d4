"""Every published package comes in whole; what cannot is named; nothing is left half done."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock, Timeout

import dataset.formats.preparation
from dataset.formats.packages import Reading, find_splits, split_name
from dataset.formats.pickles import read_pickle
from dataset.formats.preparation import Options, cleaning_of, long_labels, prepare, prepare_if_needed
from dataset.images.store import build_store, open_split
from dataset.images.strokes import draw, open_strokes
from dataset.loading.loaders import Data, open_data
from dataset.vocabulary import UNKNOWN, Vocabulary
from tests.made_up_ink import settings
from tests.made_up_packages import LABELS, caption, image, ink, inkml, make_can, make_comer, make_plain, make_unpacked
from tests.script_process import run_script
from utils.errors import DataError
from utils.reading.images import normalize_image, read_image
from utils.reading.photographs import clean_photograph

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "pickles, white ink, tabs": lambda f: make_can(f, False, "\t"),
    "pickles, black ink, spaces": lambda f: make_can(f, True, " "),
    "pickles of Python 2 with a channel": lambda f: make_can(f, False, "\t", 2, lambda image: image[None]),
    "pickles, newest protocol, true and false": lambda f: make_can(f, False, "\t", 5, lambda image: image > 0),
    "zip with img/": make_comer,
    "zip without img/": lambda f: make_comer(f, images=""),
    "zip without data/, dark ink": lambda f: make_comer(f, inside="", is_dark_ink=True),
    "folder with a zip": lambda f: make_comer(f).parent,
    "unpacked zip": make_unpacked,
    "plain form": make_plain,
}


@pytest.mark.parametrize("make", PACKAGES.values(), ids=PACKAGES)
def test_every_package_gives_the_same_labels_and_images(tmp_path, make):
    assert prepare(make(tmp_path / "download"), tmp_path / "NAME", progress=False) == []
    vocabulary = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt")
    for split, labels in LABELS.items():
        assert (tmp_path / "NAME" / split / "labels.txt").read_text() == caption(split)
        store = open_split(tmp_path / "NAME", split, vocabulary)
        assert [store.name(i) for i in range(len(store))] == list(labels)
        for index, (name, label) in enumerate(labels.items()):
            seen, rows_columns = store.image(index), np.argwhere(ink(name, label))
            (top, left), (bottom, right) = rows_columns.min(axis=0), rows_columns.max(axis=0) + 1
            assert np.array_equal(seen, np.pad(ink(name, label)[top:bottom, left:right], 4))
    assert store.tokens(2).tolist() == [UNKNOWN]  # a token that train lacks stays in a test split


def test_the_vocabulary_is_the_packages_own_or_made_of_the_training_labels(tmp_path):
    prepare(make_can(tmp_path / "can", False, "\t"), tmp_path / "A", progress=False)
    prepare(make_comer(tmp_path / "comer"), tmp_path / "B", progress=False)
    assert (tmp_path / "A" / "vocabulary.txt").read_text().split() == ["x", "y", "+", r"\frac", "{", "}", "unused"]
    assert (tmp_path / "B" / "vocabulary.txt").read_text().split() == ["+", r"\frac", "x", "y", "{", "}"]


@pytest.mark.parametrize("nested", [True, False])
def test_photographs_with_chinese_tokens_come_in_as_they_are(tmp_path, nested):
    for split in ("train", "test"):
        folder = tmp_path / "HME100K" / (split if nested else "")
        (folder / f"{split}_images").mkdir(parents=True)
        (folder / f"{split}_labels.txt").write_text(f"{split}_0.jpg\tx 、 y\n", encoding="utf-8")
        (folder / f"{split}_images" / f"{split}_0.jpg").write_bytes(image("a", "x", ".jpg", is_dark_ink=True))
    assert prepare(tmp_path / "HME100K", tmp_path / "NAME", progress=False) == []
    vocabulary = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt")
    store = open_split(tmp_path / "NAME", "test", vocabulary)
    assert store.name(0) == "test_0" and vocabulary.decode(store.tokens(0)) == ["x", "、", "y"]
    copied = tmp_path / "NAME" / "test" / "images" / "test_0.jpg"
    assert copied.read_bytes() == image("a", "x", ".jpg", is_dark_ink=True)
    assert store.image(0)[6, 6] > 200 and store.image(0)[0, 0] == 0


def test_folders_of_pen_strokes_become_splits(tmp_path):
    for path, label in {"train/sub/a": "x^2", "train/b": r"\frac{x}{2}", "TEST2014/c": "x"}.items():
        (tmp_path / "ink" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ink" / f"{path}.inkml").write_text(inkml(label))
    (tmp_path / "ink" / "train" / "empty.inkml").touch()
    (tmp_path / "ink" / "train" / "sub" / "b.inkml").write_text(inkml("y"))
    bad = prepare(tmp_path / "ink", tmp_path / "NAME", progress=False)
    labels = (tmp_path / "NAME" / "train" / "labels.txt").read_text().splitlines()
    assert sorted(labels) == ["a\tx ^ { 2 }", "b\t\\frac { x } { 2 }"]
    assert (tmp_path / "NAME" / "2014" / "labels.txt").read_text() == "c\tx\n"
    assert sorted(item.where for item in bad) == ["train/empty.inkml", "train/sub/b.inkml"]
    assert "duplicate name 'b'" in str(bad) and "empty" in str(bad)


def test_writers_that_ink_names_are_kept_also_when_more_is_added(tmp_path):
    for folder, name, writer in (("one", "a", "W  1"), ("one", "b", ""), ("two", "c", "W 2"), ("none", "d", "")):
        (tmp_path / folder).mkdir(exist_ok=True)
        annotation = f'<annotation type="writer">{writer}</annotation>' if writer else ""
        text = inkml("x", f"0 0, 10 {len(name) + ord(name)}").replace("<trace", f"{annotation}<trace", 1)
        (tmp_path / folder / f"{name}.inkml").write_text(text)
    table = tmp_path / "NAME" / "train" / "writers.txt"
    prepare(tmp_path / "one", tmp_path / "NAME", "train", progress=False)
    assert table.read_text() == "a\tW 1\n"
    prepare(tmp_path / "two", tmp_path / "NAME", "train", progress=False, options=Options(existing="add"))
    assert table.read_text() == "a\tW 1\nc\tW 2\n"
    prepare(tmp_path / "none", tmp_path / "NAME", "train", progress=False, options=Options(existing="replace"))
    assert not table.exists()


def test_a_folder_that_is_one_split_takes_the_name_it_is_given(tmp_path, capsys):
    (tmp_path / "ink").mkdir()
    (tmp_path / "ink" / "a.inkml").write_text(inkml("x"))
    with pytest.raises(DataError, match="--split"):
        prepare(tmp_path / "ink", tmp_path / "NAME", progress=False)
    prepare(tmp_path / "ink", tmp_path / "NAME", "2016", progress=False)
    assert "no split 'train' yet" in capsys.readouterr().err
    prepare(tmp_path / "ink", tmp_path / "NAME", "train", progress=False)
    assert {path.parent.parent.name for path in (tmp_path / "NAME").glob("*/store/store.json")} == {"2016", "train"}


def test_one_split_of_several_can_be_taken(tmp_path):
    path = make_comer(tmp_path / "download")
    assert prepare(path, tmp_path / "NAME", "2014", progress=False) == []
    assert [folder.name for folder in (tmp_path / "NAME").iterdir() if folder.is_dir()] == ["2014"]
    with pytest.raises(DataError, match="no split '2019' in it; there are train, 2014"):
        prepare(path, tmp_path / "NAME", "2019", progress=False)


@pytest.mark.parametrize(
    "text, name",
    [
        ("14_test", "2014"),
        ("2019", "2019"),
        ("TEST2014", "2014"),
        ("train", "train"),
        ("val", "validation"),
        ("a", "a"),
    ],
)
def test_splits_are_named_alike_whatever_the_package_calls_them(text, name):
    assert split_name(text) == name


# ------------------------------------------------------------------------------------------------------- bad input


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize("hidden", [Attack(), {"a": [Attack()]}, {"a": np.array([Attack()], object)}])
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused_and_not_run(tmp_path, monkeypatch, hidden):
    monkeypatch.chdir(tmp_path)
    Path("train_images.pkl").write_bytes(pickle.dumps(hidden))
    with pytest.raises(DataError, match=r"train_images\.pkl: .*asks for posix\.system"):
        read_pickle("train_images.pkl")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_and_of_old_numpy_are_read(tmp_path, protocol):
    value = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": [np.float64(0.5), ("text", 1, None)]}
    for old in (False, True):
        data = pickle.dumps(value, protocol)
        if old and protocol < 4:  # names end with a line; in later protocols their length is written before them
            assert b"numpy._core" in data
            data = data.replace(b"numpy._core", b"numpy.core")
        (tmp_path / "p.pkl").write_bytes(data)
        again = read_pickle(tmp_path / "p.pkl")
        assert np.array_equal(again["a"], value["a"]) and again["b"] == value["b"]


def test_a_truncated_pickle_is_an_error_that_names_it(tmp_path):
    make_can(tmp_path / "can", False, "\t")
    path = tmp_path / "can" / "train_images.pkl"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"train_images\.pkl: not a readable pickle"):
        prepare(tmp_path / "can", tmp_path / "NAME", progress=False)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt", "data/../../x", r"..\x", "C:/x"])
def test_a_zip_that_unpacks_outside_its_folder_is_refused(tmp_path, name):
    path = make_comer(tmp_path / "download")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match=r"data\.zip: .* would unpack outside its folder"):
        prepare(path, tmp_path / "NAME", progress=False)
    assert not (tmp_path / "NAME").exists()


def test_bad_items_of_a_package_are_named_and_the_rest_comes_in(tmp_path):
    folder = make_can(tmp_path / "can", False, "\t")
    images = pickle.loads((folder / "train_images.pkl").read_bytes())
    blank = np.zeros((9, 9), np.uint8)
    images |= {"blank": blank, "deep": blank.astype(float), "unasked": ink("u", "x"), "late": ink("l", "x")}
    (folder / "train_images.pkl").write_bytes(pickle.dumps(images))
    with open(folder / "train_labels.txt", "a") as file:
        file.write("gone\tx\nblank\tx\ndeep\tx\nlate\tx \\foo\na_1\ty\n../../up\tx\n")
    told = "\n".join(map(str, prepare(folder, tmp_path / "NAME", progress=False)))
    for words in (
        "train_labels.txt, line 4: no image 'gone' in train_images.pkl",
        "train_labels.txt, line 5: blank: has no ink",
        "train_labels.txt, line 6: expected an image, uint8 (height, width), got float64",
        r"train_labels.txt, line 7: token 2 of 2, \foo, is not in the vocabulary",
        "train_labels.txt, line 8: duplicate name 'a_1', first in line 1",
        "train_labels.txt, line 9: no image '../../up' in train_images.pkl",
        "train_images.pkl, unasked: an image without a label",
    ):
        assert words in told
    assert len(told.splitlines()) == 7
    assert (tmp_path / "NAME" / "train" / "labels.txt").read_text() == caption("train")
    assert (tmp_path / "NAME" / "train" / "left_out.txt").read_text() == told + "\n"
    assert len(open_split(tmp_path / "NAME", "train", Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt"))) == 3


def test_two_images_of_one_name_are_one_too_many(tmp_path):
    folder = make_plain(tmp_path / "plain")
    (folder / "train" / "images" / "a_1.jpg").write_bytes(image("a", "x", ".jpg"))
    (bad,) = prepare(folder, tmp_path / "NAME", progress=False)
    told = "train/labels.txt, line 1: 2 images are called 'a_1': a_1.jpg, a_1.png; a_1.jpg is taken"
    assert str(bad) == told
    assert (tmp_path / "NAME" / "train" / "labels.txt").read_text() == caption("train")


def test_a_repeated_token_in_the_packages_vocabulary_names_its_file(tmp_path):
    folder = make_can(tmp_path / "can", False, "\t")
    (folder / "words_dict.txt").write_text("eos\nsos\nx\nx\n")
    with pytest.raises(DataError, match=r"words_dict\.txt: .*'x' occurs twice"):
        prepare(folder, tmp_path / "NAME", progress=False)


def test_a_broken_image_in_a_zip_is_named(tmp_path):
    path = make_comer(tmp_path / "download")
    data = path.read_bytes()
    spot = data.index(image("a_2", LABELS["train"]["a_2"], ".bmp"))
    path.write_bytes(data[: spot + 200] + b"damage" + data[spot + 206 :])
    (bad,) = prepare(path, tmp_path / "NAME", progress=False)
    assert bad.where == "data.zip/data/train/caption.txt, line 2" and "a_2.bmp: cannot be unpacked" in bad.reason


def test_labels_without_images_beside_them_are_not_passed_over_in_silence(tmp_path, capsys):
    folder = make_can(tmp_path / "can", False, "\t")
    (folder / "14_test_images.pkl").unlink()
    prepare(folder, tmp_path / "NAME", progress=False)
    assert "14_test_labels.txt: no images beside it" in capsys.readouterr().err


def test_a_table_whose_name_says_nothing_is_named_where_nothing_is_recognized(tmp_path):
    (tmp_path / "mine.csv").write_text("name,label\na.png,x\n")
    (tmp_path / "a.png").write_bytes(image("a", "x", ".png"))
    with pytest.raises(DataError, match=r"no data recognized in it \(of .*mine.csv the name does not say .*looked for"):
        find_splits(tmp_path)


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path):
    (tmp_path / "Formulas.XLSX").write_bytes(b"PK")
    (tmp_path / "a.png").write_bytes(image("a", "x", ".png"))
    with pytest.raises(DataError, match=r"Formulas.XLSX: save the spreadsheet as labels.csv, with the columns name,"):
        find_splits(tmp_path)


def test_two_sources_of_one_split_are_an_error_that_names_both(tmp_path):
    folder = make_can(tmp_path / "can", False, "\t")
    (folder / "train" / "images").mkdir(parents=True)
    (folder / "train" / "labels.txt").write_text("a\tx\n")
    (folder / "train" / "images" / "a.png").write_bytes(image("a", "x", ".png"))
    with pytest.raises(DataError, match=r"two splits 'train', in .*images.* and in .*images"):
        find_splits(folder)


# ---------------------------------------------------------------------------------------- in place, stopped, again


@pytest.mark.parametrize("make", [PACKAGES["pickles, white ink, tabs"], make_unpacked, PACKAGES["folder with a zip"]])
def test_a_package_found_in_its_place_is_prepared_once_and_says_so(tmp_path, capsys, make):
    folder = make(tmp_path / "CROHME")
    prepare_if_needed(folder, progress=False)
    said = capsys.readouterr().err
    assert "CROHME: preparing" in said and "passed over" not in said
    assert (folder / "train" / "labels.txt").read_text() == caption("train")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare_if_needed(folder, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert capsys.readouterr().err == ""


def test_the_plain_form_needs_nothing_but_its_vocabulary(tmp_path):
    folder = make_plain(tmp_path / "MINE")
    prepare_if_needed(folder)
    made = {path.name for path in folder.rglob("*")} - {path.name for path in make_plain(tmp_path / "again").rglob("*")}
    assert made == {"vocabulary.txt", ".lock"}


def test_training_stops_at_bad_items_once_and_then_says_that_they_are_left_out(tmp_path, capsys):
    folder = make_can(tmp_path / "CROHME", False, "\t")
    with open(folder / "train_labels.txt", "a") as file:
        file.write("gone\tx\n")
    with pytest.raises(DataError, match=r"(?s)1 bad items.*train_labels\.txt, line 4"):
        prepare_if_needed(folder, progress=False)
    capsys.readouterr()
    prepare_if_needed(folder, progress=False)
    assert "CROHME/train: 1 items are left out, see" in capsys.readouterr().err


@pytest.mark.parametrize("there", [None, "readme.txt"])
def test_where_nothing_is_it_is_said_what_was_looked_for_and_how_to_get_it(tmp_path, there):
    if there:
        (tmp_path / "CROHME").mkdir()
        (tmp_path / "CROHME" / there).touch()
    with pytest.raises(DataError, match=r"CROHME: no training data\. .*labels\.txt.*train_images\.pkl.*prepare\.py"):
        prepare_if_needed(tmp_path / "CROHME")


@pytest.mark.parametrize("step", range(12))
def test_stopped_anywhere_and_started_again_the_result_is_the_same(tmp_path, monkeypatch, step):
    """Every item written and every rename is a place to stop at."""
    folder, steps = make_can(tmp_path / "CROHME", False, "\t"), iter(range(100))

    def stop_before(function):
        def stopped(*arguments, **options):
            if next(steps) == step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return stopped

    with monkeypatch.context() as patch:
        saver = dataset.formats.preparation._Saver
        patch.setattr(saver, "save", stop_before(saver.save))
        patch.setattr(Path, "rename", stop_before(Path.rename))
        with pytest.raises(KeyboardInterrupt):
            prepare_if_needed(folder, progress=False)
    prepare_if_needed(folder, progress=False)
    vocabulary = Vocabulary.from_file(folder / "vocabulary.txt")
    for split in LABELS:
        assert (folder / split / "labels.txt").read_text() == caption(split)
        assert len(list((folder / split / "images").iterdir())) == len(open_split(folder, split, vocabulary)) == 3
        assert not list((folder / split).glob("*.partial"))


def test_a_finished_split_is_kept_and_a_changed_one_made_again(tmp_path, capsys):
    folder = make_can(tmp_path / "can", False, "\t")
    prepare(folder, tmp_path / "NAME", progress=False)
    (folder / "train_labels.txt").write_text(caption("train").replace("x + y", "y + x"))
    capsys.readouterr()
    prepare(folder, tmp_path / "NAME", progress=False)
    said = capsys.readouterr().err
    assert "NAME/2014: already there" in said and "NAME/train: already there" not in said
    assert "y + x" in (tmp_path / "NAME" / "train" / "labels.txt").read_text()


def test_a_download_that_grew_brings_its_new_tokens_along(tmp_path, monkeypatch):
    folder = make_comer(tmp_path / "CROHME").parent
    prepare_if_needed(folder, progress=False)
    (folder / "data.zip").unlink()
    monkeypatch.setitem(LABELS["train"], "d_1", "w")
    make_comer(tmp_path / "new").rename(folder / "data.zip")
    assert prepare(folder, folder, progress=False) == []
    assert "w" in Vocabulary.from_file(folder / "vocabulary.txt").tokens


def test_a_split_is_never_seen_with_the_labels_of_another_one(tmp_path, monkeypatch):
    folder, target = make_can(tmp_path / "can", False, "\t"), tmp_path / "NAME" / "train"
    prepare(folder, tmp_path / "NAME", progress=False)
    (folder / "train_labels.txt").write_text(caption("train").replace("x + y", "y + x"))
    (target / "images.partial").mkdir()
    (target / "images.partial" / "left_by_a_stopped_run.png").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(folder, tmp_path / "NAME", progress=False)
        assert not (target / "labels.txt").exists()
    assert prepare(folder, tmp_path / "NAME", progress=False) == []
    assert sorted(path.stem for path in (target / "images").iterdir()) == sorted(LABELS["train"])


def test_what_was_made_by_hand_is_not_overwritten(tmp_path):
    folder = make_plain(tmp_path / "NAME")
    with pytest.raises(DataError, match=r"train/labels\.txt: is in the way"):
        prepare(make_can(tmp_path / "can", False, "\t"), folder, progress=False)
    assert (folder / "train" / "labels.txt").read_text() == caption("train")


# ----------------------------------------------------------------------------------------------- what people bring


def make_photos(folder, names="abc", table="labels.csv", images="photos", label="{x}"):
    (folder / images).mkdir(parents=True)
    (folder / table).write_text("".join(f"{name}.png,\\frac{label}{{2}}\n" for name in names))
    for name in names:
        (folder / images / f"{name}.png").write_bytes(image(name, "x", ".png"))
    return folder


def labels_of(folder):
    return dict(line.split("\t") for line in (folder / "labels.txt").read_text().splitlines())


@pytest.mark.parametrize("images", ["photos", "scans/page 1", "images", ""])
def test_a_table_and_a_folder_of_images_are_a_split(tmp_path, images):
    folder = make_photos(tmp_path / "mine" / "train", images=images)
    assert prepare(folder.parent, tmp_path / "NAME", progress=False) == []
    assert labels_of(tmp_path / "NAME" / "train") == dict.fromkeys("abc", r"\frac { x } { 2 }")
    assert Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt").tokens == ("2", r"\frac", "x", "{", "}")


def test_tables_that_share_their_images_are_splits_of_their_own(tmp_path):
    folder = make_photos(tmp_path / "mine", "abcd", "train.csv", "images")
    (folder / "train.csv").write_text("name,label\na,x\nb,x\n")
    (folder / "val.csv").write_text("name,label\nc,x\n")
    assert prepare(folder, tmp_path / "NAME", progress=False) == []
    assert [sorted(labels_of(tmp_path / "NAME" / split)) for split in ("train", "validation")] == [["a", "b"], ["c"]]


def test_what_was_changed_in_reading_is_told_and_what_normalizing_would_change(tmp_path, capsys):
    folder = make_plain(tmp_path / "plain")
    lines = ["a_1\tx − y", r"a_2	$\dfrac{x}{y}$", "b.3\tx"]
    (folder / "train" / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    assert prepare(folder, tmp_path / "NAME", progress=False) == []
    told = capsys.readouterr().err
    for words in (
        "NAME/train: characters read as the LaTeX that they mean, 1 time\n",
        "train/labels.txt, line 1: − (U+2212) is read as -",
        r"train/labels.txt, line 2: \dfrac{x}{y} -> \dfrac { x } { y }",
        "NAME/train: --normalize would write 1 of 3 different labels",
    ):
        assert words in told
    options = Options(normalize=True)
    prepare(folder, tmp_path / "NAME", progress=False, options=options)
    assert labels_of(tmp_path / "NAME" / "train")["a_2"] == r"\frac { x } { y }"
    assert "--normalize" not in capsys.readouterr().err


def test_each_character_that_is_read_as_latex_is_told_once(tmp_path, capsys):
    folder = make_plain(tmp_path / "plain")
    lines = ["a_1\tx − y − x − y", "a_2\tx − y", "b.3\tх × у \u200b"]
    (folder / "train" / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    assert prepare(folder, tmp_path / "NAME", "train", progress=False) == []
    told = capsys.readouterr().err
    assert "6 times" in told and "…" not in told
    for character in ("U+2212", "U+0445", "U+00D7", "U+0443", "U+200B"):
        assert told.count(character) == 1


def test_an_encoding_that_is_guessed_is_told(tmp_path, capsys):
    folder = make_plain(tmp_path / "plain")
    for encoding, is_told in (("gbk", True), ("utf-8", False), ("utf-16", False)):
        (folder / "train" / "labels.txt").write_bytes("a_1\tx 中\na_2\ty\nb.3\tx\n".encode(encoding))
        find_splits(folder, "train")
        assert ("train/labels.txt: no UTF-8; read as GBK" in capsys.readouterr().err) == is_told
        find_splits(folder, "train", Reading(encoding=encoding))
        assert "GBK" not in capsys.readouterr().err


def test_lines_without_names_are_told_and_read_in_order_where_that_is_asked_for(tmp_path, capsys):
    folder = make_plain(tmp_path / "plain")
    (folder / "2014" / "labels.txt").unlink()
    (folder / "train" / "labels.txt").write_text("x + y\n\nx\ny\n")
    with pytest.raises(DataError, match=r"train/labels.txt: none of its 3 lines begins .*'a_1.png'.*--in-order"):
        prepare(folder, tmp_path / "NAME", progress=False)
    options = Options(Reading(in_order=True))
    assert prepare(folder, tmp_path / "NAME", progress=False, options=options) == []
    assert labels_of(tmp_path / "NAME" / "train") == {"a_1": "x + y", "a_2": "x", "b.3": "y"}
    assert "line 1 is read as the label of train/images/a_1.png, the last as that of" in capsys.readouterr().err
    (folder / "train" / "labels.txt").write_text("x + y\n")
    with pytest.raises(DataError, match="1 lines for 3 images"):
        prepare(folder, tmp_path / "OTHER", progress=False, options=options)


def test_a_line_that_cannot_be_decoded_is_left_out_alone(tmp_path):
    folder = make_plain(tmp_path / "plain")
    (folder / "train" / "labels.txt").write_bytes(b"a_1\tx\na_2\ty \xe9\nb.3\tx\n")
    (bad,) = prepare(folder, tmp_path / "NAME", progress=False)
    assert bad.where == "train/labels.txt, line 2" and "0xE9" in bad.reason
    assert labels_of(tmp_path / "NAME" / "train") == {"a_1": "x", "b.3": "x"}
    again = Options(Reading(encoding="latin-1"), "replace")
    (bad,) = prepare(folder, tmp_path / "NAME", progress=False, options=again)
    assert "é (U+00E9)" in bad.reason


def test_splits_of_mathwriting_keep_their_names(tmp_path):
    for split in ("train", "valid", "test", "symbols", "synthetic"):
        (tmp_path / "ink" / split).mkdir(parents=True)
        (tmp_path / "ink" / split / f"{split}.inkml").write_text(inkml("x").replace("truth", "normalizedLabel"))
    assert prepare(tmp_path / "ink", tmp_path / "NAME", progress=False) == []
    folders = {path.name for path in (tmp_path / "NAME").iterdir() if path.is_dir()}
    assert folders == {"train", "validation", "test", "symbols", "synthetic"}


def test_the_label_of_mathwriting_can_be_chosen_and_another_choice_is_made_anew(tmp_path, capsys):
    (tmp_path / "ink" / "train").mkdir(parents=True)
    text = inkml("x").replace("truth", "normalizedLabel")
    both = text.replace("</annotation>", '</annotation><annotation type="label">y</annotation>', 1)
    (tmp_path / "ink" / "train" / "a.inkml").write_text(both)
    target = tmp_path / "NAME"
    assert prepare(tmp_path / "ink", target, progress=False) == []
    assert labels_of(target / "train") == {"a": "x"}
    options = Options(Reading(truth="label"))
    assert prepare(tmp_path / "ink", target, progress=False, options=options) == []
    assert labels_of(target / "train") == {"a": "y"}
    capsys.readouterr()
    assert prepare(tmp_path / "ink", target, progress=False, options=options) == []
    assert "already there" in capsys.readouterr().err


def test_symbols_and_synthetic_ink_are_no_test_splits_and_can_be_added_to_train(tmp_path):
    for split, label in (("train", "x"), ("valid", "x"), ("test", "x"), ("symbols", "y"), ("synthetic", "z")):
        (tmp_path / "ink" / split).mkdir(parents=True)
        text = inkml(label).replace("truth", "normalizedLabel")
        (tmp_path / "ink" / split / f"{split}.inkml").write_text(text)
    assert prepare(tmp_path / "ink", tmp_path / "NAME", progress=False) == []
    assert open_data(settings(tmp_path / "NAME"), "NAME", 0).splits == ["test"]
    for split in ("symbols", "synthetic"):
        assert prepare(tmp_path / "ink" / split, tmp_path / "NAME", "train", False, Options(existing="add")) == []
    assert labels_of(tmp_path / "NAME" / "train") == {"train": "x", "symbols": "y", "synthetic": "z"}
    assert (tmp_path / "NAME" / "vocabulary.txt").read_text().split() == ["x", "y", "z"]


@pytest.mark.parametrize("images", ["images", "train", "train/images", "train_images"])
def test_lines_of_json_and_images_are_a_split(tmp_path, images):
    """As M2E has them: objects with name and tex; other keys do not matter."""
    folder = tmp_path / "M2E"
    for split in ("train", "val") if images.startswith("train") else ("train",):
        place = folder / images.replace("train", split)
        place.mkdir(parents=True)
        cv2.imwrite(str(place / "1.jpg"), np.full((40, 60), 255, np.uint8) - 200 * np.eye(40, 60, dtype=np.uint8))
        line = {"id": 7, "name": "1.jpg", "tex": "x ^ { 2 }" if split == "train" else r"\frac{1}{2}"}
        (folder / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    assert prepare(folder, tmp_path / "NAME", progress=False) == []
    assert labels_of(tmp_path / "NAME" / "train") == {"1": "x ^ { 2 }"}
    if images.startswith("train"):
        assert labels_of(tmp_path / "NAME" / "validation") == {"1": r"\frac { 1 } { 2 }"}


def test_photographs_are_cleaned_where_that_is_asked_for_and_drawn_ones_stay(tmp_path):
    drawn = np.zeros((80, 200), np.uint8)
    cv2.polylines(drawn, [np.array([[20, 20], [40, 54], [60, 20]]), np.array([[100, 20], [120, 54]])], False, 255, 3)
    large = cv2.resize(255 - drawn, None, fx=3, fy=3, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = 80 + large * 0.5 + np.linspace(0, 40, large.shape[1]) + np.random.default_rng(0).normal(0, 3, large.shape)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "photo.jpg"), grey.clip(0, 255).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "photos" / "drawn.png"), drawn)
    (tmp_path / "photos" / "labels.csv").write_text("name,label\nphoto.jpg,x\ndrawn.png,x\n")
    target = tmp_path / "NAME"
    assert prepare(tmp_path / "photos", target, "train", progress=False) == []
    assert sorted(path.name for path in (target / "train" / "images").iterdir()) == ["drawn.png", "photo.jpg"]
    assert prepare(tmp_path / "photos", target, "train", progress=False, options=Options(clean=True)) == []
    assert sorted(path.name for path in (target / "train" / "images").iterdir()) == ["drawn.png", "photo.png"]
    photo, same = (cv2.imread(str(target / "train" / "images" / name), 0) for name in ("photo.png", "drawn.png"))
    assert np.isin(photo, (0, 255)).mean() > 0.9 and photo.shape[0] < 120  # paper of one grey, and the usual size
    assert np.array_equal(same, drawn)


# ------------------------------------------------------------------------------------------- adding and replacing


def test_no_other_process_builds_the_store_of_a_split_that_is_being_prepared(tmp_path, monkeypatch):
    """It may open the split as soon as labels and vocabulary are there, which is before the store is."""
    built = []

    def build(target, split, *rest):
        with pytest.raises(Timeout):
            FileLock(target / split / ".lock").acquire(timeout=0)
        built.append(split)
        return build_store(target, split, *rest)

    monkeypatch.setattr("dataset.formats.preparation.build_store", build)
    prepare(make_can(tmp_path / "can", False, "\t"), tmp_path / "NAME", progress=False)
    assert sorted(built) == sorted(LABELS)


def test_another_source_for_a_split_is_refused_unless_it_is_to_be_replaced(tmp_path):
    old, new = make_photos(tmp_path / "old"), make_photos(tmp_path / "new", "cd", label="{y}")
    prepare(old, tmp_path / "NAME", "train", progress=False)
    with pytest.raises(DataError, match="has 3 items already, made from something else.*--add.*--replace"):
        prepare(new, tmp_path / "NAME", "train", progress=False)
    assert sorted(labels_of(tmp_path / "NAME" / "train")) == ["a", "b", "c"]
    options = Options(existing="replace")
    assert prepare(new, tmp_path / "NAME", "train", progress=False, options=options) == []
    assert labels_of(tmp_path / "NAME" / "train") == dict.fromkeys("cd", r"\frac { y } { 2 }")
    assert {path.stem for path in (tmp_path / "NAME" / "train" / "images").iterdir()} == {"c", "d"}
    assert "x" not in Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt")


def test_adding_keeps_what_is_there_and_the_order_of_the_vocabulary(tmp_path, capsys):
    old, new = make_photos(tmp_path / "old"), make_photos(tmp_path / "new", "de", label="{!}")
    prepare(old, tmp_path / "NAME", "train", progress=False)
    tokens = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt").tokens
    options = Options(existing="add")
    capsys.readouterr()
    assert prepare(new, tmp_path / "NAME", "train", progress=False, options=options) == []
    told = capsys.readouterr().err
    assert "NAME/train: 2 items added to 3" in told and "1 tokens added to the vocabulary: !" in told
    vocabulary = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt")
    assert vocabulary.tokens == (*tokens, "!")
    store = open_split(tmp_path / "NAME", "train", vocabulary)
    assert [store.name(i) for i in range(len(store))] == list("abcde")
    assert store.image(0).max() == 255 and vocabulary.decode(store.tokens(4))[2] == "!"
    prepare(new, tmp_path / "NAME", "train", progress=False, options=options)
    assert "already there" in capsys.readouterr().err and len(labels_of(tmp_path / "NAME" / "train")) == 5


def test_an_added_item_of_a_name_that_is_there_is_named_unless_it_is_the_same(tmp_path):
    old = make_photos(tmp_path / "old")
    new = make_photos(tmp_path / "new", "abd")
    (new / "photos" / "b.png").write_bytes(image("other", "x + x", ".png"))
    prepare(old, tmp_path / "NAME", "train", progress=False)
    (bad,) = prepare(new, tmp_path / "NAME", "train", progress=False, options=Options(existing="add"))
    assert bad.where == "labels.csv, line 2" and "'b' is there already, with another label or another" in bad.reason
    assert sorted(labels_of(tmp_path / "NAME" / "train")) == list("abcd")


def test_strokes_stay_when_items_are_added(tmp_path):
    for name, label in {"one/train/a": "x", "two/train/b": "y"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.inkml").write_text(inkml(label))
    prepare(tmp_path / "one", tmp_path / "NAME", progress=False)
    prepare(tmp_path / "two", tmp_path / "NAME", progress=False, options=Options(existing="add"))
    store = open_split(tmp_path / "NAME", "train", Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt"))
    strokes = open_strokes(tmp_path / "NAME" / "train")
    for index, name in enumerate("ab"):
        known = strokes.find(name, store.sizes[index])
        assert np.array_equal(draw(known.traces, known.size), store.image(index))


def test_labels_that_are_longer_than_a_reading_are_told(tmp_path):
    folder = make_plain(tmp_path / "plain")
    (folder / "train" / "labels.txt").write_text("a_1\t" + "x " * 50 + "\na_2\t" + "x " * 60 + "\nb.3\tx\n")
    prepare(folder, tmp_path / "NAME", progress=False)
    assert long_labels(tmp_path / "NAME", lambda height, width: 60) == []
    (told,) = long_labels(tmp_path / "NAME", lambda height, width: 59)
    assert "NAME/train: 1 labels are longer" in told and "'a_2' has 60 tokens" in told


# ------------------------------------------------------------------------------------------------------ photographs


def photograph(circles=3):
    """Grey ink on paper with some noise, which gets darker to the right where there is ink."""
    random = np.random.default_rng(0)
    paper = np.linspace(230, 150 if circles else 230, 400)[None].repeat(240, 0) + random.normal(0, 2, (240, 400))
    for number in range(circles):
        cv2.circle(paper, (90 + 100 * number, 120), 40, 60, 7)
    return paper.clip(0, 255).astype(np.uint8)


def make_photographs(folder, *names, blank=()):
    """The photographs, blank ones among them, and an image that was drawn."""
    folder.mkdir()
    for name in (*names, *blank):
        cv2.imwrite(str(folder / f"{name}.jpg"), photograph(circles=0 if name in blank else 3))
    drawn = np.full((70, 120), 255, np.uint8)
    cv2.circle(drawn, (35, 35), 16, 0, 3)
    cv2.imwrite(str(folder / "drawn.png"), drawn)
    rows = [*(f"{name}.jpg,x\n" for name in (*names, *blank)), "drawn.png,y\n"]
    (folder / "labels.csv").write_text("name,label\n" + "".join(rows))
    return folder


def test_photographs_are_cleaned_once_as_a_reader_cleans_them_and_the_data_set_says_so(tmp_path, capsys):
    source = make_photographs(tmp_path / "photos", "a", "b", blank=["empty"])
    options = Options(clean=True)
    (bad,) = prepare(source, tmp_path / "NAME", "train", progress=False, options=options)
    assert bad.where == "labels.csv, line 4" and "empty.jpg: has no ink" in bad.reason
    told = capsys.readouterr().err
    assert "NAME/train: photographs cleaned, 2 times" in told and "line 2: 400 x 240 pixels -> " in told
    vocabulary = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt")
    store = open_split(tmp_path / "NAME", "train", vocabulary)
    wanted = clean_photograph(read_image(source / "a.jpg"))[0].image
    assert wanted.shape != normalize_image(photograph()).shape
    assert np.array_equal(store.image(0), wanted)
    files = {path.name: path for path in (tmp_path / "NAME" / "train" / "images").iterdir()}
    assert set(files) == {"a.png", "b.png", "drawn.png"}
    assert files["drawn.png"].read_bytes() == (source / "drawn.png").read_bytes()
    assert cleaning_of(tmp_path / "NAME" / "train") == "auto"
    assert Data(tmp_path / "NAME", settings(tmp_path / "NAME"), 0).about()["clean"] == "auto"


def test_photographs_of_a_test_split_are_known_where_those_of_training_alone_were_cleaned(tmp_path):
    source = make_photographs(tmp_path / "photos", "a", "b")
    for split, clean in (("train", True), ("test", False), ("cleaned", True)):
        prepare(source, tmp_path / "NAME", split, progress=False, options=Options(clean=clean))
    data = Data(tmp_path / "NAME", settings(tmp_path / "NAME"), 0)
    assert [data.uncleaned(split) for split in ("train", "validation", "test", "cleaned")] == [0, 0, 2, 0]
    prepare(source, tmp_path / "RAW", "train", progress=False)
    prepare(source, tmp_path / "RAW", "test", progress=False)
    assert Data(tmp_path / "RAW", settings(tmp_path / "RAW"), 0).uncleaned("test") == 0


def test_photographs_that_are_not_cleaned_are_told_and_a_checkpoint_of_them_leaves_them_alone(tmp_path, capsys):
    source = make_photographs(tmp_path / "photos", "a", "b")
    prepare(source, tmp_path / "NAME", "train", progress=False)
    told = capsys.readouterr().err
    assert "NAME/train: images of many grey levels, which --clean would clean as recognize.py does, 2 times" in told
    assert cleaning_of(tmp_path / "NAME" / "train") == "never"
    assert Data(tmp_path / "NAME", settings(tmp_path / "NAME"), 0).about()["clean"] == "never"
    prepare(source, tmp_path / "NAME", "train", progress=False, options=Options(clean=True))  # made again, cleaned
    assert cleaning_of(tmp_path / "NAME" / "train") == "auto"
    more = make_photographs(tmp_path / "more", "c")
    with pytest.raises(DataError, match="its images were cleaned; they cannot be added to without --clean"):
        prepare(more, tmp_path / "NAME", "train", progress=False, options=Options(existing="add"))
    prepare(make_photographs(tmp_path / "drawn"), tmp_path / "DRAWN", "train", progress=False)
    assert cleaning_of(tmp_path / "DRAWN" / "train") is None and cleaning_of(tmp_path) is None


# ------------------------------------------------------------------------------------------------------ the script


def run(*arguments, **options):
    return run_script("prepare.py", *map(str, arguments), folder=ROOT, expected=None, **options)


def test_the_script_lists_bad_items_and_exits_with_1_unless_told_to_skip_them(tmp_path):
    folder = make_can(tmp_path / "can", False, "\t")
    with open(folder / "train_labels.txt", "a") as file:
        file.write("gone\tx\n")
    arguments = (folder, "--dataset", "NAME", "--root", tmp_path)
    for skip, code in (([], 1), (["--skip-bad"], 0)):
        done = run(*arguments, *skip, fresh=not skip)
        assert done.returncode == code, done.stderr
        assert "train_labels.txt, line 4: no image 'gone'" in done.stderr and "NAME: ready" in done.stdout
    assert json.loads((tmp_path / "NAME" / "train" / "prepared.json").read_text())["left_out"] == 1


def test_the_script_adds_and_normalizes_and_tells_labels_that_are_too_long(tmp_path):
    target = ("--dataset", "NAME", "--root", tmp_path, "--split", "train")
    assert run(make_photos(tmp_path / "old"), *target).returncode == 0
    new = make_photos(tmp_path / "new", "d", label="{" + "x" * 100 + "}")
    assert "--add" in run(new, *target).stderr
    done = run(new, *target, "--add", "--normalize", "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0 and "1 items added to 3" in done.stderr
    assert "NAME/train: 1 labels are longer than what is read" in done.stderr and "'d' has 106 tokens" in done.stderr
    assert cv2.imread(str(tmp_path / "sheet.png")).mean() > 200
    assert "expected a folder or a zip" in run("--dataset", "NAME").stderr


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path):
    done = run(tmp_path / "nowhere", "--dataset", "NAME", "--root", tmp_path, fresh=True)
    assert done.returncode == 2
    assert "nowhere: not found; expected" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "NAME").exists()


def test_asking_for_help_loads_nothing_heavy():
    code = "import sys, prepare; sys.exit(bool({'numpy', 'cv2', 'torch', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    done = run("--help")
    assert done.returncode == 0 and "--skip-bad" in done.stdout
