"""Strokes beside a split's images: kept whole or not at all, the same ink, drawn again within the same size."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.formats.inkml import PEN, Symbol, draw_traces, pixel_traces, read_inkml
from dataset.formats.preparation import Options, prepare
from dataset.images.augmentation import AS_WRITTEN, Augmentation, StrokeAugmentation, augment
from dataset.images.handwritten import HandwrittenImages
from dataset.images.scaling import Scaling
from dataset.images.store import ImageStore, open_split
from dataset.images.strokes import Strokes, StrokeStore, StrokeWriter, boxes_of, draw, open_strokes, strokes_of, vary
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.reading.images import MARGIN, normalize_image

STROKES = StrokeAugmentation(
    pen=(2, 6), jitter=1.5, shift=4, scale=(0.7, 1.4), stretch=(0.7, 1.4), slant=0.3, rotation=10, smoothing=2
)
IMAGES = Augmentation(scale=(0.7, 1.4), stretch=(0.9, 1.1), rotation=4, shear=0.1, perspective=0.03, distortion=2)


def inkml(traces, symbols, latex=r"\frac{a}{b}"):
    """An InkML file.   symbols: (name, MathML id, places of its traces)."""
    groups = "".join(
        f'<traceGroup><annotation type="truth">{name}</annotation>'
        + "".join(f'<traceView traceDataRef="{trace}"/>' for trace in members)
        + f'<annotationXML href="{identity}"/></traceGroup>'
        for name, identity, members in symbols
    )
    texts = [", ".join(f"{x} {y}" for x, y in trace) for trace in traces]
    return (
        f'<ink><annotation type="truth">{latex}</annotation><annotationXML type="truth">'
        '<math><mfrac xml:id="-_1"><mi xml:id="a_1">a</mi><mi xml:id="b_1">b</mi></mfrac></math></annotationXML>'
        + "".join(f'<trace id="{number}">{text}</trace>' for number, text in enumerate(texts))
        + f"<traceGroup>{groups}</traceGroup></ink>"
    )


# a over b: the bar is one trace, a two, b two, of which one is a dot; and a stray trace is nobody's.
STEPS = np.linspace(0, 1, 12)[:, None]
TRACES = [
    np.array([10, 40]) + STEPS * [60, 2],
    np.array([30, 5]) + STEPS * [8, 22],
    np.array([38, 5]) + STEPS * [-9, 24],
    np.array([32, 52]) + STEPS * [3, 27],
    np.array([[45.0, 60.0]]),
    np.array([90, 20]) + STEPS * [14, 14],
]
SYMBOLS = [("-", "-_1", (0,)), ("b", "b_1", (3, 4)), ("a", "a_1", (1, 2))]
LABEL = r"\frac { a } { b }".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set made from InkML: six images of one formula, each a little different."""
    home = tmp_path_factory.mktemp("strokes")
    (home / "ink" / "train").mkdir(parents=True)
    for number in range(6):
        traces = [trace * (1 + 0.1 * number) for trace in TRACES]
        (home / "ink" / "train" / f"image{number}.inkml").write_text(inkml(traces, SYMBOLS))
    assert prepare(home / "ink", home / "INK", progress=False) == []
    return home / "INK"


def source_of(folder, augmentation=None, strokes=STROKES, **settings) -> HandwrittenImages:
    store = open_split(folder, "train", Vocabulary.from_file(folder / "vocabulary.txt"))
    known = open_strokes(folder / "train")
    return HandwrittenImages(store, np.arange(len(store)), Scaling(**settings), augmentation, known, strokes)


def extent(image, level=100):
    """left, top, right, bottom of the ink."""
    rows, columns = np.nonzero(image >= level)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


# ------------------------------------------------------------------------------------------------------------- the same


def test_strokes_of_real_ink_draw_the_very_image_that_the_store_keeps(shared_data, tmp_path):
    archive = shared_data / "CROHME_inkml" / "2014.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    placed, symbols = 0, 0
    with tarfile.open(archive) as files, StrokeWriter(tmp_path / "strokes") as writer:
        members = [member for member in files if member.size][::4]
        images = {}
        for member in members:
            path = tmp_path / member.name.rpartition("/")[2]
            path.write_bytes(files.extractfile(member).read())
            ink = read_inkml(path)
            traces = pixel_traces(ink.traces)
            images[ink.name] = normalize_image(draw_traces(traces))
            writer.add(ink.name, strokes_of(traces, ink.symbols))
            symbols += len(ink.symbols)
            placed += sum(symbol.token is not None for symbol in ink.symbols)
    store = open_strokes(tmp_path)
    for name, image in images.items():
        strokes = store.find(name, image.shape)
        assert np.array_equal(draw(strokes.traces, strokes.size), image), name
    assert len(images) > 200 and placed / symbols > 0.95


@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=5), min_size=1),
       st.sampled_from([0.5, 1 / 3, 28 / 27, 1.5]))  # fmt: skip
def test_rounding_never_moves_a_pixel(traces, scale):
    """Also where a point lies half-way between two pixels."""
    traces = [np.array(trace) * scale for trace in traces]
    strokes = strokes_of(traces, [])
    assert strokes.traces[0].dtype == np.float32
    assert np.array_equal(draw(strokes.traces, strokes.size), normalize_image(draw_traces(traces)))


@pytest.mark.parametrize("short_of_half", [1e-9, -1e-9, 0])
def test_a_point_half_way_between_two_pixels_stays_on_its_side(short_of_half):
    """As float32 it would be half-way exactly."""
    traces = [np.array([[0, 0], [10.5 - short_of_half, 20.5 - short_of_half]]), np.array([[70.0, 70]])]
    strokes = strokes_of(traces, [])
    assert np.array_equal(draw(strokes.traces, strokes.size), normalize_image(draw_traces(traces)))


def test_strokes_come_back_by_name_as_they_were_written(folder, tmp_path):
    written = {}
    with StrokeWriter(tmp_path / "strokes") as writer:
        for number, name in enumerate(["b", "a", "ü"]):
            traces = pixel_traces(TRACES[: 2 + number])
            written[name] = strokes_of(traces, [Symbol("x", (1,), number), Symbol("y", (), None)])
            writer.add(name, written[name])
    store = pickle.loads(pickle.dumps(open_strokes(tmp_path)))
    for name, strokes in reversed(written.items()):
        found = store.find(name, strokes.size)
        assert all(np.array_equal(a, b) for a, b in zip(found.traces, strokes.traces, strict=True))
        assert (found.symbols, found.indices, found.size) == ([[1], []], strokes.indices, strokes.size)
    assert store.find("c", written["a"].size) is None
    assert store.find("a", (3, 3)) is None  # its image was changed by hand


def test_a_bar_and_a_root_are_their_own_tokens_not_the_brace_after_them(folder):
    images = source_of(folder, strokes=AS_WRITTEN)
    boxes = images.boxes(0, 0, 0)
    assert [token for token, box in zip(LABEL, boxes, strict=True) if np.isfinite(box).all()] == [r"\frac", "a", "b"]
    assert np.isnan(boxes[1]).all()


# ---------------------------------------------------------------------------------------------------------- preparing


def test_prepared_from_inkml_every_image_has_its_strokes(folder):
    store, strokes = ImageStore(folder / "train" / "store"), open_strokes(folder / "train")
    assert len(store) == len(strokes) == 6
    for index in range(6):
        found = strokes.find(store.name(index), store.sizes[index])
        assert np.array_equal(draw(found.traces, found.size), store.image(index))
    assert not list((folder / "train").glob("*.partial"))


def test_a_split_from_images_has_no_strokes_nor_keeps_those_of_another(folder, tmp_path):
    assert prepare(make_ink(tmp_path), tmp_path / "NAME", progress=False) == []
    assert open_strokes(tmp_path / "NAME" / "train") is not None
    replace = Options(existing="replace")
    assert prepare(folder, tmp_path / "NAME", progress=False, options=replace) == []  # its plain form: images
    assert not (tmp_path / "NAME" / "train" / "strokes").exists()
    assert open_strokes(tmp_path / "NAME" / "train") is None


def make_ink(home: Path) -> Path:
    (home / "ink" / "train").mkdir(parents=True, exist_ok=True)
    (home / "ink" / "train" / "a.inkml").write_text(inkml(TRACES, SYMBOLS))
    return home / "ink"


@pytest.mark.parametrize("step", range(3))
def test_stopped_anywhere_strokes_are_whole_or_not_there(tmp_path, monkeypatch, step):
    """Each rename is a place to stop at: of the images, of the strokes, of the labels."""
    source, target, steps = make_ink(tmp_path), tmp_path / "NAME", iter(range(100))
    rename = Path.rename

    def stop_before(path, other):
        if next(steps) == step:
            raise KeyboardInterrupt
        return rename(path, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop_before)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target, progress=False)
    assert not (target / "train" / "labels.txt").exists()
    assert (open_strokes(target / "train") is None) == (step < 2)
    assert prepare(source, target, progress=False) == []
    assert len(open_strokes(target / "train")) == 1 and not list((target / "train").glob("*.partial"))


def test_a_split_made_before_strokes_were_kept_is_made_again(tmp_path, capsys):
    import shutil

    source, target = make_ink(tmp_path), tmp_path / "NAME"
    for _ in range(2):
        prepare(source, target, progress=False)
        shutil.rmtree(target / "train" / "strokes")
    prepare(source, target, progress=False)
    assert open_strokes(target / "train") is not None and "already there" not in capsys.readouterr().err
    prepare(source, target, progress=False)
    assert "already there" in capsys.readouterr().err


def test_damaged_strokes_are_named_with_what_helps(tmp_path):
    prepare(make_ink(tmp_path), tmp_path / "NAME", progress=False)
    points = tmp_path / "NAME" / "train" / "strokes" / "points.bin"
    points.write_bytes(bytes([points.read_bytes()[0] ^ 1]) + points.read_bytes()[1:])
    with pytest.raises(DataError, match=r"strokes: points.bin is damaged; delete it, .*prepare\.py"):
        open_strokes(tmp_path / "NAME" / "train", checked=True)
    with open(points, "r+b") as file:
        file.truncate(40)
    with pytest.raises(DataError, match=r"strokes: a file has lost its end; .*prepare\.py"):
        open_strokes(tmp_path / "NAME" / "train")
    with pytest.raises(DataError, match="not a whole store"):
        StrokeStore(tmp_path / "nowhere")


# -------------------------------------------------------------------------------------------------------- drawn again


@given(
    index=st.integers(0, 10**6),
    epoch=st.integers(0, 300),
    pen=st.integers(1, 9),
    traces=st.lists(st.lists(st.tuples(st.floats(0, 90), st.floats(0, 40)), min_size=1, max_size=9), min_size=1,
                    max_size=4),
)  # fmt: skip
def test_ink_drawn_again_has_exactly_the_size_it_had_and_its_margin(index, epoch, pen, traces):
    traces = [np.array(trace) for trace in traces]
    strokes = strokes_of(traces, [Symbol("x", (0,), 0)])
    settings = StrokeAugmentation(pen=(pen, pen), jitter=2, shift=9, scale=(0.5, 2), slant=0.4, smoothing=3)
    varied, width = vary(strokes, index, 0, epoch, settings)
    image = draw(varied, strokes.size, width)
    assert width == pen and image.shape == strokes.size
    left, top, right, bottom = extent(image)
    for low, high, side in ((left, right, image.shape[1]), (top, bottom, image.shape[0])):
        room = (side - 2 * MARGIN - pen) // 2  # a thicker pen than the ink was wide takes from the margins
        assert low >= MARGIN + min(room, 0) and high <= side - MARGIN - min(room, 0)
        assert abs(low + high - side) <= 1


def test_the_ink_fills_the_image_that_it_filled_before(folder):
    images = source_of(folder)
    for index in range(len(images)):
        height, width = images.store.sizes[index]
        assert extent(images.image(index, 3, 1)).tolist() == [MARGIN, MARGIN, width - MARGIN, height - MARGIN]


def test_neutral_settings_give_the_image_of_the_store(folder):
    images = source_of(folder, strokes=AS_WRITTEN)
    for index in range(len(images)):
        assert np.array_equal(images.image(index, 0, 5), images.store.image(index))


def test_sizes_are_known_without_drawing_whatever_is_distorted(folder):
    for settings in ({}, {"scale": 0.6}, {"max_width": 70}):
        images = source_of(folder, IMAGES, **settings)
        sizes = images.sizes(1, 2)
        assert [images.image(index, 1, 2).shape for index in range(6)] == [tuple(size) for size in sizes]


def test_drawn_ink_depends_on_seed_epoch_and_index_alone(folder):
    one, other = source_of(folder, IMAGES), pickle.loads(pickle.dumps(source_of(folder, IMAGES)))
    first = [one.image(index, 7, 3) for index in range(6)]
    for index in reversed(range(6)):
        other.boxes(index, 7, 4)
        assert np.array_equal(first[index], other.image(index, 7, 3))
    for change in ((8, 3), (7, 4)):
        assert any(not np.array_equal(first[index], one.image(index, *change)) for index in range(6))


def test_an_image_without_strokes_is_distorted_as_an_image(folder, tmp_path):
    with StrokeWriter(tmp_path / "strokes"):
        pass
    images = source_of(folder, IMAGES)
    images.strokes = open_strokes(tmp_path)
    assert np.array_equal(images.image(2, 0, 0), augment(images.store.image(2), 2, 0, 0, IMAGES))
    assert np.isnan(images.boxes(2, 0, 0)).all() and len(images.boxes(2, 0, 0)) == len(LABEL)


def test_a_part_of_the_images_keeps_its_strokes(folder):
    images = source_of(folder)
    part = images.part(np.arange(6) == 0)
    assert len(part) == 1 and np.array_equal(part.image(0, 0, 0), images.image(0, 0, 0))


# -------------------------------------------------------------------------------------------------------------- boxes


STRAIGHT = Augmentation(scale=(0.7, 1.4), stretch=(0.9, 1.1), distortion=2)


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("augmentation", [None, STRAIGHT, IMAGES], ids=["strokes", "straight", "all"])
def test_a_box_is_where_its_symbol_alone_puts_ink(folder, augmentation, scale):
    """A pixel is lost in rounding and smooth edges, and two at most are left to the smooth distortion.

    A box that is turned is larger than what is turned in it: by a share of its sides, and never smaller.
    """
    images = source_of(folder, augmentation, scale=scale)
    tolerance = 1.5 if augmentation is None else 3.5
    for index in range(6):
        for epoch in range(4):
            boxes = images.boxes(index, 5, epoch)
            whole = images.image(index, 5, epoch)
            strokes, traces, pen = images._varied(index, 5, epoch)
            for members, place in zip(strokes.symbols, strokes.indices, strict=True):
                symbol = draw([traces[i] for i in members], strokes.size, pen)
                alone = HandwrittenImages(OneImage(symbol), np.arange(6), Scaling(scale), augmentation=augmentation)
                image = alone.image(index, 5, epoch)
                assert image.shape == whole.shape
                beyond = (boxes[place] - extent(image, 30)) * [-1, -1, 1, 1]  # the box's edges beyond the ink's
                width, height = boxes[place, 2:] - boxes[place, :2]
                turned = 0.3 * np.array([height, width] * 2) if augmentation is IMAGES else 0
                assert beyond.min() > -tolerance and (beyond < tolerance + turned).all()
            assert np.isnan(boxes[[1, 3, 4, 6]]).all()


class OneImage:
    """A store in which all images are the same one."""

    def __init__(self, image):
        self.sizes, self.lengths = np.array([image.shape] * 6), np.full(6, len(LABEL))
        self.image = lambda place: image


def test_a_token_of_two_symbols_has_one_box_around_both():
    traces = [np.array([[0.0, 0], [0, 20]]), np.array([[50.0, 0], [50, 20]]), np.array([[20.0, 5], [22, 5]])]
    strokes = Strokes(traces, [[0], [1], [2], []], [0, 0, -1, 1], (40, 80))
    boxes = boxes_of(strokes, traces, PEN, 3)
    assert boxes[0].tolist() == [-1, -1, 52, 22]
    assert np.isnan(boxes[1:]).all()
    assert np.isnan(boxes_of(strokes, traces, PEN, 0)).all()  # a label that was changed by hand
