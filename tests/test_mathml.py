r"""MathML says what the label says: read back, it is the same label; and what LaTeX can do, it can."""

from xml.etree import ElementTree

import pytest

from dataset.formats.ink_truth import mathml_tokens
from dataset.latex.characters import meaning_of
from dataset.latex.mathml import NAMESPACE, to_mathml
from dataset.latex.parser import ACCENTS, ALPHABETS, ARROWS, ENVIRONMENTS, LatexError, parse, to_tokens
from tests.made_up_ink import LABELS

CROHME_LIKE = [
    *LABELS,
    r"\sum _ { i = 1 } ^ { n } x _ { i } ^ { 2 } \leq \int _ { 0 } ^ { \infty } f ( x ) d x",
    r"\lim _ { x \rightarrow 0 } \frac { \sin x } { x } = 1 . 5 ^ { 1 2 }",
    r"\sqrt [ 3 ] { a } \neq \{ b | b \in C \} , \exists y \forall z - 1 0 0 . 2 5 , 1 , 2 ! \ldots",
    r"\Delta \theta \div \lambda \pm \phi [ 0 , 1 ) / 2 > 3 < 4 \cdots \cdot \mu",
]


def body(latex, **options) -> str:
    """What stands inside of <semantics>, without the annotation."""
    return to_mathml(latex, **options).split("<semantics>")[1].split("<annotation")[0]


@pytest.mark.parametrize("label", CROHME_LIKE)
def test_read_back_it_is_the_same_label(label):
    math = ElementTree.fromstring(to_mathml(label))
    for element in math.iter():
        element.tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    tokens = [token for token, _ in mathml_tokens(math[0][0])]
    tokens = [token if token.isascii() else meaning_of(token) for token in tokens]
    assert [token for token in tokens if token] == to_tokens(parse(label))
    assert math[0][1].text == label


@pytest.mark.parametrize(
    ("latex", "mathml"),
    [
        ("x", "<mi>x</mi>"),
        ("1 2 . 5 ^ 2 .", "<mrow><msup><mn>12.5</mn><mn>2</mn></msup><mo>.</mo></mrow>"),
        (r"\sin x", "<mrow><mi>sin</mi><mo>\u2061</mo><mi>x</mi></mrow>"),
        (r"\mathbb R", "<mi>ℝ</mi>"),
        (r"\mathfrak { C } \mathcal { B }", "<mrow><mi>ℭ</mi><mi>ℬ</mi></mrow>"),
        (r"\mathrm { d } \mathrm { kg }", '<mrow><mi mathvariant="normal">d</mi><mi>kg</mi></mrow>'),
        (r"\mathbf { x 1 }", "<mrow><mi>𝐱</mi><mn>𝟏</mn></mrow>"),
        (r"\text { i f ~ x }", "<mtext>if\u00a0x</mtext>"),
        (r"\not =", "<mo>≠</mo>"),
        (r"f ''", "<msup><mi>f</mi><mo>′′</mo></msup>"),
        (r"\frac 1 2", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"1 \over 2", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"\sum _ i", "<munder><mo>∑</mo><mi>i</mi></munder>"),
        (r"\int _ i", "<msub><mo>∫</mo><mi>i</mi></msub>"),
        (r"\int \limits _ i", '<munder><mo movablelimits="false">∫</mo><mi>i</mi></munder>'),
        (r"\sum \nolimits _ i", "<msub><mo>∑</mo><mi>i</mi></msub>"),
        (r"\Gamma", '<mi mathvariant="normal">Γ</mi>'),
        (r"a < b \& c", "<mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi><mi>&amp;</mi><mi>c</mi></mrow>"),
        (r"\left ( x \right .", '<mrow><mo fence="true" stretchy="true">(</mo><mi>x</mi></mrow>'),
        ("", "<mrow />"),
    ],
)
def test_what_each_construct_becomes(latex, mathml):
    assert body(latex) == mathml


def test_every_construct_of_the_parser_has_its_elements():
    labels = [rf"{command} {{ x }}" for command in sorted(ACCENTS | ALPHABETS | ARROWS)]
    for name in sorted(ENVIRONMENTS):
        columns = {"array": "{lc|r}", "alignedat": "{2}"}.get(name, "")
        labels.append(rf"\begin{{{name}}}{columns} a & b \\ c & d \end{{{name}}}")
    labels += [r"\dfrac 1 2 \tbinom n k", r"\overset a b \underset a b", r"\xrightarrow [ a ] b", r"\pmod n \pod n",
               r"\bigl ( x \Bigr ) \big |", r"\substack { a \\ b }", r"\displaystyle x \scriptstyle y \bf z",
               r"\left ( a \middle | b \right >", r"{ a } _ { b } ^ { c }", r"_ 2 F", r"a \, b \quad c"]  # fmt: skip
    for label in labels:
        ElementTree.fromstring(to_mathml(label))


def test_a_command_without_a_sign_is_named_with_its_token():
    with pytest.raises(LatexError, match=r"token 1: unknown command '\\nonsense'"):
        to_mathml(r"x \nonsense")


def test_a_formula_within_text_is_inline():
    assert 'display="inline"' in to_mathml("x", is_display=False)
    assert 'display="block"' in to_mathml("x")
