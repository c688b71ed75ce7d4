"""Distortions: what they promise about size, ink, order and range, for images and for pen strokes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.images import augmentation as module
from dataset.images.augmentation import (
    Augmentation,
    StrokeAugmentation,
    augment,
    augment_traces,
    boxes_after,
    pen_width,
    sizes_after,
)
from dataset.images.sheet import EXAMPLES, STROKE_EXAMPLES, write_sheet
from dataset.images.strokes import StrokeWriter, draw, strokes_of
from utils.draws import uniform
from utils.errors import DataError

EVERYTHING = Augmentation(**EXAMPLES)
MOVES = Augmentation(**{name: EXAMPLES[name] for name in list(EXAMPLES)[:6]})  # all that moves ink
MARGIN = 4


def frame(height=60, width=140):
    """A closed frame along the margin, 3 px wide: cut anywhere, it is open."""
    image = np.zeros((height, width), np.uint8)
    cv2.rectangle(image, (MARGIN + 1, MARGIN + 1), (width - MARGIN - 2, height - MARGIN - 2), 255, 1)
    return cv2.dilate(image, np.ones((3, 3), np.uint8))


def centroid(image):
    y, x = np.nonzero(image)
    weight = image[y, x].astype(float)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


# --------------------------------------------------------------------------------------------------------------- sizes


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 400),
    index=st.integers(0, 50),
    epoch=st.integers(0, 300),
    seed=st.integers(-(2**70), 2**70),
    scale=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    rotation=st.floats(0, 45),
    shear=st.floats(0, 1),
    perspective=st.floats(0, 0.2),
    distortion=st.floats(0, 8),
)
@settings(max_examples=80, deadline=None)
def test_the_size_is_known_without_drawing(
    height, width, index, epoch, seed, scale, rotation, shear, perspective, distortion
):
    chosen = Augmentation(
        scale=scale, stretch=scale, rotation=rotation, shear=shear, perspective=perspective, distortion=distortion
    )
    sizes = np.full((index + 1, 2), (height, width))
    image = augment(np.zeros((height, width), np.uint8), index, seed, epoch, chosen)
    assert image.shape == tuple(sizes_after(sizes, seed, epoch, chosen)[index])


def test_a_size_does_not_depend_on_how_many_are_asked_for():
    sizes = np.random.default_rng(0).integers(20, 400, (20_000, 2))
    assert (sizes_after(sizes, 1, 2, EVERYTHING)[:50] == sizes_after(sizes[:50], 1, 2, EVERYTHING)).all()


def test_neutral_settings_change_nothing():
    image = frame()
    assert (augment(image, 3, 0, 0, Augmentation()) == image).all()
    assert sizes_after(np.array([[60, 140]]), 0, 0, Augmentation()).tolist() == [[60, 140]]


def test_a_move_by_nothing_shows_the_same_image():
    image = frame()
    after = augment(image, 0, 0, 0, Augmentation(rotation=1e-6))
    assert after.shape == image.shape
    assert np.abs(after.astype(int) - image).max() <= 1


def test_scales_stay_in_their_bounds_and_favour_neither_side():
    sizes = np.full((20_000, 2), 1000)
    drawn = sizes_after(sizes, 0, 0, Augmentation(scale=(0.5, 2))).max(axis=1) / 1000
    assert 0.5 <= drawn.min() < 0.51 and 1.96 < drawn.max() <= 2
    assert np.mean(drawn < 1) == pytest.approx(0.5, abs=0.02)


# --------------------------------------------------------------------------------------------------------------- boxes


def test_boxes_go_where_what_lies_in_them_goes():
    """Two pixels at most are left to the smooth distortion; a box that is turned holds what is turned in it."""
    moves = Augmentation(**{**{name: EXAMPLES[name] for name in list(EXAMPLES)[:6]}, "distortion": 2})
    places = np.array([[8, 8, 20, 22], [60, 30, 72, 36], [120, 44, 134, 54]])
    for index in range(40):
        boxes = boxes_after(places.astype(np.float32), (60, 140), index, 0, 0, moves)
        for (left, top, right, bottom), box in zip(places, boxes, strict=True):
            image = np.zeros((60, 140), np.uint8)
            image[top:bottom, left:right] = 255
            rows, columns = np.nonzero(augment(image, index, 0, 0, moves) > 64)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(box - extent).max() < 3.5


def test_a_place_that_is_not_known_stays_unknown_and_nothing_moves_without_a_move():
    boxes = np.float32([[1, 2, 3, 4], [np.nan] * 4])
    after = boxes_after(boxes, (60, 140), 0, 0, 0, MOVES)
    assert after.dtype == np.float32 and np.isfinite(after[0]).all() and np.isnan(after[1]).all()
    still = boxes_after(boxes, (60, 140), 0, 0, 0, Augmentation(thickness=1, blur=1, cut_outs=3))
    assert np.array_equal(still, boxes, equal_nan=True)
    assert boxes_after(boxes[:0], (60, 140), 0, 0, 0, MOVES).shape == (0, 4)


# ------------------------------------------------------------------------------------------------------------ the same


def test_an_image_depends_on_seed_epoch_and_index_alone():
    """Whoever draws it, and whatever was drawn before: so the number of workers cannot matter."""
    image = frame()
    one = [augment(image, index, 7, 3, EVERYTHING) for index in range(12)]
    other = {index: augment(image, index, 7, 3, EVERYTHING) for index in reversed(range(12))}
    assert all((one[index] == other[index]).all() for index in range(12))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"index": 1}])
def test_every_seed_epoch_and_index_looks_different(change):
    names = {"index": 0, "seed": 0, "epoch": 0}
    one, other = (augment(frame(), settings=EVERYTHING, **(names | each)) for each in ({}, change))
    assert one.shape != other.shape or (one != other).any()


def test_draws_are_the_same_on_every_machine():
    assert uniform(1, 2, np.array([3]), 2)[0].tolist() == pytest.approx([0.020291865, 0.979292466], abs=1e-8)


def test_draws_are_uniform_and_unrelated():
    draws = uniform(0, 0, np.arange(4000), 8)
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.02
    correlations = np.corrcoef(np.hstack([draws[:-1], draws[1:], uniform(0, 1, np.arange(3999), 8)]).T)
    assert np.abs(correlations - np.eye(24)).max() < 0.07


# ----------------------------------------------------------------------------------------------------------------- ink


@pytest.mark.parametrize("index", range(40))
def test_no_ink_is_cut_off(index):
    image = augment(frame(), index, 0, 0, MOVES)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert edge.max() == 0
    is_paper = (image < 64).astype(np.uint8)
    assert cv2.connectedComponents(is_paper, connectivity=4)[0] - 1 == 2  # inside and outside: the frame is closed


def test_nothing_is_flipped():
    image = np.zeros((60, 140), np.uint8)
    image[5:12, 5:12] = 255
    for index in range(40):
        after = augment(image, index, 0, 0, MOVES)
        x, y = centroid(after) / after.shape[::-1]
        assert x < 0.5 and y < 0.5


def test_rotation_keeps_to_its_range():
    line = np.zeros((60, 200), np.uint8)
    line[29:32, 10:190] = 255
    angles = []
    for index in range(60):
        y, x = np.nonzero(augment(line, index, 0, 0, Augmentation(rotation=6)) > 128)
        angles.append(np.degrees(np.arctan(np.polyfit(x, y, 1)[0])))
    assert -6.3 < min(angles) < -4 and 4 < max(angles) < 6.3


def test_smooth_distortion_moves_no_dot_further_than_it_says():
    most, moved = 6, []
    for index in range(30):
        for x, y in ((10, 10), (60, 30), (125, 45)):
            dot = np.zeros((60, 140), np.uint8)
            dot[y - 1 : y + 2, x - 1 : x + 2] = 255
            after = augment(dot, index, 0, 0, Augmentation(distortion=most))
            moved.append(np.abs(centroid(after) - most - (x, y)).max())
    assert 2 < max(moved) <= most


def test_control_points_carry_straight_lines_exactly():
    places = np.arange(-1, 9) * module.SPACING  # point 1 lies at pixel 0
    spline = module._spline(150)
    assert np.allclose(spline @ places[: spline.shape[1]], np.arange(150) + 0.5, atol=1e-3)


def test_strokes_become_thicker_or_thinner_and_never_vanish():
    image = frame()
    ink = [augment(image, index, 0, 0, Augmentation(thickness=1)) for index in range(60)]
    sums = np.array([each.astype(int).sum() for each in ink]) / image.astype(int).sum()
    assert sums.min() < 0.82 and sums.max() > 1.25
    assert 0.3 < np.mean(sums < 1) < 0.7
    thin = np.zeros((20, 20), np.uint8)
    thin[10, 4:16] = 255
    assert all(augment(thin, index, 0, 0, Augmentation(thickness=1)).max() > 64 for index in range(60))


def test_thickness_is_a_share_of_the_images():
    image = frame()
    changed = [(augment(image, i, 0, 0, Augmentation(thickness=0.3)) != image).any() for i in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.06)


def test_contrast_takes_no_more_than_its_share_of_the_ink():
    peaks = [augment(frame(), index, 0, 0, Augmentation(contrast=0.5)).max() for index in range(60)]
    assert 127 <= min(peaks) < 150 and max(peaks) > 235


def test_blur_keeps_the_amount_of_ink():
    images = [augment(frame(), index, 0, 0, Augmentation(blur=1.5)) for index in range(20)]
    sums = [image.astype(int).sum() for image in images]
    assert np.ptp(sums) / np.mean(sums) < 0.02
    assert len({image[30].max() for image in images}) > 5  # the peak of a stroke


def test_cut_outs_are_few_and_small():
    ink = np.full((100, 100), 255, np.uint8)
    paper = [(augment(ink, index, 0, 0, Augmentation(cut_outs=3, cut_out_size=8)) == 0).sum() for index in range(60)]
    assert min(paper) == 0 and 64 < max(paper) <= 3 * 64


def test_the_given_image_stays_as_it_is():
    image = frame()
    image.setflags(write=False)  # as a store gives them
    for index in range(10):
        augment(image, index, 0, 0, EVERYTHING)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0, 1)},
        {"scale": (1.4, 0.7)},
        {"stretch": (1, float("nan"))},
        {"rotation": -1},
        {"rotation": 90},
        {"distortion": 100},
        {"thickness": 1.5},
        {"cut_outs": -1},
    ],
)
def test_a_bad_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
        Augmentation(**wrong)


# ------------------------------------------------------------------------------------------------------------- strokes


def ink():
    """Three traces: a cross of two, and a bar far from it that no symbol has."""
    steps = np.linspace(0, 1, 15)[:, None]
    return [steps * [20, 28], [20, 0] + steps * [-20, 28], [100, 14] + steps * [60, 0]], [(0, 1)]


ALL_STROKES = StrokeAugmentation(
    pen=(2, 5), jitter=1.5, shift=3, scale=(0.8, 1.25), stretch=(0.8, 1.3), slant=0.3, rotation=8, smoothing=2
)


def distorted(index=0, epoch=0, **settings):
    return augment_traces(*ink(), index, 0, epoch, StrokeAugmentation(**settings))


def test_neutral_settings_leave_strokes_as_they_are():
    assert all(np.allclose(before, after, atol=1e-9) for before, after in zip(ink()[0], distorted(), strict=True))


def test_strokes_depend_on_seed_epoch_and_index_alone():
    traces, symbols = ink()
    one, again, other = (augment_traces(traces, symbols, 4, 0, epoch, ALL_STROKES) for epoch in (2, 2, 3))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert all((a != b).any() for a, b in zip(one, other, strict=True))
    assert all((a == b).all() for a, b in zip(traces, ink()[0], strict=True))  # and the given ones are untouched


def test_the_traces_of_a_symbol_move_together():
    moved = [[after - before for before, after in zip(ink()[0], distorted(i, shift=3), strict=True)] for i in range(40)]
    for first, second, alone in moved:
        assert np.allclose(first, first[0]) and np.allclose(second, first[0])
        assert (alone == 0).all()
    shifts = np.abs([first[0] for first, _, _ in moved])
    assert 2.5 < shifts.max() <= 3


def test_symbols_grow_about_their_centre_within_the_range():
    widths = []
    for index in range(60):
        points = np.concatenate(distorted(index, scale=(0.5, 2))[:2])
        assert np.allclose((points.min(axis=0) + points.max(axis=0)) / 2, [10, 14])
        widths.append(np.ptp(points[:, 0]) / 20)
    assert 0.5 <= min(widths) < 0.6 and 1.7 < max(widths) <= 2


def test_a_large_symbol_grows_by_no_more_pixels_than_an_ordinary_one():
    bar = [np.array([[0.0, 0], [280, 0]])]
    widths = [
        np.ptp(augment_traces(bar, [(0,)], index, 0, 0, StrokeAugmentation(scale=(0.5, 2)))[0][:, 0])
        for index in range(60)
    ]
    assert 255 < min(widths) < 280 < max(widths) < 305


def test_slant_leans_symbols_and_keeps_their_height():
    leans = []
    for index in range(60):
        first, second, _ = distorted(index, slant=0.3)
        assert np.allclose(first[:, 1], ink()[0][0][:, 1])
        leans.append(((first[0] + second[0]) / 2 - (first[-1] + second[-1]) / 2)[0] / 28)
    assert -0.3 <= min(leans) < -0.25 and 0.25 < max(leans) <= 0.3


def test_stretch_changes_the_shape_of_symbols_and_not_their_area():
    shapes = []
    for index in range(60):
        sides = np.ptp(np.concatenate(distorted(index, stretch=(0.5, 2))[:2]), axis=0)
        assert sides.prod() == pytest.approx(20 * 28)
        shapes.append(sides[0] / sides[1] / (20 / 28))
    assert 0.5 <= min(shapes) < 0.56 and 1.8 < max(shapes) <= 2


def test_symbols_turn_about_their_middle_and_keep_their_size():
    angles = []
    for index in range(60):
        first, second, alone = distorted(index, rotation=10)
        ends = np.stack([first[0], first[-1], second[0], second[-1]])
        assert np.allclose(ends.mean(axis=0), [10, 14])
        assert np.hypot(*(first[-1] - first[0])) == pytest.approx(np.hypot(20, 28))
        angles.append(np.degrees(np.arctan2(*(second[0] - first[0])[::-1])))  # of the upper side, level as written
        assert (alone == ink()[0][2]).all()
    assert -10 <= min(angles) < -9 and 9 < max(angles) <= 10


def test_jitter_is_bounded_and_smooth():
    moves = [distorted(index, jitter=1.5)[0] - ink()[0][0] for index in range(40)]
    assert 1.2 < np.abs(moves).max() <= 1.5
    steps = np.abs(np.diff(moves, axis=1)).max()
    assert steps <= 2 * 1.5 / module.JITTER_POINTS  # from one point to the next, not from -1.5 to 1.5


def test_smoothing_takes_corners_off_and_keeps_the_ends():
    corner = [np.array([[0.0, 0], [5, 0], [10, 0], [15, 0], [20, 0], [20, 5], [20, 10], [20, 15], [20, 20]])]
    lengths = []
    for index in range(20):
        (smooth,) = augment_traces(corner, [], index, 0, 0, StrokeAugmentation(smoothing=2))
        assert (smooth[[0, -1]] == corner[0][[0, -1]]).all()
        lengths.append(np.linalg.norm(np.diff(smooth, axis=0), axis=1).sum())
    assert min(lengths) < 38 and max(lengths) <= 40


def test_a_stroke_is_smoothed_as_if_it_were_alone():
    random = np.random.default_rng(0)
    traces = [random.uniform(0, 30, (count, 2)) for count in (1, 40, 2, 9, 3)]
    for index in range(10):
        together = augment_traces(traces, [], index, 0, 0, StrokeAugmentation(smoothing=3))
        for trace, smooth in zip(traces, together, strict=True):
            (alone,) = augment_traces([trace], [], index, 0, 0, StrokeAugmentation(smoothing=3))
            assert np.allclose(alone, smooth, atol=1e-9)


def test_a_dot_survives_every_distortion_of_strokes():
    (dot,) = augment_traces([np.array([[3.0, 4.0]])], [(0,)], 0, 0, 0, ALL_STROKES)
    assert dot.shape == (1, 2) and np.isfinite(dot).all()


def test_pens_of_every_width_in_the_range_occur():
    assert {pen_width(index, 0, 0, ALL_STROKES) for index in range(60)} == {2, 3, 4, 5}
    assert pen_width(0, 0, 0, StrokeAugmentation()) == 3


@pytest.mark.parametrize("wrong", [{"pen": (0, 3)}, {"pen": (5, 3)}, {"scale": (2, 1)}, {"jitter": -1}, {"slant": -1},
                                   {"stretch": (0, 1)}, {"rotation": -1}])  # fmt: skip
def test_a_bad_range_of_strokes_is_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
        StrokeAugmentation(**wrong)


# --------------------------------------------------------------------------------------------------------------- sheet


@pytest.fixture
def plain_dataset(tmp_path):
    images = tmp_path / "datasets" / "MINE" / "train" / "images"
    images.mkdir(parents=True)
    for name in "abc":
        cv2.imwrite(str(images / f"{name}.png"), frame())
    (images.parent / "labels.txt").write_text("".join(f"{name}\tx\n" for name in "abc"))
    (images.parents[1] / "vocabulary.txt").write_text("x\n")
    return tmp_path / "datasets"


def test_a_sheet_is_dark_on_light(plain_dataset, tmp_path):
    out = tmp_path / "sheet.png"
    write_sheet(plain_dataset / "MINE", "train", out)
    page = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)
    assert page.mean() > 200 and page.min() == 0
    assert page.shape[0] > 60 * (len(EXAMPLES) + 4)


def test_where_strokes_are_known_the_sheet_shows_their_distortions_too(plain_dataset, tmp_path):
    known = strokes_of([trace * 2.0 for trace in ink()[0]], [])
    image, split = draw(known.traces, known.size), plain_dataset / "MINE" / "train"
    with StrokeWriter(split / "strokes") as writer:
        for name in "abc":
            cv2.imwrite(str(split / "images" / f"{name}.png"), image)
            writer.add(name, known)
    out = tmp_path / "sheet.png"
    write_sheet(plain_dataset / "MINE", "train", out)
    rows = len(EXAMPLES) + len(STROKE_EXAMPLES) + 7
    assert cv2.imread(str(out), cv2.IMREAD_GRAYSCALE).shape[0] > image.shape[0] * rows


def test_a_sheet_of_a_data_set_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DataError, match="vocabulary.txt: not found"):
        write_sheet(tmp_path / "NONE", "train", tmp_path / "sheet.png")
