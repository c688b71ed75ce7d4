"""What a stage reads: no expression on both sides of the validation split; the same batches for any workers."""

import dataclasses
import gc
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_up_ink import LABELS, settings, supervised, write_ink
from threadpoolctl import threadpool_info, threadpool_limits

from dataset.images.augmentation import Augmentation, StrokeAugmentation
from dataset.images.source import ImageSource
from dataset.images.standard import STANDARD, VARIED
from dataset.loading.batch import collate
from dataset.loading.loaders import Data, Items, Loader, check_stages, make_loaders, open_data, open_split_loader
from dataset.sampler import AdaptiveBatchSampler, BatchCost, EpochPlan, FixedBatchSampler
from models.losses import Objective
from models.recognizer import Recognizer
from tests.script_process import QUICK
from utils.config.loading import load_config
from utils.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]


def write(folder: Path, split: str, labels: list[str], copies: int) -> None:
    """A split in the plain form: each label, written by several people."""
    (folder / split / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for number, label in enumerate(labels):
        for copy in range(copies):
            name = f"{split}_{number}_{copy}"
            image = np.full(random.integers(20, 60, 2), 255, np.uint8)
            image[8:12, 6:15] = 0
            cv2.imwrite(str(folder / split / "images" / f"{name}.png"), image)
            lines.append(f"{name}\t{label}\n")
    (folder / split / "labels.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "MINE"
    write(folder, "train", [*LABELS, "x ^ {"], copies=3)  # the last one is malformed
    write(folder, "test", ["x + a"], copies=2)
    tokens = sorted({token for label in LABELS for token in label.split()})
    (folder / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens))
    return folder


@pytest.fixture
def data(folder) -> Data:
    return Data(folder, settings(folder), seed=3)


def test_no_expression_is_in_training_and_validation(data):
    hashes = [set(data.ink(split).label_hash().tolist()) for split in ("train", "validation")]
    assert hashes[0] and hashes[1]
    assert not hashes[0] & hashes[1]
    assert data.counts()["train"] + data.counts()["validation"] == 33


def test_a_validation_split_of_ones_own_is_used(folder, tmp_path):
    import shutil

    mine = tmp_path / "MINE"
    shutil.copytree(folder, mine, ignore=shutil.ignore_patterns("store", "standard"))
    write(mine, "validation", LABELS[:2], copies=1)
    assert Data(mine, settings(mine), 0).counts() == {"train": 33, "validation": 2, "test": 2}


def test_labels_that_cannot_be_drawn_are_listed_and_left_out_of_standard_images_alone(folder, capsys):
    data = Data(folder, settings(folder, validation_share=0.05), seed=2)
    pairs = data.pairs("train", STANDARD, None)
    assert "x ^ {" in capsys.readouterr().err
    assert len(data.ink("train")) - len(pairs) == 3
    for i in range(len(pairs)):
        assert pairs.ink.label(i).tolist() == pairs.standard.label(int(pairs.partners[i])).tolist()


def test_the_size_of_an_epoch_is_known_before_its_images_are_drawn(folder):
    config = load_config(ROOT / "config.yaml", "MINE", None, [
        "data.workers=0", "stages.standard.expressions.synthetic=5", "stages.handwritten.passes=3",
        "stages.handwritten.replay.first=0.5", "stages.alignment.image_scale=0.5",
    ])  # fmt: skip
    data = Data(folder, config.data, seed=3)
    standard, alignment, handwritten = (data.epoch_size(stage) for stage in config.stages)
    ink = len(data.ink("train"))
    assert standard.images == len(set(data.ink("train").label_hash().tolist())) + 5
    assert alignment.images == ink and handwritten.images == round(3 * ink * 1.25)
    heights, widths = data.ink("train").sizes(0, 0).T
    assert handwritten.height == pytest.approx(heights.mean(), abs=1)
    assert handwritten.width == pytest.approx(widths.mean(), rel=0.1)
    assert alignment.height == pytest.approx(heights.mean() / 2, abs=1)
    assert handwritten.tokens == round(data.ink("train").lengths.mean())


def test_larger_images_are_scaled_to_the_limits_and_none_is_lost(folder):
    ink = Data(folder, settings(folder, max_width=16, image_scale=0.5), 3).ink("train")
    sizes = ink.sizes(0, 0)
    assert sizes[:, 1].max() <= 16
    assert [ink.image(i, 0, 0).shape for i in range(len(ink))] == [tuple(size) for size in sizes]


@pytest.mark.parametrize("kind", ["standard", "ink", "pairs"])
def test_batches_are_the_same_for_any_number_of_workers(data, inked, kind):
    """In the pairs, ink is drawn again from its strokes."""
    strokes = StrokeAugmentation(pen=(2, 4), jitter=1, shift=3, scale=(0.8, 1.2), slant=0.2, smoothing=1)

    def batches(workers: int) -> list:
        augmentation = Augmentation(scale=(0.7, 1.4), rotation=3, distortion=2)
        images = {
            "standard": lambda: data.standard("train", VARIED),
            "ink": lambda: data.ink("train", augmentation),
            "pairs": lambda: Data(inked, settings(inked), 3).pairs("train", VARIED, augmentation, strokes),
        }[kind]()
        items = Items(images, kind, 5, with_boxes=kind != "ink")
        loader = Loader(items, FixedBatchSampler(images.sizes, 4, plan=EpochPlan(seed=5)), workers)
        loader.set_epoch(2)
        return list(loader)

    for one, other in zip(batches(0), batches(2), strict=True):
        assert one.names == other.names
        for name in ("ink", "standard", "boxes"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


@pytest.mark.parametrize("kind", ["ink", "pairs"])
def test_batches_have_few_shapes_in_workers_too(inked, kind):
    data, augmentation = Data(inked, settings(inked), 3), Augmentation(scale=(0.7, 1.4))
    images = data.pairs("train", VARIED, augmentation) if kind == "pairs" else data.ink("train", augmentation)

    def shapes(workers: int) -> list:
        cost = BatchCost(partner_sizes=images.partner_sizes)
        plan = EpochPlan(seed=5, stride=8)
        sampler = AdaptiveBatchSampler(images.sizes, 60_000, cost=cost, plan=plan, shapes=2)
        loader = Loader(Items(images, kind, 5), sampler, workers)
        loader.set_epoch(2)
        batches = list(loader)
        assert sampler.oversize == 0 and len(batches) > 2
        assert sum(batch.padded_pixels for batch in batches) >= sampler.summary()["pixels"]
        return [(batch.names, batch.ink.shape[2:], kind == "pairs" and batch.standard.shape[2:]) for batch in batches]

    seen = shapes(0)
    assert seen == shapes(2)
    assert {side % 8 for _, ink, _ in seen for side in ink} == {0}
    assert len({ink for _, ink, _ in seen}) <= 2 and len({standard for _, _, standard in seen}) <= 2


@pytest.mark.parametrize("decoder", ["gru", "transformer"])
def test_the_shape_of_a_batch_changes_no_loss(data, decoder):
    """Of a network that learns no more; while it learns, BatchNorm's statistics see the padding."""
    config = load_config(ROOT / "config.yaml", "SAMPLE", None, [f"model.decoder={decoder}", "model.counting=24"])
    torch.manual_seed(0)
    model = Recognizer.from_config(config.model, len(data.vocabulary))
    objective = Objective(model.eval(), ["label", "counting"] if decoder == "gru" else ["label"])
    ink = data.ink("train")
    items = Items(ink, "ink", 0)
    own, padded = (collate([items[0, i, shapes] for i in range(5)]) for shapes in (None, ((96, 256),)))
    assert own.ink.shape[2:] != padded.ink.shape[2:] == (96, 256)
    with torch.no_grad():
        for name, loss in objective(own).items():
            assert objective(padded)[name].item() == pytest.approx(loss.item(), rel=1e-4), name


class Threads(ImageSource):
    """Images whose ink says how many threads draw them."""

    lengths = np.ones(4, np.int32)

    def __len__(self):
        return 4

    def sizes(self, seed, epoch):
        return np.full((4, 2), 8)

    def image(self, index, seed, epoch):
        pools = [pool["num_threads"] for pool in threadpool_info()]
        return np.full((8, 8), max(cv2.getNumThreads(), *pools), np.uint8)

    def boxes(self, index, seed, epoch):
        raise NotImplementedError

    def label(self, index):
        return np.array([3], np.int32)

    def name(self, index):
        return str(index)


def test_each_worker_computes_with_one_thread():
    """On 16 cores, 14 workers of 16 threads each would wait for one another."""
    threads, source = cv2.getNumThreads(), Threads()
    try:
        cv2.setNumThreads(3)
        cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (0, 0), 5)  # OpenCV starts its threads, before a fork
        with threadpool_limits(3):
            found = []
            for workers in (0, 1):
                loader = Loader(Items(source, "ink", 0), FixedBatchSampler(source.sizes, 4), workers)
                loader.set_epoch(0)
                found += [batch.ink.unique().tolist() for batch in loader]
    finally:
        cv2.setNumThreads(threads)
    assert found == [[3], [1]]


def test_workers_end_at_once_with_their_loader(data):
    """Left to the garbage collector, torch waits for each of them, and those of earlier stages stay meanwhile."""
    images, others = data.ink("train"), set(multiprocessing.active_children())
    loader = Loader(Items(images, "ink", 5), FixedBatchSampler(images.sizes, 8), workers=1)
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader)
    assert set(multiprocessing.active_children()) - others
    gc.disable()
    try:
        del loader
        assert not set(multiprocessing.active_children()) - others
    finally:
        gc.enable()


def test_workers_that_share_nothing_with_their_parent_read_the_same(folder):
    """As on Windows and macOS: all that such a worker knows is sent to it."""
    before = multiprocessing.get_start_method()

    def batches(workers: int) -> list:
        images = Data(folder, settings(folder), 3, known=["x", "!"]).ink("train", Augmentation(rotation=3))
        loader = Loader(Items(images, "ink", 5), FixedBatchSampler(images.sizes, 8, plan=EpochPlan(seed=5)), workers)
        loader.set_epoch(0)
        return list(loader)

    try:
        multiprocessing.set_start_method(QUICK.get_start_method(), force=True)
        found = batches(2)
    finally:
        multiprocessing.set_start_method(before, force=True)
    for one, other in zip(batches(0), found, strict=True):
        assert one.names == other.names and torch.equal(one.ink, other.ink)
        assert one.references() == other.references()


def test_new_expressions_join_the_training_labels_and_none_is_held_out(data):
    plain, more = data.standard("train", STANDARD), data.standard("train", STANDARD, synthetic=8)
    assert len(more) == len(plain) + 8
    labels = {tuple(more.label(i).tolist()) for i in range(len(more))}
    assert len(labels) == len(more)
    for split in ("validation", "test"):
        ink = data.ink(split)
        assert not labels & {tuple(ink.label(i).tolist()) for i in range(len(ink))}
    manifest = data.folder / "standard" / "expressions-8-0.json"
    assert '"validation"' in manifest.read_text() and '"test"' in manifest.read_text()


def test_another_epoch_shows_other_images(data):
    standard = data.standard("train", VARIED)
    assert any(not np.array_equal(standard.image(0, 0, 0), standard.image(0, 0, epoch)) for epoch in (1, 2, 3))


def test_a_loader_goes_on_in_the_middle_of_an_epoch(data):
    def loader() -> Loader:
        ink = data.ink("train", Augmentation(scale=(0.7, 1.4)))
        return Loader(Items(ink, "ink", 0), AdaptiveBatchSampler(ink.sizes, 1500, plan=EpochPlan(seed=1, stride=8)))

    whole = loader()
    whole.set_epoch(3)
    names = [batch.names for batch in whole]
    assert len(names) == len(whole) > 3
    part = loader()
    part.set_epoch(3, whole.state_dict(2))
    assert [batch.names for batch in part] == names[2:]


@pytest.mark.parametrize("preset", ["full", "small", "gpu"])
@pytest.mark.parametrize("batching", ["fixed", "adaptive"])
def test_every_stage_of_the_shipped_config_gets_its_loaders(inked, batching, preset):
    data = Data(inked, settings(inked), 3)
    config = load_config(ROOT / "config.yaml", "INK", preset, ["data.workers=0"])
    for stage in config.stages:
        train, validation = make_loaders(data, stage, config, batching, stride=8)
        train.set_epoch(0)
        batch = next(iter(train))
        assert (batch.ink is None) == (stage.images == "standard")
        assert (batch.standard is None) == (stage.images == "ink")
        assert sum(len(batch) for batch in validation) > 0


@pytest.mark.parametrize("name", ["standard", "alignment"])
def test_standard_images_have_the_styles_that_their_stage_names(inked, name):
    data, shown = Data(inked, settings(inked), 3), {}
    for styles in ("standard", "varied"):
        config, stage = supervised(name, f"stages.{name}.styles={styles}")
        train, _ = make_loaders(data, stage, config, "fixed", stride=8)
        shown[styles] = [train.items[0, index].standard for index in range(3)]
    exact = data.standard("train", STANDARD)
    drawn = {tuple(exact.label(index).tolist()): exact.image(index, 0, 0) for index in range(len(exact))}
    for index in range(3):
        wanted = drawn[tuple(train.items[0, index].label.tolist())]
        assert np.array_equal(shown["standard"][index], wanted)
        assert not np.array_equal(shown["varied"][index], wanted)


def test_a_stage_of_standard_images_is_validated_on_labels_that_it_does_not_train_on(inked):
    data = Data(inked, settings(inked), 3)
    config, stage = supervised("standard")
    train, validation = make_loaders(data, stage, config, "fixed", stride=8)
    learnt, read = (
        {loader.items.source.name(index) for index in range(len(loader.items))} for loader in (train, validation)
    )
    assert read == {data.text(data.ink("validation").label(index)) for index in range(len(data.ink("validation")))}
    assert learnt and read and not learnt & read


def test_the_share_of_replayed_images_goes_from_first_to_last(inked):
    data = Data(inked, settings(inked), 3)
    change = "stages.handwritten.replay={first: 0.5, last: 0.1}"
    config = load_config(ROOT / "config.yaml", "INK", None, ["data.workers=0", change])
    train, _ = make_loaders(data, config.stages[-1], config, "fixed", stride=8)
    ink = len(data.ink("train"))
    for progress, share in ((0.0, 0.5), (0.5, 0.3), (1.0, 0.1)):
        train.set_epoch(0, progress=progress)
        chosen = train.items.source.chosen(config.seed, 0)
        assert (chosen < ink).sum() == ink
        assert (chosen >= ink).sum() == min(round(share * ink), len(train.items) - ink)


def test_a_loader_that_goes_on_within_an_epoch_keeps_the_mix_with_which_it_began(inked):
    data = Data(inked, settings(inked), 3)
    change = "stages.handwritten.replay={first: 0.3, last: 0}"
    config = load_config(ROOT / "config.yaml", "INK", None, ["data.workers=0", change])
    first, second = (make_loaders(data, config.stages[-1], config, "fixed", stride=8)[0] for _ in range(2))
    first.set_epoch(0, progress=0.2)
    batches = [batch.names for batch in first]
    second.set_epoch(0, first.state_dict(1), progress=0.9)
    assert [batch.names for batch in second] == batches[1:]


@pytest.mark.parametrize("name", ["standard", "handwritten"])
def test_a_batch_and_a_validation_have_no_more_images_than_the_config_says(inked, name):
    data = Data(inked, settings(inked), 3)
    limits = ["batch.max_samples=3", "batch.max_pixels=1_000_000", "training.validation_images=2"]
    config = load_config(ROOT / "config.yaml", "INK", None, ["stages.standard.expressions={}", *limits])
    stage = next(each for each in config.stages if each.name == name)
    train, validation = make_loaders(data, stage, config, "adaptive", stride=8)
    train.set_epoch(0)
    assert train.sampler.summary()["largest_batch"] == 3
    assert len(validation.items) == 2


def test_the_budget_of_pairs_holds_both_images(inked):
    data = Data(inked, settings(inked), 3)
    config = load_config(ROOT / "config.yaml", "INK", None, ["data.workers=0", "batch.max_pixels=50_000"])
    stage = next(each for each in config.stages if each.images == "pairs")
    train, _ = make_loaders(data, stage, config, "adaptive", stride=8)
    train.set_epoch(0)
    batches = [batch for batch in train if len(batch) > 1]
    assert batches and all(batch.ink.numel() + batch.standard.numel() <= 50_000 for batch in batches)


@pytest.mark.parametrize("synthetic", [0, 0.25])
def test_an_epoch_of_several_passes_shows_each_image_as_often_and_never_twice_alike(inked, synthetic):
    data = Data(inked, settings(inked), 3)
    assignments = ["data.workers=0", "stages.handwritten.passes=4", f"stages.handwritten.synthetic.first={synthetic}"]
    config = load_config(ROOT / "config.yaml", "INK", "full", [*assignments, "stages.handwritten.losses.attention=1"])
    train, _ = make_loaders(data, config.stages[-1], config, "adaptive", stride=8)
    train.set_epoch(0)
    ink = data.ink("train")
    shown = [
        (name, image.tobytes()) for batch in train for name, image in zip(batch.names, batch.ink.numpy(), strict=True)
    ]
    of_ink = [(name, image) for name, image in shown if name.startswith("ink_")]
    assert len(of_ink) == round(4 * len(ink) * (1 - synthetic)) and len(set(of_ink)) == len(of_ink)
    times = np.unique([name for name, _ in of_ink], return_counts=True)[1]
    assert times.max() <= 4 and (synthetic or times.min() == 4)


def test_only_ink_is_shown_several_times_in_an_epoch():
    with pytest.raises(ConfigError, match=r"stages\.0\.passes|stages\.standard\.passes"):
        load_config(ROOT / "config.yaml", "INK", "full", ["stages.standard.passes=2"])


def test_a_stage_may_have_smaller_images_than_the_run(inked):
    settings = ["data.workers=0", "stages.alignment.image_scale=0.5", "stages.alignment.augment=false"]
    config = load_config(ROOT / "config.yaml", "INK", "full", settings)
    data = Data(inked, config.data, 3)
    _, small, whole = (data.of_stage(stage) for stage in config.stages)
    assert whole is data and small.about() == data.about() | {"image_scale": 0.5}
    both = (make_loaders(each, config.stages[1], config, "fixed", stride=8) for each in (small, whole))
    for of_small, of_whole in zip(*both, strict=True):  # in training, and in validation
        sizes, expected = of_small.items.source.sizes(0, 0), of_whole.items.source.sizes(0, 0) / 2
        assert abs(sizes - expected).max() <= 1


def test_a_split_is_read_whole_whatever_its_tokens(folder):
    about = {"vocabulary": ["x", "a"], "data": {"image_scale": 0.5, "max_height": 512, "max_width": 512}}
    vocabulary, loader = open_split_loader(folder, "test", about, stride=8)
    truths = [truth for batch in loader for truth in batch.references()]
    assert [vocabulary.decode(truth) for truth in truths] == [["x", "<unknown>", "a"]] * 2
    with pytest.raises(DataError, match="no split 2099; there are: test, train"):
        open_split_loader(folder, "2099", about, stride=8)


def test_a_missing_data_set_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="NOWHERE"):
        open_data(settings(tmp_path / "NOWHERE"), "NOWHERE", 0)


# ---- where strokes are known -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inked(tmp_path_factory) -> Path:
    return write_ink(tmp_path_factory.mktemp("datasets") / "INK")


REPLAY = "stages.handwritten.replay={first: 1, last: 1}"


@pytest.mark.parametrize(("stage", "more"), [("standard", ()), ("alignment", ()), ("handwritten", ()),
                                             ("handwritten", (REPLAY,))])  # fmt: skip
def test_where_a_loss_asks_batches_say_where_each_token_lies(inked, stage, more):
    data = Data(inked, settings(inked), 3)
    config, stage = supervised(stage, *more)
    check_stages(data, config)
    train, _ = make_loaders(data, stage, config, "fixed", stride=8)
    train.set_epoch(0)
    names = []
    for batch in train:
        shown = batch.standard if stage.images == "standard" else batch.ink
        assert batch.boxes.shape == (*batch.labels.shape, 4)
        for name, image, truth, boxes in zip(batch.names, shown[:, 0], batch.references(), batch.boxes, strict=True):
            names.append(name)
            has_box = [token not in "{}^_" for token in data.vocabulary.decode(truth)]
            assert boxes.isfinite().all(1).tolist() == has_box + [False] * (len(boxes) - len(truth))
            for left, top, right, bottom in boxes[: len(truth)][has_box].round().int().tolist():
                assert image[max(top, 0) : bottom, max(left, 0) : right].max() > 100
    assert any(name.startswith("ink_") for name in names) == (stage.images != "standard")
    assert any(not name.startswith("ink_") for name in names) == (stage.images == "standard" or bool(more))


def test_nobody_looks_for_boxes_that_no_loss_asks_for(inked):
    data = Data(inked, settings(inked), 3)
    config, _ = supervised("alignment", "stages.alignment.losses.attention=0", "stages.standard.losses.attention=0")
    for stage in config.stages:
        train, _ = make_loaders(data, stage, config, "fixed", stride=8)
        train.set_epoch(0)
        assert next(iter(train)).boxes is None


def test_strokes_are_distorted_where_a_stage_is_augmented_and_never_in_validation(inked):
    data = Data(inked, settings(inked), 3)
    plain = "augment={scale: [1, 1], stretch: [1, 1], rotation: 0, shear: 0, perspective: 0, distortion: 0, "
    plain += "thickness: 0, contrast: 0, blur: 0, cut_outs: 0, cut_out_size: 8, strokes: {shift: 5}}"
    assignments = [plain, "data.image_scale=1", "stages.alignment.augment=false"]
    config = load_config(ROOT / "config.yaml", "INK", None, ["data.workers=0", *assignments])
    for name, is_distorted in (("alignment", False), ("handwritten", True)):
        stage = next(each for each in config.stages if each.name == name)
        loaders = make_loaders(data, stage, config, "fixed", stride=8)
        loaders[0].set_epoch(0)
        for loader, expected in zip(loaders, (is_distorted, False), strict=True):
            batch = next(iter(loader))
            images = loader.items.source
            ink = getattr(images, "ink", images)
            height, width = ink.store.sizes[ink.indices[batch.indices[0]]]
            shown = batch.ink[0, 0, :height, :width].numpy()
            assert (shown != ink.store.image(int(ink.indices[batch.indices[0]]))).any() == expected


def test_attention_without_strokes_says_before_anything_takes_time_how_to_get_them(data):
    for name in ("alignment", "handwritten"):
        config, stage = supervised(name, dataset="MINE")
        message = rf"MINE/train/strokes: not found; .*`attention` of stage {name} .*InkML"
        with pytest.raises(DataError, match=message):
            check_stages(data, config)
        with pytest.raises(DataError, match=message):
            make_loaders(data, stage, config, "fixed", stride=8)
    config, _ = supervised("standard", "augment.strokes={}", dataset="MINE")
    check_stages(data, config)  # the typesetter knows


def test_without_strokes_a_mix_with_synthetic_ink_goes_on_and_that_is_told(data, capsys):
    config, stage = supervised("handwritten", "stages.handwritten.synthetic={first: 0.5, last: 0.5}", dataset="MINE")
    config = dataclasses.replace(config, stages=(stage,))
    check_stages(data, config)
    assert "MINE has no pen strokes: in stage handwritten" in capsys.readouterr().err
    train, _ = make_loaders(data, stage, config, "fixed", stride=8)
    boxes = torch.cat([batch.boxes.flatten(0, 1) for batch in train])
    assert 0 < boxes.isfinite().all(1).sum() < len(boxes)


def test_strokes_that_are_to_be_varied_and_are_not_there_are_an_error_from_the_start(data, inked):
    def check(of, assignment):
        check_stages(of, load_config(ROOT / "config.yaml", "MINE", assignments=[f"augment.strokes.{assignment}"]))

    with pytest.raises(DataError, match="`augment.strokes` in stage alignment and handwritten needs pen strokes"):
        check(data, "jitter=1")
    check(data, "jitter=0")
    check(Data(inked, settings(inked), 3), "jitter=1")


@pytest.mark.parametrize(("assignment", "message"), [
    ("augment.strokes.pen=[4, 2]", r"augment\.strokes\.pen: expected two widths"),
    ("augment.rotation=90", r"augment\.rotation: expected a number from 0 to 45"),
])  # fmt: skip
def test_a_range_that_makes_no_sense_is_a_config_error_from_the_start(data, assignment, message):
    with pytest.raises(ConfigError, match=message):
        check_stages(data, load_config(ROOT / "config.yaml", "MINE", assignments=[assignment]))
