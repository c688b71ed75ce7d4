"""SAMPLE: the labels of the grammar, the skeletons of letters, the simulated hand, the data set on disk."""

import cv2
import numpy as np
import pytest

from dataset.formats.items import read_split
from dataset.images import sample
from dataset.images.sample import Writer, make_labels, make_sample, skeleton_strokes, thin, trace, write, writer_of
from dataset.latex.parser import parse, to_tokens
from dataset.renderer import layout, render
from utils.errors import DataError
from utils.reading.images import MARGIN, normalize_image, read_image


@pytest.fixture(scope="module")
def labels():
    return make_labels(2500, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("datasets") / "SAMPLE", 30, 10, workers=2, progress=False)


def glyph_bitmap(character, font=sample.PRINT):
    image = np.zeros((120, 120), np.uint8)
    for stroke in skeleton_strokes(character, font):
        cv2.polylines(image, [np.rint(10 + 100 * stroke).astype(np.int32)], False, 1, 15)
    return image > 0


def test_labels_differ_and_are_canonical_and_short(labels):
    assert len({tuple(label) for label in labels}) == len(labels) == 2500
    assert max(map(len, labels)) <= sample.LONGEST_LABEL
    for label in labels[:300]:
        assert to_tokens(parse(label)) == label


def test_labels_use_at_least_30_symbols_and_every_structure(labels):
    tokens = {token for label in labels for token in label}
    assert len(tokens - set("{}^_")) >= 30
    assert {r"\frac", r"\sqrt", r"\sum", r"\int", "^", "_"} <= tokens
    counts = np.array([sum(token in label for label in labels) for token in tokens])
    assert counts.min() >= 10


def test_default_size_is_enough_to_learn_from():
    assert sample.TRAIN_LABELS >= 2000 and sample.TEST_LABELS >= 300


@pytest.mark.parametrize("character", "0248Aabdefkxy∑∞≠β")
def test_thinning_leaves_lines_of_one_pixel_and_breaks_nothing(character):
    ink = glyph_bitmap(character)
    skeleton = thin(ink)
    assert skeleton.any() and not (skeleton & ~ink).any()
    assert cv2.connectedComponents(skeleton.astype(np.uint8))[0] == cv2.connectedComponents(ink.astype(np.uint8))[0]
    # Lines do not fill a square of three by three.
    assert cv2.erode(skeleton.astype(np.uint8), np.ones((3, 3), np.uint8)).max() == 0


def test_a_skeleton_runs_along_the_middle():
    ink = np.zeros((40, 100), bool)
    ink[10:31, 10:90] = True
    rows, columns = np.nonzero(thin(ink))
    assert abs(np.median(rows) - 20) <= 1 and abs(np.median(columns) - 49.5) <= 1


@pytest.mark.parametrize("character, pieces", [("0", 1), ("1", 3), ("x", 5), ("8", 3), ("=", 2), ("+", 4)])
def test_a_letter_is_traced_in_few_pieces(character, pieces):
    assert len(skeleton_strokes(character, sample.PRINT)) <= pieces


def test_letters_stand_upright():
    for character in "7FRp":
        points = np.concatenate(skeleton_strokes(character, sample.PRINT))
        assert points[:, 1].mean() < 0.47  # most of their ink is in the upper half
    assert np.concatenate(skeleton_strokes("d", sample.PRINT))[:, 0].mean() > 0.5  # and they are no mirror images


@pytest.mark.parametrize("character", "08Ax=i∞")
def test_traced_lines_pass_over_every_pixel_of_the_skeleton(character):
    skeleton = thin(glyph_bitmap(character))
    covered = np.zeros_like(skeleton)
    for chain in trace(skeleton):
        x, y = chain.astype(int).T
        covered[y, x] = True
        assert (np.abs(np.diff(chain, axis=0)).max(axis=1) <= 1).all()
    assert (covered == skeleton).all()


def test_strokes_of_every_written_symbol_lie_in_its_box(labels):
    for token in sorted({token for label in labels for token in label} - {*"{}^_", r"\frac", r"\sqrt"}):
        for font in (sample.PRINT, sample.CURSIVE):
            text = sample.WRITTEN.get(token, token)
            if font == sample.PRINT or set(text) <= set(sample.EITHER_FORM) | sample.ALWAYS_CURSIVE:
                points = np.concatenate(skeleton_strokes(text, font))
                assert points.min() > -0.1 and points.max() < 1.1 and len(points) >= 2


def test_ink_is_written_over_the_standard_layout_but_is_another_image(labels):
    agreement = []
    for index, label in enumerate(labels[100:130]):
        writer = writer_of(index, "train", seed=0)
        ink = normalize_image(sample.draw(write(label, writer, np.random.default_rng(index)), writer.pen)) > 127
        standard = normalize_image(render(label)) > 127
        height, width = standard.shape
        assert 0.4 < ink.shape[1] / width < 2.5  # the same layout
        ink = cv2.resize(ink.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA) > 0
        agreement.append((ink & standard).sum() / (ink | standard).sum())
    assert np.mean(agreement) < 0.4


def test_a_writer_with_no_freedom_puts_every_symbol_into_its_box():
    neat = Writer(pen=2, size=1, slant=0, spread=1, breadth=1, carelessness=0, climb=0, cursive=frozenset())

    class Still:  # a hand that never strays
        normal = staticmethod(lambda mean, deviation, size=None: np.zeros(size) if size else 0.0)
        uniform = staticmethod(lambda low, high, size=None: np.zeros(size) if size else 0.0)

    label = r"\frac { 1 } { \sqrt { x } } + 2".split()
    points = np.concatenate(write(label, neat, Still))
    standard = layout(label)
    size = np.array([standard.width, standard.height + standard.depth]) * sample.EM
    assert (points.min(axis=0) > -2).all() and (points.max(axis=0) < size + 2 + MARGIN).all()


def test_nobody_who_wrote_a_test_image_wrote_a_training_image():
    writers = {
        split: {repr(writer_of(index, split, 0)) for index in range(count)} for split, count in sample.WRITERS.items()
    }
    assert not writers["train"] & writers["test"]
    assert len(writers["train"]) == sample.WRITERS["train"]


def test_the_folder_is_whole_in_the_plain_form(folder):
    items = {split: list(read_split(folder / split)) for split in ("train", "test")}
    assert len(items["train"]) == 30 and len(items["test"]) == 10
    texts = {split: {" ".join(item.tokens) for item in part} for split, part in items.items()}
    assert not texts["train"] & texts["test"]
    vocabulary = (folder / "vocabulary.txt").read_text().split()
    assert {token for part in items.values() for item in part for token in item.tokens} == set(vocabulary)
    for item in items["train"]:
        assert normalize_image(read_image(item.image)).max() == 255


def test_made_twice_with_any_number_of_processes_it_is_the_same_to_the_last_byte(folder, tmp_path):
    again = make_sample(tmp_path / "SAMPLE", 30, 10, workers=1, progress=False)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (again / file).read_bytes()


def test_what_is_there_is_left_alone_and_what_is_outdated_is_made_again(tmp_path):
    made = make_sample(tmp_path / "SAMPLE", 6, 2, workers=1, progress=False)
    (made / "train" / "labels.txt").write_text("touched")
    make_sample(made, 6, 2, workers=1, progress=False)
    assert (made / "train" / "labels.txt").read_text() == "touched"
    make_sample(made, 7, 2, workers=1, progress=False)
    assert len((made / "train" / "labels.txt").read_text().splitlines()) == 7


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else than SAMPLE"):
        make_sample(tmp_path, 4, 2, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
