"""Exchanged symbols: other hands in the same places, other labels where they are renamed, and nothing held out."""

import shutil
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from made_up_ink import settings, supervised, write_ink

from dataset.images.augmentation import StrokeAugmentation
from dataset.images.exchange import OF_ANOTHER_CLASS, VARIANTS, Donors, Exchange, Renaming
from dataset.images.handwritten import HandwrittenImages
from dataset.images.strokes import Strokes
from dataset.images.symbol_pool import Symbols
from dataset.latex.expressions import CLASS
from dataset.loading.loaders import Data, make_loaders
from dataset.renderer import layout
from dataset.vocabulary import Vocabulary

EXCHANGED = StrokeAugmentation(exchange=0.5)
VOCABULARY = Vocabulary(["1", "2", "a", "b", "x", "y", r"\sqrt", "{", "}", "+", "^", "l", "m", r"\cdot"])
IDS = {token: number for number, token in enumerate(VOCABULARY.tokens, 3)}


class OneTrace:
    """A library of symbols of one trace each, a rectangle of these sizes."""

    def __init__(self, sizes):
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
        self.points = np.concatenate([corners * size for size in sizes]).astype(np.float32)
        self.trace_ends, self.symbol_trace_ends = 4 * np.arange(1, len(sizes) + 1), np.arange(1, len(sizes) + 1)


def donors(symbols: list[tuple], typeset: Mapping[str, float] = MappingProxyType({})) -> Donors:
    """symbols: (token, writer, (width, height)) each.   typeset: sizes of boxes by token, as shares of these."""
    tokens, writers, sizes = zip(*symbols, strict=True)
    count, sizes = len(tokens), np.array(sizes, np.float32)
    nothing = np.zeros(count)
    ids = np.array([IDS[token] for token in tokens])
    boxes = sizes * np.array([[typeset.get(token, 1.0)] for token in tokens])
    return Donors(
        Symbols((OneTrace(sizes),), np.zeros(count, int), np.arange(count), ids, sizes, boxes, nothing, nothing,
                np.array(writers), nothing, nothing, nothing, nothing, nothing),
        VOCABULARY,
    )  # fmt: skip


ALL = [(token, writer, (1.0, 1.0)) for token in (*"12abxy+", r"\sqrt") for writer in range(3)]


def strokes_of(places: list[int], left_out: tuple = ()) -> Strokes:
    """A square of 20 pixels for each of these places of a label, side by side; those left out belong to no token."""
    square = np.array([[0, 0], [20, 0], [20, 20], [0, 20]], np.float32)
    traces = [square + [30 * number + 5, 5] for number in range(len(places))]
    indices = [-1 if place in left_out else place for place in places]
    size = 31, 30 * len(places) + 1  # to the margin
    symbols = [[number] for number in range(len(places))]
    return Strokes([trace.astype(np.float32) for trace in traces], symbols, indices, size)


def ids(label: str) -> np.ndarray:
    return np.array([IDS[token] for token in label.split()], np.int32)


def renaming(held_out=(), counts=None) -> Renaming:
    counts = np.ones(len(VOCABULARY), int) if counts is None else counts
    return Renaming(donors(ALL), VOCABULARY, counts, held_out)


@pytest.fixture(scope="module")
def inked(tmp_path_factory):
    return write_ink(tmp_path_factory.mktemp("datasets") / "INK")


@pytest.fixture(scope="module")
def data(inked) -> Data:
    return Data(inked, settings(inked, image_scale=0.5), 3)


# ---- what becomes of strokes -----------------------------------------------------------------------------------------


def test_a_symbol_that_is_exchanged_is_as_large_as_before_and_in_the_same_place():
    pool = donors([("x", 0, (4.0, 3.0)), ("x", 1, (3.0, 4.0)), ("x", 2, (0.5, 0.5))])
    for hand in (0.0, 0.4, 0.99):
        low, high = np.array([100.0, 50.0]), np.array([124.0, 57.0])
        points = np.concatenate(pool.traces(IDS["x"], hand, 0.0, low, high, IDS["x"]))
        assert points.dtype == np.float32
        assert np.allclose((points.min(axis=0) + points.max(axis=0)) / 2, (low + high) / 2, atol=1e-3)
        assert np.hypot(*np.ptp(points, axis=0)) == pytest.approx(25, rel=0.15)
        width, height = np.ptp(points, axis=0)
        assert 1.2 < width / height < 24 / 7  # between its own proportions and those of the box


def test_bars_and_roots_stay_and_so_does_what_nobody_else_has_written():
    pool = donors([entry for entry in ALL if entry[0] != "b"])
    strokes = strokes_of([0, 2, 3, 5])
    label = ids(r"\sqrt { a b } x")
    for index in range(30):
        after = Exchange(pool, 0.5).strokes(strokes, label, index, 0, 1)
        owners = after.traces_of(len(label))
        assert owners.keys() == {0, 2, 3, 5} and set(after.indices[4:]) <= {2, 5}
        for place, trace in ((0, 0), (3, 2)):
            assert np.ptp(after.traces[owners[place][0]], axis=0) == pytest.approx(
                np.ptp(strokes.traces[trace], axis=0), 0.1
            )


def test_ink_still_fills_its_image_to_the_margin():
    pool = donors([("x", writer, (3.0, 1.0 + writer % 2)) for writer in range(10)])
    strokes = strokes_of([0, 1])
    for index in range(20):
        points = np.concatenate(Exchange(pool, 0.5).strokes(strokes, ids("x x"), index, 0, 0).traces)
        assert np.allclose((points.min(axis=0), points.max(axis=0)), ((5, 5), (55, 25)), atol=1e-3)


def test_as_many_symbols_are_exchanged_as_the_share_says_and_none_without_one():
    strokes, label = strokes_of([0, 1, 2, 3]), ids("a b x y")
    pool = donors(ALL)

    def exchanged(share: float) -> float:
        after = [Exchange(pool, share).strokes(strokes, label, index, 0, 0) for index in range(400)]
        return float(np.mean([len(each.indices) - 4 for each in after])) / 4

    assert exchanged(0) == 0
    assert exchanged(0.3) == pytest.approx(0.3, abs=0.04)
    assert exchanged(0.5) == pytest.approx(0.5, abs=0.05)
    assert Exchange(pool, 0.0).strokes(strokes, label, 0, 0, 0) is strokes


def test_the_symbols_of_a_token_in_an_image_are_mostly_of_one_hand():
    """Each writer's symbols have a width of their own."""
    pool = donors([("a", writer, (1 + writer / 20, 1.0)) for writer in range(20) for _ in range(10)])
    strokes, label = strokes_of([0, 1, 2, 3]), ids("a a a a")
    alike = []
    for index in range(200):
        after = Exchange(pool, 1.0).strokes(strokes, label, index, 0, 0)
        made = after.traces[len(after.traces) - (len(after.indices) - 4) :]
        widths = np.round([np.ptp(trace[:, 0]) / np.ptp(trace[:, 1]) for trace in made], 3)
        alike += [len(set(widths.tolist())) <= 2] if len(made) > 2 else []
    assert len(alike) > 50 and np.mean(alike) > 0.95


def test_a_symbol_that_is_badly_cut_takes_no_ones_place():
    pool = donors([*[("+", writer, (1.0, 1.0)) for writer in range(9)], ("+", 9, (1.0, 0.1))])
    place = np.zeros(2), np.ones(2) * 20, IDS["+"]
    drawn = [pool.traces(IDS["+"], hand, 0.0, *place) for hand in np.linspace(0, 0.999, 50)]
    assert all(np.ptp(trace[:, 1]) > 15 for traces in drawn for trace in traces)
    assert IDS["+"] in pool and IDS["a"] not in pool and -1 not in pool


def test_what_becomes_another_token_is_as_much_larger_and_higher_as_it_is_typeset():
    pool = donors([(token, writer, (1.0, 1.0)) for token in "ab" for writer in range(3)])
    low, high = np.array([100.0, 50.0]), np.array([112.0, 66.0])  # an `a` with a diagonal of 20
    points = np.concatenate(pool.traces(IDS["b"], 0.5, 0.0, low, high, IDS["a"]))
    a, b = layout("a"), layout("b")
    em = 20 / np.hypot(a.width, a.height + a.depth)
    assert np.hypot(*np.ptp(points, axis=0)) == pytest.approx(em * np.hypot(b.width, b.height + b.depth), rel=1e-4)
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    assert x == pytest.approx(106)
    assert 58 - y == pytest.approx(em * (b.height - b.depth - a.height + a.depth) / 2, abs=1e-3) and 58 - y > 3


def test_sizes_are_those_that_people_write():
    """Here all symbols of `a` are written twice as large as they are typeset, those of `b` as they are."""
    pool = donors([("a", 0, (1.0, 1.0)), ("b", 0, (1.0, 1.0))], typeset={"a": 0.5})
    usual = donors([("a", 0, (1.0, 1.0)), ("b", 0, (1.0, 1.0))])
    place = 0.0, 0.0, np.zeros(2), np.full(2, 20.0), IDS["a"]
    smaller, larger = (np.ptp(np.concatenate(each.traces(IDS["b"], *place)), axis=0) for each in (pool, usual))
    assert smaller == pytest.approx(larger / 2)


# ---- what becomes of labels ------------------------------------------------------------------------------------------


def test_a_name_changes_everywhere_and_no_sign_becomes_a_name():
    label, seen = ids("a ^ { 2 } + a + x"), set()
    strokes = strokes_of([0, 3, 5, 6, 7, 8])
    for index in range(200):
        renamed = renaming().label(label, strokes, index)
        assert renamed.dtype == label.dtype and len(renamed) == len(label)
        assert renamed[0] == renamed[6]
        assert renamed[[1, 2, 4, 5, 7]].tolist() == ids("^ { } + +").tolist()
        assert set(VOCABULARY.decode(renamed[[0, 3, 8]])) <= set("12abxy")
        seen.add(tuple(renamed.tolist()))
    assert len(seen) > 15


def test_a_digit_or_a_name_becomes_one_of_another_class_now_and_then():
    strokes = strokes_of([0])
    for token in "2x":
        drawn = [VOCABULARY.decode(renaming().label(ids(token), strokes, index))[0] for index in range(3000)]
        strange = np.mean([other not in CLASS[token] for other in drawn])
        assert strange == pytest.approx(0.4 * OF_ANOTHER_CLASS, abs=0.02)


def test_what_has_no_strokes_does_not_change_nor_does_a_name_that_is_also_there():
    label = ids("a + 2 + a")
    strokes = strokes_of([0, 1, 2, 3, 4], left_out=(2, 4))
    renamed = {tuple(renaming().label(label, strokes, index).tolist()) for index in range(100)}
    assert renamed == {tuple(label.tolist())}


def test_tokens_become_others_by_the_square_root_of_how_often_labels_have_them():
    counts = np.zeros(len(VOCABULARY), int)
    counts[[IDS["a"], IDS["b"], IDS["x"]]] = 1, 9, 36
    label, strokes = ids("a"), strokes_of([0])
    names = [VOCABULARY.decode(renaming(counts=counts).label(label, strokes, index))[0] for index in range(2000)]
    assert "y" not in names  # which no label has
    assert names.count("b") / 2000 == pytest.approx(0.4 * 0.3, abs=0.03)
    assert names.count("x") / 2000 == pytest.approx(0.4 * 0.6, abs=0.03)


def test_nothing_becomes_what_would_lie_over_its_neighbors_nor_a_cross_a_dot():
    pool = donors([(token, 0, (1.0, 1.0)) for token in ("l", "m", "b", "+", r"\cdot")])
    renames = Renaming(pool, VOCABULARY, np.ones(len(VOCABULARY), int), ())
    label, strokes = ids(r"l m + \cdot"), strokes_of([0, 1, 2, 3])
    found = np.array([renames.label(label, strokes, index) for index in range(300)]).T
    names = [set(VOCABULARY.decode(np.unique(each))) for each in found]
    assert names == [{"l", "b"}, {"m", "l", "b"}, {"+"}, {r"\cdot"}]


def test_a_class_that_no_label_has_is_no_trouble():
    counts = np.zeros(len(VOCABULARY), int)
    with np.errstate(all="raise"):
        assert renaming(counts=counts).label(ids("a"), strokes_of([0]), 0).tolist() == [IDS["a"]]


def test_what_is_renamed_is_drawn_as_what_it_has_become():
    """Each token has a width of its own."""
    widths = {"a": 1.0, "b": 1.5, "x": 2.0, "y": 2.5}
    pool = donors([(token, 0, (width, 1.0)) for token, width in widths.items()])
    exchange = Exchange(pool, 0.0, Renaming(pool, VOCABULARY, np.ones(len(VOCABULARY), int), ()))
    label, strokes, changed = ids("a b"), strokes_of([0, 1]), 0
    for index in range(100):
        new, after = exchange.label(label, strokes, index), exchange.strokes(strokes, label, index, 0, 0)
        assert sorted(after.indices[2:]) == np.flatnonzero(new != label).tolist()
        changed += len(after.indices) - 2
        if (new != label).all():
            extents = [np.ptp(after.traces[after.traces_of(2)[place][0]], axis=0) for place in (0, 1)]
            ratio = (extents[0][0] / extents[0][1]) / (extents[1][0] / extents[1][1])
            first, second = (widths[token] for token in VOCABULARY.decode(new))
            assert ratio == pytest.approx(first / second, 0.05)
    assert changed > 30


def test_no_label_is_one_that_is_held_out():
    label, strokes = ids("a + x"), strokes_of([0, 1, 2])
    free = {" ".join(VOCABULARY.decode(renaming().label(label, strokes, index))) for index in range(300)}
    held_out = sorted(free - {"a + x"})[:3]
    kept = {" ".join(VOCABULARY.decode(renaming(held_out).label(label, strokes, index))) for index in range(300)}
    assert len(held_out) == 3 and kept == free - set(held_out)


# ---- as images -------------------------------------------------------------------------------------------------------


def renamed_images(data: Data, strokes=EXCHANGED) -> HandwrittenImages:
    return data.renamed_ink(None, strokes)


def test_renamed_ink_has_the_sizes_that_were_said_and_boxes_around_all_of_its_ink(data):
    for strokes in (EXCHANGED, StrokeAugmentation()):
        images = renamed_images(data, strokes)
        sizes = images.sizes(0, 0)
        assert len(images) == VARIANTS * len(data.ink("train")) == len(sizes) == len(images.lengths)
        for index in range(0, len(images), 5):
            image, boxes = images.image(index, 0, 0), images.boxes(index, 0, 0)
            label = data.vocabulary.decode(images.label(index))
            assert image.shape == tuple(sizes[index]) and len(label) == images.lengths[index] == len(boxes)
            assert np.isfinite(boxes[:, 0]).tolist() == [token not in "{}^_" for token in label]
            outside = image.copy()
            for left, top, right, bottom in boxes[np.isfinite(boxes[:, 0])]:
                outside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 0
            assert outside.max(initial=0) < 100


def test_exchanged_ink_depends_on_seed_epoch_and_index_alone_and_its_label_on_the_index(data):
    images, again = renamed_images(data), renamed_images(data)
    for index in (40, 3, 17):
        assert np.array_equal(images.image(index, 0, 1), again.image(index, 0, 1))
        assert np.array_equal(images.label(index), again.label(index))
    drawn = [images.image(17, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert any((one != other).any() for one, other in zip(drawn, drawn[1:], strict=False))
    written = data.ink("train")
    labels = {images.label(index).tobytes() for index in range(len(images))}
    assert len(labels) > 2 * len({written.label(index).tobytes() for index in range(len(written))})


def test_exchanged_ink_keeps_its_label_and_is_drawn_with_other_symbols(data):
    images, written = data.ink("train", strokes=EXCHANGED), data.ink("train")
    assert all(np.array_equal(images.label(index), written.label(index)) for index in range(len(written)))
    differs = [(images.image(index, 0, 0) != written.image(index, 0, 0)).any() for index in range(len(written))]
    assert 0.5 < np.mean(differs) <= 1
    some = images.part(np.arange(len(images)) < 9)
    assert all(np.array_equal(some.image(index, 0, 0), images.image(index, 0, 0)) for index in range(9))


def test_labels_and_symbols_of_validation_are_never_shown(data):
    images, validation = renamed_images(data), data.ink("validation")
    held_out = {validation.label(index).tobytes() for index in range(len(validation))}
    assert held_out.isdisjoint(images.label(index).tobytes() for index in range(len(images)))
    library = data.symbol_sources()[0][0]
    names = [validation.name(index) for index in range(len(validation))]
    is_held_out = library.of_images(names)
    assert is_held_out.any() and not is_held_out[data.donors.symbols.index].any()


@pytest.mark.parametrize("batching", ["fixed", "adaptive"])
def test_an_epoch_has_the_share_of_renamed_ink_that_the_config_says(inked, batching):
    data = Data(inked, settings(inked), 3)
    shares = (
        "stages.handwritten.renamed={first: 0.5, last: 0.25}",
        "stages.handwritten.synthetic={first: 0.25, last: 0.25}",
    )
    config, stage = supervised("handwritten", *shares, "stages.handwritten.epochs=2")
    train, _ = make_loaders(data, stage, config, batching, stride=8)
    count = len(data.ink("train"))
    for epoch, share in enumerate((0.5, 0.25)):
        train.set_epoch(epoch, progress=float(epoch))
        indices = np.concatenate([batch.indices for batch in train])
        renamed = (indices >= count) & (indices < (1 + VARIANTS) * count)
        assert len(indices) == count
        assert renamed.sum() == round(share * count)
        assert (indices >= (1 + VARIANTS) * count).sum() == round(0.25 * count)


def test_where_no_strokes_are_known_ink_is_shown_as_it_is_and_that_is_said(inked, tmp_path, capsys):
    folder = tmp_path / "INK"
    shutil.copytree(inked, folder)
    shutil.rmtree(folder / "train" / "strokes")
    data = Data(folder, settings(folder), 3)
    config, stage = supervised("handwritten", "stages.handwritten.renamed={first: 0.5, last: 0.5}")
    stage.losses.pop("attention")
    train, _ = make_loaders(data, stage, config, "adaptive", stride=8)
    assert len(train.items.source) == len(data.ink("train"))
    assert "INK: no strokes are known; renamed ink is shown as it is" in capsys.readouterr().err
