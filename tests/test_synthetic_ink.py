"""Synthetic ink: the same for any workers, of the size that was said, with every token's ink in its box."""

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_up_ink import settings, supervised, write_ink

from dataset.images.augmentation import Augmentation, StrokeAugmentation
from dataset.images.mixture import Mixture
from dataset.images.placement import GROWTH_JITTER, TALL
from dataset.images.scaling import Scaling
from dataset.images.standard import STANDARD, StandardImages
from dataset.images.strokes import Strokes
from dataset.images.symbols import SymbolLibrary, WrittenImage, cut_symbols, import_mathnote, mathnote_token, writers_of
from dataset.images.synthetic import SyntheticInk
from dataset.images.token_boxes import (
    FLAT,
    HIGH,
    HIGH_RULES,
    LOW_RULES,
    SCRIPTS,
    TokenBoxes,
    as_written,
    forms_of,
    token_boxes,
)
from dataset.loading.loaders import Data, Items, Loader, make_loaders
from dataset.sampler import AdaptiveBatchSampler, EpochPlan
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.files import hash64

BEYOND = [r"\begin{matrix} a & 2 \\ x & y \end{matrix}", r"\hat { x } + \overline { a b }", r"\aleph _ { \beta }",
          r"1 . 5 \cdots \ddot { x } \cdot \ldots : ; !"]  # fmt: skip
STRONG = Augmentation(scale=(0.7, 1.4), rotation=5, shear=0.1, perspective=0.05, distortion=2)
SHAKEN = StrokeAugmentation(pen=(2, 5), shift=3, scale=(0.8, 1.2), slant=0.2)


@pytest.fixture(scope="module")
def inked(tmp_path_factory) -> Path:
    return write_ink(tmp_path_factory.mktemp("datasets") / "INK")


@pytest.fixture(scope="module")
def data(inked) -> Data:
    return Data(inked, settings(inked, image_scale=0.5), 3)


@pytest.fixture(scope="module")
def ink(data) -> SyntheticInk:
    return data.synthetic_ink(new_labels=30)


def test_what_is_drawn_has_the_size_that_was_said(data):
    for augmentation, strokes in ((None, None), (STRONG, SHAKEN)):
        ink = data.synthetic_ink(20, augmentation, strokes)
        sizes = ink.sizes(1, 2)
        assert len(sizes) == len(ink) == len(ink.lengths) > 15
        for index in range(len(ink)):
            image = ink.image(index, 1, 2)
            assert image.shape == tuple(sizes[index]) and image.dtype == np.uint8
            assert image.max() > 100
            assert len(ink.label(index)) == ink.lengths[index]


def test_an_image_depends_on_seed_epoch_and_index_alone(data, ink):
    again = data.synthetic_ink(new_labels=30)
    for index in (5, 0, 3):  # in another order, and without asking for sizes first
        assert np.array_equal(again.image(index, 0, 1), ink.image(index, 0, 1))
        assert np.array_equal(again.boxes(index, 0, 1), ink.boxes(index, 0, 1), equal_nan=True)
    for prepared in ([0, 3], [4, 3]):  # together with others, or for another epoch
        again.prepare(prepared, 0, 1 if 4 in prepared else 2)
        assert np.array_equal(again.image(3, 0, 1), ink.image(3, 0, 1))
    drawn = [ink.image(3, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert all(a.shape != b.shape or (a != b).any() for a, b in zip(drawn, drawn[1:], strict=False))


def test_one_image_is_planned_as_in_the_company_of_all_others(ink):
    together = ink._planner.plan(np.arange(len(ink)), 7, 4)
    for index in range(len(ink)):
        alone = ink._planner.plan(np.array([index]), 7, 4)
        part = slice(together.ends[index - 1] if index else 0, together.ends[index])
        assert np.array_equal(alone.sizes[0], together.sizes[index])
        for name in ("donors", "corners", "scales"):
            assert np.array_equal(getattr(alone, name), getattr(together, name)[part])


def test_batches_are_the_same_for_any_number_of_workers(ink):
    batches = []
    for workers in (0, 2):
        sampler = AdaptiveBatchSampler(ink.sizes, 20_000, plan=EpochPlan(seed=0))
        loader = Loader(Items(ink, "synthetic", 0, with_boxes=True), sampler, workers)
        loader.set_epoch(1)
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert one.standard is None and one.names == other.names
        assert torch.equal(one.ink, other.ink)
        assert torch.equal(one.boxes.nan_to_num(), other.boxes.nan_to_num())


def test_boxes_hold_the_ink_of_their_tokens_and_all_ink_is_in_boxes(data):
    ink = data.synthetic_ink(10)
    for index in range(len(ink)):
        image, boxes = ink.image(index, 0, 0), ink.boxes(index, 0, 0)
        tokens = data.vocabulary.decode(ink.label(index))
        assert np.isfinite(boxes[:, 0]).tolist() == [token not in "{}^_" for token in tokens]
        outside = image.copy()
        for left, top, right, bottom in boxes[np.isfinite(boxes[:, 0])]:
            rows, columns = slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))
            assert image[rows, columns].max() > 100
            # the box is no larger than the ink: each of its sides is touched
            assert image[rows, columns].any(axis=1)[[0, -1]].all()
            assert image[rows, columns].any(axis=0)[[0, -1]].all()
            outside[rows, columns] = 0
        assert not outside.any()


def test_ink_touches_the_margin_on_all_sides(data):
    whole = SyntheticInk(data.standard("train", STANDARD), data.vocabulary, data.symbol_sources())
    for index in range(len(whole)):
        rows, columns = np.nonzero(whole.image(index, 0, 0))
        height, width = whole.sizes(0, 0)[index]
        assert (rows.min(), columns.min(), rows.max(), columns.max()) == (4, 4, height - 5, width - 5)


def test_symbols_are_of_training_expressions_alone(data, ink):
    library, allowed = data.symbol_sources()[0]
    names = {split: [data.ink(split).name(index) for index in range(len(data.ink(split)))]
             for split in ("train", "validation")}  # fmt: skip
    held_out = {hash64(name.encode()) for name in names["validation"]}
    assert held_out & set(library.image_hashes.tolist())  # the library knows them, for another seed's sake
    symbols = ink._planner.symbols
    used = symbols.index[symbols.library == 0]
    images = set(library.image_hashes[library.symbol_images[used]].tolist())
    assert images and not images & held_out
    assert images <= {hash64(name.encode()) for name in names["train"]}
    assert 0 < allowed.sum() < len(library)


def test_tokens_that_nobody_has_written_are_drawn_and_listed(data, tmp_path):
    labels = [label.split() for label in BEYOND]
    vocabulary = Vocabulary(sorted({*data.vocabulary.tokens, *(token for label in labels for token in label)}))
    standard = StandardImages([*labels, [r"\frac", "{", "a", "}"]], vocabulary, tmp_path, progress=False)
    ink = SyntheticInk(standard, vocabulary, data.symbol_sources())
    assert r"\aleph" in ink.simulated and r"\hat" in ink.simulated and "a" not in ink.simulated
    assert len(ink) == len(labels) and len(ink.failures) == 1 and ink.failures[0][0][0] == r"\frac"
    for index, label in enumerate(labels):
        with_ink = [token for token, _, _, _, _ in standard.layouts()[0].layout(standard.layouts()[1][index]).boxes()]
        assert np.flatnonzero(np.isfinite(ink.boxes(index, 0, 0)[:, 0])).tolist() == with_ink
        assert ink.image(index, 0, 0).max() == 255, label


@pytest.mark.parametrize("begin, end", [(r"\begin{pmatrix}", r"\end{pmatrix}"),
                                        (r"\begin { p m a t r i x }", r"\end { p m a t r i x }")])  # fmt: skip
def test_an_environment_has_its_delimiters_and_not_the_letters_of_its_name(data, tmp_path, begin, end):
    label = [*begin.split(), "a", r"\\", "x", *end.split(), "+", "a"]
    vocabulary = Vocabulary(sorted({*data.vocabulary.tokens, *label, "(", ")"}))
    standard = StandardImages([label], vocabulary, tmp_path, progress=False)
    planner = SyntheticInk(standard, vocabulary, data.symbol_sources())._planner
    assert vocabulary.decode(planner.tokens) == ["(", "a", "x", ")", "+", "a"]


def test_without_any_strokes_a_simulated_hand_draws_everything(data, tmp_path):
    standard = data.standard("train", STANDARD)
    ink = SyntheticInk(standard, data.vocabulary, [], Scaling(0.5))
    assert {"x", "a", r"\sqrt"} <= set(ink.simulated)
    assert ink.image(0, 0, 0).shape == tuple(ink.sizes(0, 0)[0])
    assert (ink.image(0, 0, 0).shape != ink.image(0, 0, 1).shape) or (ink.image(0, 0, 0) != ink.image(0, 0, 1)).any()


def test_a_stage_of_synthetic_ink_is_trained_on_it_and_validated_on_real_ink(inked):
    data = Data(inked, settings(inked), 3)
    config, stage = supervised("handwritten", "stages.handwritten.images=synthetic")
    train, validation = make_loaders(data, stage, config, "adaptive", stride=8)
    train.set_epoch(0)
    batch = next(iter(train))
    assert batch.ink is not None and batch.standard is None and batch.boxes.isfinite().any()
    assert not any(name.startswith("ink_") for name in batch.names)
    assert all(name.startswith("ink_") for batch in validation for name in batch.names)


@pytest.mark.parametrize("batching", ["fixed", "adaptive"])
def test_the_mix_has_the_share_that_the_config_says_and_all_have_boxes(inked, batching):
    data = Data(inked, settings(inked), 3)
    more = "stages.handwritten.synthetic={first: 0.6, last: 0.2}", "stages.handwritten.epochs=3"
    config, stage = supervised("handwritten", *more, "stages.handwritten.expressions.synthetic=20")
    train, _ = make_loaders(data, stage, config, batching, stride=8)
    assert isinstance(train.items.source, Mixture)
    count = len(data.ink("train"))

    def shown():
        batches = list(train)
        assert all(batch.boxes.isfinite().any(dim=(1, 2)).all() for batch in batches)
        names = [name for batch in batches for name in batch.names]
        assert len(names) == count
        return sum(not name.startswith("ink_") for name in names)

    for epoch, share in enumerate((0.6, 0.4, 0.2)):
        train.set_epoch(epoch, progress=epoch / 2)
        assert shown() == round(share * count)
    train.set_epoch(5, progress=0.75)
    assert shown() == round(0.3 * count)
    state = train.state_dict(1)
    resumed, _ = make_loaders(data, stage, config, batching, stride=8)
    resumed.set_epoch(5, state)
    assert [batch.names for batch in resumed] == [batch.names for batch in train][1:]


def test_numerators_are_written_closer_to_their_bars_and_exponents_higher_than_typeset(tmp_path):
    labels = [label.split() for label in (r"a \frac { b } { 2 }", "a _ { b } ^ { 2 }", "a b", r"\sum _ { a } b")]
    vocabulary = Vocabulary(sorted({token for label in labels for token in label}))
    standard = StandardImages(labels, vocabulary, tmp_path, progress=False)
    typeset = token_boxes(*standard.layouts())
    written = as_written(typeset, labels)
    moved = (written.low - typeset.low)[:, 1]
    assert np.allclose((written.high - typeset.high)[:, 1], moved, atol=1e-6) and np.array_equal(
        written.low[:, 0], typeset.low[:, 0]
    )
    drops = [dict(zip(typeset.tokens[start:end].tolist(), moved[start:end].tolist(), strict=True))
             for start, end in zip([0, *typeset.ends], typeset.ends, strict=False)]  # fmt: skip
    assert drops[0] == pytest.approx({0: 0, 1: 0, 3: 0.15, 6: 0}, abs=1e-6)
    assert drops[1] == pytest.approx({0: 0, 3: 0, 7: -0.07}, abs=1e-6)
    assert drops[2] == pytest.approx({0: 0, 1: 0}, abs=1e-6)
    assert drops[3] == pytest.approx({0: 0, 3: -0.17, 5: 0}, abs=1e-6)


def test_labels_follow_hands_of_labels_laid_out_alike(tmp_path):
    texts = ["a b a", "a ^ { b }", r"\sum _ { a } ^ { b } a", r"\sqrt { a }", r"\frac { a } { b }"]
    labels = [text.split() for text in texts]
    vocabulary = Vocabulary(sorted({token for label in labels for token in label}))
    forms, widths = forms_of(token_boxes(*StandardImages(labels, vocabulary, tmp_path, progress=False).layouts()))
    assert forms.tolist() == [FLAT, SCRIPTS, HIGH, LOW_RULES, HIGH_RULES]
    assert widths[0] > widths[1] > 0.5


def test_a_symbol_keeps_its_shape_and_its_size_against_the_typeset_box(data, ink):
    planner, plan = ink._planner, ink._planner.plan(np.arange(len(ink)), 0, 0)
    symbols = planner.symbols
    extents = planner.boxes.high - planner.boxes.low
    # what was written for a box of the very size that it gets, and holds nothing
    same = np.isclose(symbols.typeset[plan.donors], extents, rtol=1e-3).all(axis=1) & ~planner.boxes.has_rule
    same &= extents[:, 1] < TALL
    assert same.sum() > 15
    scales = plan.scales[same].astype(float)
    assert np.all(np.abs(np.log(scales[:, 0] / scales[:, 1])) < 2.1 * GROWTH_JITTER)
    owners = np.repeat(np.arange(len(ink)), np.diff(plan.ends, prepend=0))[same]
    for owner in np.unique(owners):
        ems = scales[owners == owner].mean(axis=1)
        assert ems.max() / ems.min() < 1 + 2.2 * GROWTH_JITTER


# ---- libraries -------------------------------------------------------------------------------------------------------


def test_a_library_is_built_once_and_again_when_the_strokes_change(inked, capsys):
    data = Data(inked, settings(inked), 3)
    library = data.symbol_sources()[0][0]
    written = (library.folder / "store.json").stat().st_mtime_ns
    data.symbol_sources()
    assert (library.folder / "store.json").stat().st_mtime_ns == written
    about = json.loads((library.folder / "store.json").read_text())
    (library.folder / "store.json").write_text(json.dumps(about | {"source": "older"}))
    data.symbol_sources()
    assert json.loads((library.folder / "store.json").read_text()) == about


def test_symbols_keep_the_strokes_that_were_written(data):
    library = data.symbol_sources()[0][0]
    assert len(library) > 50
    for symbol in range(len(library)):
        traces = library.symbol_trace_ends[symbol]
        points = library.points[library.trace_ends[traces - 2] if traces > 1 else 0 : library.trace_ends[traces - 1]]
        assert np.allclose(points.min(axis=0), 0, atol=1e-6)
        assert np.allclose(points.max(axis=0), library.sizes[symbol], atol=1e-5)
        assert len(points) == 9  # as in the fixture
    assert {"x", "a", r"\frac", r"\sqrt"} <= {library.tokens[token] for token in library.symbol_tokens}


def test_writers_are_those_of_a_table_or_of_names_that_begin_alike(tmp_path):
    names = ["form1-equation001", "form1-equation002", "form2-equation001", "MfrDB0001", "MfrDB0002"]
    numbers = writers_of(names, tmp_path / "writers.txt")
    assert numbers[0] == numbers[1] != numbers[2]
    assert len(set(writers_of([f"train_{number}" for number in range(1000)], tmp_path / "none"))) == 1000
    (tmp_path / "writers.txt").write_text("form1-equation001\tann\nMfrDB0002\tann\n")
    numbers = writers_of(names, tmp_path / "writers.txt")
    assert numbers[0] == numbers[4] != numbers[1]


def test_mathnotes_symbols_are_read_and_what_has_no_token_is_named(tmp_path):
    archive = tmp_path / "mathnote.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("alpha/0001", "frac_bar/0001", "A_cap/0001", "smudge/0001"):
            file = tmp_path / "data" / "symbols" / f"{name}.json"
            file.parent.mkdir(parents=True)
            stroke = [{"x": 10.0 * step, "y": 5.0 * step**2, "t": step} for step in range(6)]
            file.write_text(json.dumps({"strokes": [stroke]}))
            tar.add(file, f"mathnote/data/shared/symbols/{name}.json")
    assert import_mathnote(archive, tmp_path / "symbols", progress=False) == ["smudge"]
    library = SymbolLibrary(tmp_path / "symbols")
    assert library.tokens == ["A", r"\alpha", r"\frac"] and len(library) == 3
    assert np.allclose(np.hypot(*library.sizes.T), np.hypot(*library.typeset_sizes.T), rtol=1e-5)
    assert [mathnote_token(name) for name in ("Gamma_cap", "x", "leq", "broken_default")] == [
        r"\Gamma",
        "x",
        r"\leq",
        None,
    ]


def test_a_broken_symbol_is_named(tmp_path):
    archive = tmp_path / "mathnote.tar.xz"
    (tmp_path / "0001.json").write_text('{"strokes": [[{"x": 1}]]}')
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "0001.json", "mathnote/data/shared/symbols/x/0001.json")
    with pytest.raises(DataError, match=r"x/0001\.json: expected strokes of points"):
        import_mathnote(archive, tmp_path / "symbols", progress=False)


def test_symbols_of_other_data_sets_are_used_and_a_missing_one_is_named(inked, tmp_path):
    archive: Path = tmp_path / "mathnote.tar.xz"
    (tmp_path / "0001.json").write_text(json.dumps({"strokes": [[{"x": 0, "y": 0}, {"x": 9, "y": 9}]]}))
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "0001.json", "mathnote/data/shared/symbols/x/0001.json")
    import_mathnote(archive, inked.parent / "OTHER" / "symbols", progress=False)
    data = Data(inked, settings(inked, symbols=("OTHER",)), 3)
    ink = data.synthetic_ink()
    assert (ink._planner.symbols.library == 1).sum() == 1
    with pytest.raises(DataError, match="NOWHERE: expected symbols/"):
        Data(inked, settings(inked, symbols=("NOWHERE",)), 3).synthetic_ink()
    assert cv2.countNonZero(ink.image(0, 0, 0))


def test_what_spans_others_is_kept_as_wide_as_where_symbols_are_not_spread():
    """Three letters, written twice as far apart as typeset, under a line as long as they are."""
    em, spread = 20.0, 2.0
    low = np.array([[0, -0.5], [1, -0.5], [2, -0.5], [0, -1]], np.float32)
    high = np.array([[0.5, 0], [1.5, 0], [2.5, 0], [2.5, -0.95]], np.float32)
    nothing = np.zeros(4, np.float32)
    has_rule = np.array([False, False, False, True])
    boxes = TokenBoxes(np.array([4]), np.arange(4, dtype=np.int32), low, high, nothing, nothing + 1, has_rule)
    corners = np.stack([low, high], axis=1) * em  # (4, 2, 2): left top and right bottom
    middles = corners.mean(axis=1, keepdims=True)
    written = corners + (spread - 1) * middles * [1, 0]
    written[3] = corners[3] * [spread, 1]
    strokes = Strokes(list((written + [10, 40]).astype(np.float32)), [[0], [1], [2], [3]], range(4), (60, 130))
    features, symbols = cut_symbols(WrittenImage(strokes, np.arange(3, 7), boxes))
    assert features.spread == pytest.approx(spread, rel=0.1)
    widths = [np.ptp(symbol.traces[0][:, 0]) for symbol in symbols]
    assert widths == pytest.approx([0.5, 0.5, 0.5, 2.5], rel=0.1)
