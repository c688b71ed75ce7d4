"""The typesetter and its images: everything draws, every sign knows its token, no ink lies outside its image."""

import gc
import pickle
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from matplotlib import get_data_path
from test_latex import LABELS

from dataset.latex.parser import ACCENTS, ALPHABETS, ARROWS, FRACTIONS, MODULI, STACKS, ink_tokens, parse
from dataset.renderer import FAMILIES, Layout, RenderError, Style, draw, draw_ink, image_size, layout, render
from utils.errors import DataError

STYLES = st.builds(
    Style,
    em=st.floats(12, 80),
    weight=st.floats(-0.02, 0.05),
    slant=st.floats(-0.2, 0.4),
    spacing=st.floats(-0.1, 0.3),
    script_shift=st.floats(-0.15, 0.3),
    baseline_jitter=st.sampled_from([0.0, 0.05, 0.15]),
    scale_jitter=st.sampled_from([0.0, 0.1]),
    rotation_jitter=st.sampled_from([0.0, 0.1]),
    margin=st.integers(0, 9),
    seed=st.integers(0, 99),
)
CASUAL = Style(
    weight=0.02, slant=0.2, spacing=0.1, script_shift=0.1, baseline_jitter=0.1, scale_jitter=0.1, rotation_jitter=0.1
)


def boxes_of(latex: str, style: Style = Style()) -> dict[int, tuple[float, float, float, float]]:  # noqa: B008
    """token -> (left, top, right, bottom)"""
    return {token: tuple(edges) for token, *edges in layout(latex.split(), style).boxes(style)}


# ---- everything draws ------------------------------------------------------------------------------------------------


def test_every_crohme_label_draws_and_every_token_that_should_leaves_ink(shared_data):
    labels = set()
    for split in ("train", "2014"):
        for line in (shared_data / "CROHME" / split / "labels.txt").read_text().splitlines():
            labels.add(line.split("\t")[1])
    assert len(labels) > 5000
    structure = {"{", "}", "^", "_", r"\limits"}
    for label in labels:
        tokens = label.split(" ")
        drawn = layout(tokens).tokens
        assert drawn == ink_tokens(parse(tokens)), label
        # said once more without the parser's help; the brackets of a root's degree are structure, too
        assert {token for index, token in enumerate(tokens) if index not in drawn} <= structure | {"[", "]"}, label


def label_of(token: str) -> list[str]:
    """A label of its own for a token."""
    if token in ("^", "_"):
        return ["x", token, "{", "2", "}"]
    if token in ("{", "}"):
        return ["{", "x", "}"]
    if token == r"\limits":
        return [r"\sum", token, "_", "{", "i", "}"]
    if token in ("&", r"\\", r"\begin", r"\end"):
        return [r"\begin", "{matrix}", "a", token if token in ("&", r"\\") else "&", "b", r"\end", "{matrix}"]
    if token == "{array}":
        return [r"\begin", token, "{", "c", "}", "a", r"\end", token]
    if token.startswith("{"):
        return [r"\begin", token, "a", r"\end", token]
    if token in FRACTIONS | STACKS:
        return [token, "{", "a", "}", "{", "b", "}"]
    if token in ACCENTS | ALPHABETS | MODULI | ARROWS | {r"\sqrt"}:
        return [token, "{", "a", "}"]
    return [token, "="] if token == r"\not" else [token]


@pytest.mark.parametrize("font", FAMILIES)
def test_every_token_of_three_vocabularies_draws_in_every_font(shared_data, font):
    style, count = Style(font=font, em=20), 0
    for path in sorted((shared_data / "vocabularies").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            tokens = label_of(line.split("\t")[0].strip())
            drawn = layout(tokens, style)
            assert drawn.tokens == ink_tokens(parse(tokens)), tokens
            assert draw_ink(drawn, style).max() > 100, tokens
            count += 1
    assert count == 493


@given(LABELS, st.sampled_from(FAMILIES), STYLES)
@example(["a"], "stix", Style(em=47.0, margin=1, weight=0.05))  # thick strokes have long corners
@settings(max_examples=100, deadline=None)
def test_whatever_the_grammar_makes_draws_inside_its_image(tokens, font, style):
    assume(ink_tokens(parse(tokens)))
    placed = layout(tokens, Style(font=font))
    assert placed.tokens == ink_tokens(parse(tokens))
    ink = draw_ink(placed, style)
    assert ink.shape == tuple(int(side) for side in image_size(placed.extents, style))
    height, width = ink.shape
    margin = style.margin
    assert ink[margin : height - margin, margin : width - margin].max() > 0
    framed = ink.copy()
    framed[margin : height - margin, margin : width - margin] = 0
    assert framed.max() == 0
    slack = 1e-2
    for token, left, top, right, bottom in placed.boxes(style):
        assert margin - slack <= left < right <= width - margin + slack, tokens[token]
        assert margin - slack <= top < bottom <= height - margin + slack, tokens[token]


def test_boxes_hold_all_ink():
    for style in (Style(), CASUAL):
        placed = layout(
            r"\frac{-b\pm\sqrt{b^2-4ac}}{2a}+\sum_{i=1}^{n}\hat{x}_i\left(\begin{matrix}1\\2\end{matrix}\right)"
        )
        ink = draw_ink(placed, style)
        grow = style.weight * style.em / 2 + 1
        for _, left, top, right, bottom in placed.boxes(style):
            ink[int(top - grow) : int(np.ceil(bottom + grow)), int(left - grow) : int(np.ceil(right + grow))] = 0
        assert ink.max() == 0


# ---- where things stand ----------------------------------------------------------------------------------------------


@given(st.sampled_from("abxyA1"), st.sampled_from("abxyA1"), st.sampled_from(FAMILIES))
@settings(max_examples=30, deadline=None)
def test_scripts_stand_beside_their_base(base, script, font):
    boxes = boxes_of(f"{base} _ {{ {script} }} ^ {{ {script} }}", Style(font=font))
    (left, top, right, bottom), below, above = boxes[0], boxes[3], boxes[7]
    assert above[0] > (left + right) / 2 and below[0] > (left + right) / 2
    assert above[1] + above[3] < top + bottom < below[1] + below[3]
    assert above[3] < below[1]
    assert above[3] - above[1] < bottom - top if base == script else True


@given(LABELS, LABELS, st.sampled_from(FAMILIES))
@settings(max_examples=40, deadline=None)
def test_numerator_rule_and_denominator_stand_above_one_another(above, below, font):
    tokens = [r"\frac", "{", *above, "}", "{", *below, "}"]
    style = Style(font=font)
    boxes = {token: edges for token, *edges in layout(tokens, style).boxes(style)}
    _, rule_top, _, rule_bottom = boxes.pop(0)
    middle = 2 + len(above)
    slack = 1.5  # pixels: curves overshoot the heights that TeX counts
    for token, (_, top, _, bottom) in boxes.items():
        assert bottom <= rule_top + slack if token < middle else top >= rule_bottom - slack, (tokens, token)


@given(LABELS, st.sampled_from(FAMILIES))
@settings(max_examples=40, deadline=None)
def test_roots_and_delimiters_enclose_what_is_inside(tokens, font):
    assume("{ }" not in " ".join(tokens))  # to TeX, the top of an integral with an empty subscript stands in no box
    style = Style(font=font)
    inside = ink_tokens(parse(tokens))
    root = {token: edges for token, *edges in layout([r"\sqrt", "{", *tokens, "}"], style).boxes(style)}
    left, top, right, bottom = root[0]
    # pixels: curves overshoot, and accents reach beyond narrow letters
    slack, reach = 0.12 * style.em, 0.25 * style.em
    for token in inside:
        box = root[token + 2]
        assert left < box[0] and top <= box[1] + slack and box[2] <= right + reach and box[3] <= bottom + 8 * slack
    pair = {token: edges for token, *edges in layout([r"\left", "(", *tokens, r"\right", ")"], style).boxes(style)}
    for token in inside:
        box = pair[token + 2]
        assert pair[1][0] <= box[0] + reach and box[2] - reach <= pair[len(tokens) + 3][2]


def test_limits_stand_above_and_below_their_operator_and_scripts_beside_it():
    for label in (r"\sum _ { i } ^ { n }", r"\int \limits _ { i } ^ { n }", r"\lim \limits _ { i } ^ { n }"):
        boxes = boxes_of(label)
        operator, below, above = boxes[0], *(boxes[index] for index in sorted(boxes)[1:])
        assert above[3] < operator[1] and below[1] > operator[3], label
    beside = boxes_of(r"\sum _ { i } ^ { n }", Style(display=False))
    assert beside[7][0] > beside[0][0] and beside[7][3] > beside[0][1]


def test_names_of_one_look_make_one_image():
    for one, other in [
        (r"x ^ { 2 }", "x^2"),
        (r"a \leq b", r"a \le b"),
        (r"\frac { 1 } { 2 }", r"\frac12"),
        (r"\left ( x \right )", r"\left(x\right)"),
        (r"x ^ { 2 } _ { 1 }", r"x _ { 1 } ^ { 2 }"),
        (r"f '", r"f ^ { \prime }"),
        (r"\begin {matrix} a \end {matrix}", r"\begin{matrix} a \end{matrix}"),
        ("| x |", r"\vert x \vert"),
    ]:
        assert np.array_equal(render(one), render(other)), (one, other)


# ---- images --------------------------------------------------------------------------------------------------------


def test_the_ink_of_a_standard_image_touches_its_four_margins():
    for label in (r"x", r"-", r"\frac{1}{2}", r"\sum_{i=1}^n x_i", r"|", r"\sqrt{x}", "."):
        ink = draw_ink(layout(label))
        rows, columns = np.nonzero(ink.max(axis=1) > 60)[0], np.nonzero(ink.max(axis=0) > 60)[0]
        assert 4 <= rows[0] <= 5 and 4 <= columns[0] <= 5, label
        assert ink.shape[0] - 6 <= rows[-1] <= ink.shape[0] - 5 and ink.shape[1] - 6 <= columns[-1], label


def test_an_image_is_dark_on_light_and_the_ink_is_its_opposite():
    placed = layout("x+1")
    assert np.array_equal(draw(placed), 255 - draw_ink(placed))
    assert np.array_equal(render("x+1"), draw(placed))
    assert draw(placed)[0, 0] == 255 and draw(placed).min() < 20


def test_a_style_and_a_seed_make_one_image():
    placed = layout(r"\frac{a+b}{c}")
    style = Style(**{**vars(CASUAL), "seed": 5})
    assert np.array_equal(draw(placed, style), draw(placed, Style(**vars(style))))
    assert not np.array_equal(draw(placed, style), draw(placed, Style(**{**vars(style), "seed": 6})))


def test_sizes_of_many_images_are_those_of_each():
    random = np.random.default_rng(0)
    placed = [layout(label) for label in ("x", r"\frac{1}{2}", r"\sum_{i}x_i^2", "-")]
    jitters = ("slant", "spacing", "script_shift", "baseline_jitter", "scale_jitter", "rotation_jitter", "weight")
    values = {name: random.uniform(0, 0.1, len(placed)) for name in jitters} | {
        "em": random.uniform(20, 60, len(placed))
    }
    heights, widths = image_size(np.stack([each.extents for each in placed]), Style(**values))
    for index, each in enumerate(placed):
        image = draw_ink(each, Style(**{name: float(value[index]) for name, value in values.items()}))
        assert image.shape == (heights[index], widths[index])


def test_images_are_as_grey_as_exact_coverage():
    placed = layout(r"\frac{-b\pm\sqrt{b^2-4ac}}{2a}")
    for em in (20.0, 50.0):
        fine = draw_ink(placed, Style(em=em * 16, margin=64))
        size = draw_ink(placed, Style(em=em)).shape
        fine = np.pad(fine, [(0, max(0, 16 * side - full)) for side, full in zip(size, fine.shape, strict=True)])
        exact = cv2.resize(fine[: 16 * size[0], : 16 * size[1]], size[::-1], interpolation=cv2.INTER_AREA).astype(float)
        ink = draw_ink(placed, Style(em=em)).astype(float)
        assert abs(ink.sum() / exact.sum() - 1) < 0.12
        assert np.abs(ink - exact).mean() < 0.02 * 255


def test_weight_makes_strokes_thicker_and_thinner():
    placed = layout(r"\frac{x}{2}+1")
    amounts = [draw_ink(placed, Style(weight=weight)).sum(dtype=np.int64) for weight in (-0.02, 0.0, 0.03, 0.06)]
    assert amounts == sorted(amounts) and amounts[0] * 1.4 < amounts[1] < amounts[2] / 1.3


def test_jitters_leave_joined_signs_joined():
    """A root and its bar are one piece of ink in every style."""
    placed = layout(r"\sqrt{xxxx}")
    for seed in range(10):
        style = Style(**{**vars(CASUAL), "seed": seed, "em": 40.0})
        (root,) = [edges for token, *edges in placed.boxes(style) if token == 0]
        _, _, statistics, _ = cv2.connectedComponentsWithStats((draw_ink(placed, style) > 60).astype(np.uint8))
        widest = statistics[1:, cv2.CC_STAT_WIDTH].max()
        assert widest > 0.95 * (root[2] - root[0])


# ---- layouts are kept ------------------------------------------------------------------------------------------------


@given(LABELS)
@settings(max_examples=30, deadline=None)
def test_a_layout_survives_its_arrays(tokens):
    assume(ink_tokens(parse(tokens)))
    placed = layout(tokens)
    again = Layout.from_arrays(**{name: array.copy() for name, array in placed.to_arrays().items()})
    assert again.glyphs == placed.glyphs and again.rules == placed.rules
    assert (again.width, again.height, again.depth) == (placed.width, placed.height, placed.depth)
    assert np.array_equal(draw(again), draw(placed))
    assert len(placed.glyphs) == len(placed.glyph_ids) and {glyph.token for glyph in placed.glyphs} <= placed.tokens


def test_a_crohme_layout_takes_a_few_hundred_bytes():
    placed = layout(r"x _ { i } ^ { 2 } + \frac { 1 } { 2 } y".split())
    assert sum(array.nbytes for array in placed.to_arrays().values()) < 300


# ---- what cannot be drawn --------------------------------------------------------------------------------------------

HOSTILE = {
    "x ^ { 2": "never closed",
    "x }": "without an opening",
    r"\foo": "unknown command",
    r"\def\x{1}": "unknown command",
    r"\input{/etc/passwd}": "unknown command",
    r"\write18{ls}": "unknown command",
    r"\csname x\endcsname": "unknown command",
    r"\newcommand{\x}{\x\x}\x": "unknown command",
    r"\begin{document}x\end{document}": "unknown environment",
    "a\0b": "NUL",
    "x😀": "no font has a glyph",
    "\ud800": "no font has a glyph",
    "\x1b[31m": "no font has a glyph",
    "": "empty",
    "  \n ": "empty",
    "{ }": "nothing in it leaves ink",
    r"\quad \phantom{x}": "nothing in it leaves ink",
    "{" * 5000 + "x" + "}" * 5000: "longer than",
    "{" * 2000 + "x" + "}" * 2000: "nested more than",
    r"\frac{1}{" * 600 + "x" + "}" * 600: "nested more than",
    " + ".join(["x"] * 3000): "max_width_em",
    "x" + "'" * 4000: "max_width_em",
    r"\begin{matrix}" + "a&" * 2900 + r"\end{matrix}": "max_width_em",
    r"\begin{matrix}" + r"a\\" * 2900 + r"\end{matrix}": "max_height_em",
    "x" * 10_000_000: "longer than",
    "#1": r"\\#",
    "$x$": r"leave the \$ out",
}


@pytest.mark.parametrize("label", HOSTILE, ids=lambda label: repr(label[:20]))
def test_hostile_labels_are_refused_at_once_with_a_reason(label):
    layout(r"\begin{matrix}x\end{matrix}")  # fonts are loaded once in a process
    gc.disable()  # a collection would go through everything that all tests have imported
    start = time.process_time()
    with pytest.raises(RenderError, match=HOSTILE[label]) as caught:
        layout(label)
    seconds = time.process_time() - start
    gc.enable()
    assert seconds < 0.05
    assert caught.value.latex == label and isinstance(caught.value.token, int)
    assert len(str(caught.value)) < 300


def test_limits_of_size_are_the_style_s():
    label = " + ".join(["x"] * 3000)
    assert layout(label, Style(max_width_em=1e4)).width > 3000
    with pytest.raises(RenderError, match="max_width_em = 2"):
        layout("x + y", Style(max_width_em=2.0))
    with pytest.raises(RenderError, match="max_height_em = 2"):
        layout(r"\frac{\frac{1}{2}}{3}", Style(max_height_em=2.0))


def test_errors_name_the_token_and_travel_between_processes():
    with pytest.raises(RenderError) as caught:
        layout(["a", "+", r"\foo", "b"])
    assert (caught.value.latex, caught.value.token) == (r"a + \foo b", 2)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.reason == r"unknown command '\foo'"


def test_a_font_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="cm, stix, dejavusans, dejavuserif"):
        layout("x", Style(font="times"))


def test_chinese_needs_a_font_that_the_user_names():
    with pytest.raises(RenderError, match="Chinese needs a font to draw '中': name a font file in data.chinese_font"):
        layout("x = 中")
    with pytest.raises(RenderError, match="lacks '中'"):
        layout("x = 中", Style(chinese_font=f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"))
    with pytest.raises(DataError, match="chinese_font: 'no-such-font.ttf' cannot be read"):
        layout("x = 中", Style(chinese_font="no-such-font.ttf"))
    style = Style(chinese_font=f"{get_data_path()}/fonts/ttf/LastResortHE-Regular.ttf")  # a frame for every character
    placed = layout("中 = 文", style)
    assert placed.tokens == {0, 1, 2}
    assert draw_ink(placed, style).max() == 255
    assert layout("x 、 y 。").tokens == {0, 1, 2, 3}  # punctuation needs none


# ---- for people ------------------------------------------------------------------------------------------------------


def test_the_command_draws_labels_and_files_and_names_what_it_cannot(tmp_path):
    (tmp_path / "labels.txt").write_text("one\tx ^ { 2 }\ntwo\t\\frac { 1 } { 2 }\n")
    command = [sys.executable, "-m", "tests.benchmarks.sheet_of_labels"]
    command += [r"\sqrt{x}", r"\foo", str(tmp_path / "labels.txt")]
    run = subprocess.run([*command, "--out", str(tmp_path / "sheet.png"), "--tokens"], capture_output=True, text=True)
    assert run.returncode == 1 and "3 labels, 1 cannot be drawn" in run.stdout
    assert r"unknown command '\foo'" in run.stderr and "Traceback" not in run.stderr
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 150 and (sheet.std(axis=2) > 0).any()  # boxes are in color
