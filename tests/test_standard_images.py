"""Standard images: sizes, styles, and the cache of layouts that survives being killed, shared and outdated."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from dataset.images import standard as standard_images
from dataset.images.augmentation import augment
from dataset.images.sample import make_labels
from dataset.images.scaling import Scaling
from dataset.images.standard import STANDARD, VARIED, LayoutCache, StandardImages, key_of
from dataset.images.store import ImageStore, StoreWriter
from dataset.renderer import Style, draw_ink, layout
from dataset.typesetter import drawing
from dataset.vocabulary import Vocabulary
from tests.script_process import QUICK
from utils.reading.images import MARGIN

BAD = [r"\frac { 1 }".split(), "x ^ { 2".split()]


@pytest.fixture(scope="module")
def labels():
    return make_labels(120, seed=2)


@pytest.fixture(scope="module")
def vocabulary(labels):
    return Vocabulary.from_labels([*labels, *BAD])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("NAME") / "standard"


def source_of(labels, vocabulary, folder, styles=STANDARD, **settings):
    return StandardImages(labels, vocabulary, folder, styles, Scaling(**settings), progress=False)


def test_the_standard_style_draws_what_the_renderer_draws(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder, scale=0.5)
    for index in range(0, len(images), 5):
        style = Style(em=STANDARD.em[0] / 2, margin=MARGIN)
        assert np.array_equal(images.image(index, 0, 0), draw_ink(layout(labels[index], style), style))


@pytest.mark.parametrize("styles", [STANDARD, VARIED, replace(VARIED, augmentation=None)])
def test_sizes_are_known_without_drawing(labels, vocabulary, folder, styles):
    images = source_of(labels, vocabulary, folder, styles, scale=0.5)
    for epoch in (0, 3):
        sizes = images.sizes(7, epoch)
        assert sizes.dtype == np.int32 and sizes.shape == (len(labels), 2)
        for index in range(0, len(labels), 2):
            image = images.image(index, 7, epoch)
            assert image.shape == tuple(sizes[index]) and image.dtype == np.uint8


def test_ink_is_white_and_keeps_its_margin(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder, replace(VARIED, augmentation=None))
    for index in range(len(labels)):
        image = images.image(index, 0, 0)
        assert image.max() == 255
        edge = MARGIN - 1  # smooth edges may reach a little further
        inner = image[edge:-edge, edge:-edge]
        assert image.astype(int).sum() == inner.astype(int).sum()


@pytest.mark.parametrize("styles", [VARIED, replace(VARIED, augmentation=None)])
def test_varied_images_are_new_in_every_epoch_and_the_same_in_every_copy(labels, vocabulary, folder, styles):
    images = source_of(labels, vocabulary, folder, styles)
    copy = pickle.loads(pickle.dumps(images))
    for index in reversed(range(0, len(labels), 4)):
        first = images.image(index, 0, 0)
        assert np.array_equal(first, copy.image(index, 0, 0))
        other = copy.image(index, 0, 1)
        assert first.shape != other.shape or not np.array_equal(first, other)


def test_symbols_stray_differently_in_every_image(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder, VARIED)
    seeds = {images._layout_and_style(index, 0, epoch)[1].seed for index in range(20) for epoch in range(2)}
    assert len(seeds) == 40


def test_every_font_has_its_turn(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder, VARIED)
    fonts = [images._layout_and_style(index, 0, 0)[1].font for index in range(len(labels))]
    assert {*fonts} == {*VARIED.fonts}
    assert min(fonts.count(font) for font in VARIED.fonts) > len(labels) / len(VARIED.fonts) / 2


def test_labels_lengths_and_names_follow_the_labels(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder)
    assert [images.name(index) for index in range(len(images))] == [" ".join(label) for label in labels]
    assert images.lengths.tolist() == [len(label) for label in labels]
    assert vocabulary.decode(images.label(5)) == labels[5]
    with pytest.raises(IndexError):
        images.image(len(labels), 0, 0)


def test_labels_that_cannot_be_drawn_are_counted_with_the_reason_also_when_read_again(labels, vocabulary, tmp_path):
    for _ in range(2):
        images = source_of([labels[0], BAD[0], labels[1], BAD[1]], vocabulary, tmp_path)
        assert len(images) == 2 and images.labels_of.tolist() == [0, 2]
        assert [tokens for tokens, _ in images.failures] == BAD
        assert "lacks an argument" in images.failures[0][1] and "never closed" in images.failures[1][1]
        assert vocabulary.decode(images.label(1)) == labels[1]


def test_boxes_hold_the_ink_of_their_tokens(labels, vocabulary, folder):
    images = source_of(labels, vocabulary, folder)
    for index in range(0, len(labels), 3):
        image = images.image(index, 0, 0).copy()
        boxes = images.boxes(index, 0, 0)
        assert boxes.shape == (len(labels[index]), 4) and boxes.dtype == np.float32
        assert [np.isnan(box).all() for box in boxes] == [token in "{}^_" for token in labels[index]]
        for left, top, right, bottom in boxes[np.isfinite(boxes).all(axis=1)]:
            part = np.s_[int(top) : int(np.ceil(bottom)) + 1, int(left) : int(np.ceil(right)) + 1]
            assert 0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]
            assert images.image(index, 0, 0)[part].max() > 100
            image[part] = 0
        assert image.max() < 100  # nothing is left


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_box_is_where_its_token_alone_puts_ink_however_varied_the_style(labels, vocabulary, folder, scale):
    """Two pixels at most are left to the smooth distortion. A box that is turned is larger than what is turned in it:
    by a share of its sides, and never smaller."""
    images = source_of(labels, vocabulary, folder, VARIED, scale=scale)
    for index in range(0, len(labels), 6):
        layout_, style = images._layout_and_style(index, 0, 1)
        placed = drawing.place(layout_, style)
        ends = np.cumsum([sum(counts) for counts in placed.counts])
        boxes = images.boxes(index, 0, 1)
        for token in {*placed.tokens.tolist()}:
            own = [sign for sign, other in enumerate(placed.tokens) if other == token]
            rows = np.concatenate([np.arange(ends[sign] - sum(placed.counts[sign]), ends[sign]) for sign in own])
            alone = placed._replace(points=placed.points[rows], normals=placed.normals[rows],
                                    counts=[placed.counts[sign] for sign in own])  # fmt: skip
            image = augment(drawing.fill(alone, style.weight * style.em), index, 0, 1, VARIED.augmentation)
            assert image.shape == images.image(index, 0, 1).shape
            rows, columns = np.nonzero(image > 50)
            extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            beyond = (boxes[token] - extent) * [-1, -1, 1, 1]
            width, height = boxes[token, 2:] - boxes[token, :2]
            assert beyond.min() > -3.5 and (beyond < 3.5 + 0.1 * np.array([height, width] * 2)).all()


def test_what_is_larger_than_the_limits_is_drawn_smaller(labels, vocabulary, folder):
    for styles in (STANDARD, replace(VARIED, augmentation=None)):
        free = source_of(labels, vocabulary, folder, styles).sizes(0, 0)
        images = source_of(labels, vocabulary, folder, styles, max_height=60, max_width=150)
        sizes = images.sizes(0, 0)
        assert (free > [60, 150]).any() and (sizes <= [60, 150]).all()
        fits = (free <= [60, 150]).all(axis=1)
        assert fits.any() and (sizes[fits] == free[fits]).all()
        index = int(np.flatnonzero(~fits)[0])
        assert images.image(index, 0, 0).shape == tuple(sizes[index])


def test_label_hashes_are_those_of_the_store_of_ink(labels, vocabulary, folder, tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        for label in labels[:10]:
            writer.add("a", np.zeros((9, 9), np.uint8), vocabulary.encode(label), " ".join(label))
    images = source_of(labels, vocabulary, folder)
    assert (images.label_hash()[:10] == ImageStore(tmp_path / "store").label_hash).all()


# ---- the cache ------------------------------------------------------------------------------------------------------


def keys_of(labels):
    return np.array([key_of(label) for label in labels], np.uint64)


def filled(folder, labels):
    cache = LayoutCache(folder, "cm")
    cache.fill(labels, keys_of(labels), False, 1)
    return cache


def same_layouts(cache, labels):
    for label, row in zip(labels, cache.find(keys_of(labels)), strict=True):
        fresh, kept = layout(label).to_arrays(), cache.layout(row).to_arrays()
        assert all(np.array_equal(fresh[name], kept[name]) for name in fresh)


def test_a_layout_is_read_as_it_was_written(labels, tmp_path):
    same_layouts(filled(tmp_path, labels), labels)


def test_labels_are_laid_out_once(labels, tmp_path, monkeypatch):
    filled(tmp_path, labels[:50])
    calls = []
    monkeypatch.setattr(standard_images, "layout", lambda *a: calls.append(a) or layout(*a))
    same_layouts(filled(tmp_path, [*labels[:60], *labels[40:60]]), labels[:60])
    assert len(calls) == 10


@pytest.mark.parametrize(
    "lost_of_index, lost_of_layouts", [(0, 0), (5, 0), (100, 0), (0, 7), (100, 5000), (10**6, 10**6)]
)
def test_filling_goes_on_where_it_was_killed(labels, tmp_path, lost_of_index, lost_of_layouts):
    cache = filled(tmp_path, labels[:80])
    for name, lost in (("index", lost_of_index), ("layouts", lost_of_layouts)):
        with open(cache.folder / name, "r+b") as file:
            file.truncate(max(0, (cache.folder / name).stat().st_size - lost))
    if not lost_of_layouts:
        with open(cache.folder / "layouts", "ab") as file:
            file.write(b"half of a layout")
    cache = filled(tmp_path, labels)
    same_layouts(cache, labels)
    assert len(cache.index) == len(labels)


def test_what_another_process_has_laid_out_meanwhile_is_used(labels, tmp_path, monkeypatch):
    late = LayoutCache(tmp_path, "cm")
    filled(tmp_path, labels)
    monkeypatch.setattr(standard_images, "layout", None)
    late.fill(labels, keys_of(labels), False, 1)
    same_layouts(late, labels)


def fill_in_a_process(folder, labels):
    filled(folder, labels)


def test_two_processes_may_fill_at_once(labels, tmp_path):
    processes = [QUICK.Process(target=fill_in_a_process, args=(tmp_path, labels)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    cache = LayoutCache(tmp_path, "cm")
    assert len(cache.index) == len(labels)
    same_layouts(cache, labels)


def test_many_labels_are_laid_out_by_several_processes_in_the_order_given(labels, tmp_path, monkeypatch):
    monkeypatch.setattr(standard_images, "FEW", 10)
    monkeypatch.setattr(standard_images, "CHUNK", 16)
    cache = LayoutCache(tmp_path, "cm")
    cache.fill(labels, keys_of(labels), False, 2)
    assert (cache.index["key"] == keys_of(labels)).all()
    same_layouts(cache, labels)


def test_layouts_of_an_older_renderer_are_neither_used_nor_kept(labels, tmp_path, monkeypatch):
    old = filled(tmp_path, labels[:20])
    monkeypatch.setattr(standard_images, "renderer_version", lambda: "0123456789ab")
    assert len(LayoutCache(tmp_path, "cm").index) == 0
    assert not old.folder.exists()
