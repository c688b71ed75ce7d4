"""InkML: what is read, how the truth becomes a label, how traces become an image, and what bad files get."""

import tarfile
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from dataset.formats.ink_truth import CROHME_TOKENS, truth_tokens
from dataset.formats.inkml import draw_traces, pixel_traces, rasterise, read_inkml
from utils.errors import DataError

# x^2 over nothing: three traces, of which the x has two. The LaTeX has the number, the MathML links the symbols.
FILE = """<?xml version="1.0"?>
<ink xmlns="http://www.w3.org/2003/InkML">
<traceFormat><channel name="X" type="decimal"/><channel name="Y" type="decimal"/></traceFormat>
<annotation type="writer">nobody</annotation>
<annotation type="truth">$x^2$</annotation>
<annotationXML type="truth" encoding="Content-MathML">
 <math xmlns='http://www.w3.org/1998/Math/MathML'><msup><mi xml:id="x_1">x</mi><mn xml:id="2_1">2</mn></msup></math>
</annotationXML>
<trace id="0">0 0, 10 20</trace>
<trace id="1">
  10 0, 0 20
</trace>
<trace id="7">12 -5, 15 -5, 12 0, 15 0</trace>
<traceGroup xml:id="8"><annotation type="truth">Segmentation</annotation>
 <traceGroup xml:id="9"><annotation type="truth">2</annotation><traceView traceDataRef="7"/>
  <annotationXML href="2_1"/></traceGroup>
 <traceGroup xml:id="10"><annotation type="truth">x</annotation><traceView traceDataRef="0"/>
  <traceView traceDataRef="1"/><annotationXML href="x_1"/></traceGroup>
</traceGroup>
</ink>
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "sample.inkml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def label(latex, mathml=None):
    return " ".join(truth_tokens(latex, ElementTree.fromstring(mathml) if mathml else None))


# ------------------------------------------------------------------------------------------------------------- reading


def test_traces_label_and_symbols_are_read(write):
    ink = read_inkml(write(FILE))
    assert ink.name == "sample"
    assert [trace.tolist() for trace in ink.traces[:2]] == [[[0, 0], [10, 20]], [[10, 0], [0, 20]]]
    assert ink.tokens == ["x", "^", "{", "2", "}"]
    assert [(symbol.label, symbol.traces) for symbol in ink.symbols] == [("2", (2,)), ("x", (0, 1))]


def test_a_symbol_knows_its_place_in_the_label(write):
    assert [symbol.token for symbol in read_inkml(write(FILE)).symbols] == [3, 0]


def test_a_symbol_on_which_label_and_mathml_disagree_has_no_place(write):
    symbols = read_inkml(write(FILE.replace("$x^2$", "$x^3$"))).symbols
    assert [symbol.token for symbol in symbols] == [None, 0]


def test_the_place_of_a_bar_or_a_root_is_the_command_and_not_the_brace_after_it(write):
    math = '<msqrt xml:id="x_1"><mfrac xml:id="2_1"><mi>x</mi><mi>y</mi></mfrac></msqrt></math>'
    content = FILE.replace("$x^2$", r"$\sqrt{\frac{x}{y}}$").replace('<msup><mi xml:id="x_1">x</mi>', math)
    content = content.replace('<mn xml:id="2_1">2</mn></msup></math>', "")
    ink = read_inkml(write(content))
    assert [ink.tokens[symbol.token] for symbol in ink.symbols] == [r"\frac", r"\sqrt"]


def test_a_file_without_truth_is_ink_alone(write):
    content = FILE.replace('type="truth">$', 'type="note">$').replace("math", "other")
    assert read_inkml(write(content)).tokens is None
    with pytest.raises(DataError, match="sample.inkml: has no truth; expected"):
        read_inkml(write(content), needs_truth=True)


def test_channels_other_than_x_and_y_are_left_out(write):
    channels = "".join(f'<channel name="{name}"/>' for name in "TYX")
    content = f'<ink><traceFormat>{channels}</traceFormat><trace id="0">9 0 1, 9 2 3</trace></ink>'
    assert read_inkml(write(content)).traces[0].tolist() == [[1, 0], [3, 2]]


def test_latin_1_in_a_file_that_says_nothing_is_read(write):
    assert read_inkml(write(FILE.replace("nobody", "Zoë").encode("latin-1"))).tokens


# ------------------------------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (FILE[: len(FILE) // 2], "line 10: is truncated or not XML"),
        ("not xml at all", "is truncated or not XML"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is truncated or not XML"),
        ("<html><body/></html>", "expected an InkML file, whose outermost element is <ink>, got <html>"),
        ("<ink><annotation type='truth'>x</annotation></ink>", "has no traces"),
        (FILE.replace("0 0, 10 20", "0 0, nan 20"), "trace '0' has a coordinate that is not a finite number"),
        (FILE.replace("0 0, 10 20", "0 0, 1e999 20"), "trace '0' has a coordinate that is not a finite number"),
        (FILE.replace("0 0, 10 20", "0 0, ten 20"), "trace '0' is not a list of points"),
        (FILE.replace("0 0, 10 20", "0 0, 10"), "trace '0' is not a list of points"),
        (FILE.replace("0 0, 10 20", "0 0, 1-"), "trace '0' is not a list of points"),
        (FILE.replace("0 0, 10 20", "*0 *0, 1 2"), "trace '0' is not a list of points"),
        ("<ink><trace id='0'> </trace><trace type='penUp'>1 1, 2 2</trace></ink>", "has no traces"),
        (FILE.replace('Ref="7"', 'Ref="6"'), "a <traceView> refers to the trace '6'"),
        (FILE.replace("$x^2$", "$x^{2$").replace("math", "other"), "the LaTeX truth ends too early"),
        ("<ink>" + "<a>" * 300 + "</a>" * 300 + "</ink>", "nested more than"),
        (FILE.replace("$x^2$", "{" * 5000 + "x" + "}" * 5000).replace("math", "other"), "nested more than"),
    ],
    ids=lambda value: None if isinstance(value, bytes) or len(value) > 60 else value,
)
def test_a_bad_file_is_named_with_what_was_expected(write, content, message):
    with pytest.raises(DataError, match="sample.inkml") as error:
        read_inkml(write(content), needs_truth=True)
    assert message in str(error.value)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="absent.inkml: cannot be read"):
        read_inkml(tmp_path / "absent.inkml")


def test_entities_are_refused(write, tmp_path):
    laughs = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    secret = tmp_path / "secret"
    secret.write_text("5 5")
    for entities in (f'<!ENTITY a0 "ha">{laughs}', f'<!ENTITY a12 SYSTEM "{secret.as_uri()}">'):
        content = f'<!DOCTYPE ink [{entities}]><ink><trace id="0">&a12;</trace></ink>'
        with pytest.raises(DataError, match="sample.inkml: defines the XML entity"):
            read_inkml(write(content))


# --------------------------------------------------------------------------------------------------------------- traces

GOOD = [[[10, 10], [12, 30], [13, 60]], [[60, 50], [50, 40]]]
TRACES = '<trace id="0">10 10, 12 30, 13 60</trace><trace id="1">60 50, 50 40</trace>'


def traces_of(write, content):
    return [trace.tolist() for trace in read_inkml(write(f"<ink>{content}</ink>")).traces]


def format_of(*names, attributes="", inside=""):
    return f"<traceFormat {attributes}>" + "".join(f'<channel name="{n}" {inside}/>' for n in names) + "</traceFormat>"


@pytest.mark.parametrize(
    "content",
    [
        TRACES,
        f'<trace id="9" type="penUp">13 90, 300 300</trace>{TRACES}',
        f'<trace id="9"/><trace id="8"> , </trace>{TRACES}',
        TRACES.replace(", ", "\n"),
        TRACES.replace(", ", "\r\n\t"),
        TRACES.replace("10, 12", "10, \n 12"),
        TRACES.replace("12 30", "12\n30"),
        TRACES.replace(", ", ","),
        TRACES.replace("</trace>", ",</trace>"),
        TRACES.replace(", ", " "),
        format_of("x", "y") + TRACES,
        format_of("t", "x", "y") + TRACES.replace(", ", ", 5 ").replace('">', '">4 '),
        format_of("Y", "X", inside='orientation="-ve"')
        + "<trace>-10 -10, -30 -12, -60 -13</trace><trace>-50 -60, -40 -50</trace>",
        format_of("X", "Y", "F") + "<trace>10 10 9,'2'20'0,1 30 0</trace><trace>60 50 9,'-10'-10'3</trace>",
        format_of("X", "Y") + """<trace>10 10,'2'20,"-1"10</trace><trace>60 50,'-10'-10</trace>""",
        format_of("X", "Y") + "<trace>10 10,'2 '20,!13!60</trace><trace>60 50,!50!40</trace>",
        format_of("X", "Y", "B") + "<trace>10 10 T, 12 30 F, 13 60 *</trace><trace>60 50 #A, 50 40 ?</trace>",
        format_of("X", "Y", "A", "B")
        + "<trace>10 10\n1 1, 12 30\n2 2, 13 60 3 3</trace><trace>60 50 1 1, 50 40 1 1</trace>",
    ],
    ids=range(18),
)
def test_points_are_read_however_they_are_written(write, content):
    assert traces_of(write, content) == GOOD


def test_each_trace_has_the_channels_of_its_context(write):
    contexts = (
        "<definitions>"
        + f'<context xml:id="a"><inkSource>{format_of("X", "Y")}</inkSource></context>'
        + format_of("T", "Y", "X", attributes='xml:id="f"')
        + '<context xml:id="b" traceFormatRef="#f"/><context id="c" contextRef="#b"/>'
        + '<context id="round" contextRef="#round"/></definitions>'
    )
    traces = (
        '<trace contextRef="#a">1 2, 3 4</trace><trace contextRef="#b">9 2 1, 9 4 3</trace>'
        '<traceGroup contextRef="#c"><trace>8 2 1, 8 4 3</trace></traceGroup>'
        '<trace>1 2, 3 4</trace><trace contextRef="#round">1 2, 3 4</trace><trace contextRef="#none">1 2, 3 4</trace>'
    )
    assert traces_of(write, contexts + traces) == [[[1, 2], [3, 4]]] * 6


def test_a_symbol_has_no_traces_of_a_lifted_pen(write):
    content = FILE.replace('<trace id="1">', '<trace id="1" type="penUp">')
    ink = read_inkml(write(content))
    assert len(ink.traces) == 2
    assert [(symbol.label, symbol.traces) for symbol in ink.symbols] == [("2", (1,)), ("x", (0,))]


# ---------------------------------------------------------------------------------------------------------------- truth


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"$\frac12$", r"\frac { 1 } { 2 }"),
        (r"x^2_i", "x _ { i } ^ { 2 }"),
        (r"\int\limits_0^1 f", r"\int \limits _ { 0 } ^ { 1 } f"),
        (r"\sum\limits^n_{i=1} i", r"\sum _ { i = 1 } ^ { n } i"),
        (r"\sqrt[3]{x}+\sqrt x", r"\sqrt [ 3 ] { x } + \sqrt { x }"),
        (r"\left[ \sqrt[{\left[a\right]}]{b} \right.", r"[ \sqrt [ [ a ] ] { b }"),
        (r"{\mbox { NY } } _ {\mathrm{I}}", "N Y _ { I }"),
        (r"\Bigg( a \lt b \Bigg) \to c \!", r"( a < b ) \rightarrow c"),
        (r"log x + a_{log}", r"\log x + a _ { \log }"),
        (r"1, 000 _ {}, 000", "1 , 0 0 0 _ { , } 0 0 0"),
        (r"\{ 7 \}", r"\{ 7 \}"),
        (r"e^\frac12", r"e ^ { \frac { 1 } { 2 } }"),
        # beyond CROHME's tokens: braces of arguments and of environments stay
        (r"$\overline{AB}+c$", r"\overline { A B } + c"),
        (r"\binom{n+1}k", r"\binom { n + 1 } { k }"),
        (r"\begin{matrix}a&b\\c&d\end{matrix}", r"\begin{matrix} a & b \\ c & d \end{matrix}"),
        (r"\begin{array}{l|r}a&b\end{array}", r"\begin{array} { l | r } a & b \end{array}"),
        (r"\underset{x}{lim}f", r"\underset { x } { \lim } f"),
        (r"\mathbb R^n \, {\Pi}", r"\mathbb { R } ^ { n } \Pi"),
        (r"\left\{\hat{x}\right.", r"\{ \hat { x }"),
        # what is for printers leaves no letters behind
        (r"$a=b \tag{1}$", "a = b"),
        (r"\color{red}{x}+\textcolor{blue}y", "x + y"),
        (r"\label{eq:one} x \nonumber \hspace{1cm} \kern 2pt y", "x y"),
        (r"x − α ≤ 2", r"x - \alpha \leq 2"),
    ],
)
def test_latex_becomes_a_label(latex, expected):
    assert label(latex) == expected


@pytest.mark.parametrize(
    ("mathml", "expected"),
    [
        ("<math><mfrac><mn>12</mn><mi>alpha</mi></mfrac></math>", r"\frac { 1 2 } { \alpha }"),
        ("<math><munderover><mo>sum</mo><mi>i</mi><mi>n</mi></munderover></math>", r"\sum _ { i } ^ { n }"),
        ("<math><mroot><mi>x</mi><mn>3</mn></mroot><mo>&lt;</mo></math>", r"\sqrt [ 3 ] { x } <"),
        ("<math><msqrt><mi>x</mi><mo>\\geq</mo></msqrt><mo>{</mo></math>", r"\sqrt { x \geq } \{"),
        ("<math><munder><mo>im</mo><mrow><mi>x</mi><mo>rarr</mo></mrow></munder></math>", r"\lim _ { x \rightarrow }"),
    ],
)
def test_mathml_becomes_a_label(mathml, expected):
    assert label(None, mathml) == expected


def test_mathml_is_taken_where_the_latex_cannot_be_read_or_is_not_crohme():
    mathml = "<math><mi>pi</mi></math>"
    assert label(r"\Pi", mathml) == r"\pi"
    assert label(r"\lim {x}}", mathml) == r"\pi"
    assert label(r"$\sigma$", mathml) == r"\sigma"
    assert label(r"\Pi") == r"\Pi"


@pytest.mark.parametrize(
    ("latex", "reason"),
    [
        (r"\frac{a}{b", "ends too early"),
        (r"a & b", "token 1: '&' outside a matrix"),
        (r"\includegraphics{plot}", r"\includegraphics, which is no sign"),
        (r"\color{red}", "says nothing"),
        ("x Я", "Я (U+042F)"),
    ],
)
def test_what_cannot_be_a_label_is_named(write, latex, reason):
    content = f'<ink><annotation type="truth">{latex.replace("&", "&amp;")}</annotation>{TRACES}</ink>'
    with pytest.raises(DataError, match="sample.inkml: ") as error:
        read_inkml(write(content), needs_truth=True)
    assert reason in str(error.value)
    assert read_inkml(write(content)).tokens is None  # without need of it the ink is read


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"label": "o^2", "normalizedLabel": "o^{3}"}, "o ^ { 3 }"),
        ({"normalizedLabel": " ", "label": r"\overline{o}"}, r"\overline { o }"),
        ({"label": "a", "truth": "$b$"}, "b"),
    ],
)
def test_the_truth_of_mathwriting_is_its_normalized_label_else_its_label(write, annotations, expected):
    written = "".join(f'<annotation type="{kind}">{text}</annotation>' for kind, text in annotations.items())
    assert read_inkml(write(f"<ink>{written}{TRACES}</ink>"), needs_truth=True).tokens == expected.split()


@pytest.mark.parametrize(
    ("latex", "label"),
    [
        (r"x\ge y", r"x \ge y"),  # in CROHME's own truths this is \geq
        (r"x\ge\Omega", r"x \ge \Omega"),
        (r"a^{2}_{i}", "a _ { i } ^ { 2 }"),
        (r"\frac12\ne\mathbb{R}", r"\frac { 1 } { 2 } \ne \mathbb { R }"),
        (r"\begin{matrix}a&b\\c&d\end{matrix}", r"\begin{matrix} a & b \\ c & d \end{matrix}"),
    ],
)
def test_commands_of_mathwriting_keep_their_names_whatever_else_the_label_has(write, latex, label):
    latex = latex.replace("&", "&amp;")
    content = f'<ink><annotation type="normalizedLabel">{latex}</annotation>{TRACES}</ink>'
    assert read_inkml(write(content), needs_truth=True).tokens == label.split()


def test_the_annotation_with_the_label_can_be_named(write):
    kinds = {"normalizedLabel": "x", "label": "y", "truth": "z"}
    written = "".join(f'<annotation type="{kind}">{text}</annotation>' for kind, text in kinds.items())
    path = write(f"<ink>{written}{TRACES}</ink>")
    assert read_inkml(path, needs_truth=True, truths=("label",)).tokens == ["y"]
    with pytest.raises(DataError, match='has no truth; expected <annotation type="raw"> with LaTeX$'):
        read_inkml(path, needs_truth=True, truths=("raw",))


def test_mathml_with_a_child_missing_is_named():
    with pytest.raises(DataError, match="a <msub> with 1 children, expected 2"):
        label(None, "<math><msub><mi>x</mi></msub></math>")


# ------------------------------------------------------------------------------------------------------------- images


def test_an_ordinary_trace_is_28_pixels_high():
    tall, flat = np.array([[0, 0], [1, 50.5]]), np.array([[5, 5], [60, 5.5]])
    scaled = pixel_traces([tall, flat])
    assert np.ptp(scaled[0][:, 1]) == pytest.approx(28)  # the flat one is below a tenth of the height: not counted


def test_a_mean_height_of_integers_is_rounded_down():
    traces = [np.array([[0.0, 0], [0, 7]]), np.array([[0.0, 0], [0, 8]])]
    assert np.ptp(pixel_traces(traces)[0][:, 1]) == pytest.approx(28)  # 28 / 7, not 28 / 7.5


def test_strokes_are_3_pixels_wide_with_the_official_margins():
    image = rasterise([np.array([[0, 0], [0, 56.0]])])
    assert image.shape == (12 + 28 + 3 + 11, 12 + 3 + 11)
    assert set(np.unique(image)) == {0, 255}
    rows, columns = np.nonzero(image)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 42, 12, 14)


@pytest.mark.parametrize("pen", [1, 2, 3, 4, 5])
def test_a_pen_of_any_width_keeps_the_margins(pen):
    rows, columns = np.nonzero(draw_traces([np.array([[0, 0], [30, 0.0]])], pen))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 11 + pen, 12, 41 + pen)


def test_dots_and_lone_minus_signs_have_a_sane_size():
    dot = rasterise([np.array([[3.0, 4]])])
    assert dot.shape == (26, 26) and dot.astype(int).sum() == 9 * 255  # a line through one point draws nothing
    assert rasterise([np.array([[0.0, 0], [300, 1]])]).shape[1] < 40 * 28 + 30


def test_a_point_far_off_is_told():
    for far in (1e6, 1e300):
        with pytest.raises(DataError, match="a point lies far off"):
            rasterise([np.array([[0.0, 0], [1, 1.5]]), np.array([[far, 0]])])


# -------------------------------------------------------------------------------------------------- the published data


@pytest.mark.parametrize(
    ("split", "step", "least_labels", "least_sizes", "least_overlap"),
    [("train", 88, 0.97, 0.98, 0.99), ("2014", 9, 0.95, 0.94, 0.8)],
)
def test_labels_and_images_agree_with_the_published_ones(
    shared_data, tmp_path, split, step, least_labels, least_sizes, least_overlap
):
    """Every step-th file, about 100 of each split, so the bounds are a little looser than for all of them."""
    archive = shared_data / "CROHME_inkml" / f"{split}.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    lines = (shared_data / "CROHME" / split / "labels.txt").read_text().splitlines()
    published = dict(line.split("\t") for line in lines)
    labels, sizes, overlaps = [], [], []
    with tarfile.open(archive) as files:
        for member in [member for member in files if member.size][::step]:
            path = tmp_path / member.name.rpartition("/")[2]
            path.write_bytes(files.extractfile(member).read())
            ink = read_inkml(path, needs_truth=True)
            assert CROHME_TOKENS.issuperset(ink.tokens)
            labels.append(" ".join(ink.tokens) == published[ink.name])
            image = shared_data / "CROHME" / split / "images" / f"{ink.name}.png"
            given, drawn = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE), rasterise(ink.traces)
            sizes.append(np.abs(np.subtract(given.shape, drawn.shape)).max() <= 1)
            height, width = np.minimum(given.shape, drawn.shape)
            both = np.stack([given[:height, :width], drawn[:height, :width]]) > 0
            overlaps.append(both.all(axis=0).sum() / both.any(axis=0).sum())
    assert len(labels) > 90
    assert np.mean(labels) >= least_labels
    assert np.mean(sizes) >= least_sizes
    assert np.mean(overlaps) >= least_overlap
