"""One spelling for each formula: what is brought together, what stays apart, and that nothing is lost."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.latex import normalization as rules
from dataset.latex.comparison import same_image
from dataset.latex.normalization import RULES, RULES_VERSION, normalize
from dataset.latex.parser import Node, parse, to_tokens, tokenize
from tests.test_latex import LABELS


def normal(latex: str) -> str:
    return " ".join(normalize(tokenize(latex)))


SAME = [
    # signs
    (r"a \le b", r"a \leq b"),
    (r"a \ge b \ne c", r"a \geq b \neq c"),
    (r"a \lt b \gt c", r"a < b > c"),
    (r"x \to 0", r"x \rightarrow 0"),
    (r"\dots", r"\ldots"),
    (r"\dotsb", r"\cdots"),
    (r"\lbrace a \rbrace", r"\{ a \}"),
    (r"a \not = b \not \in C", r"a \neq b \notin C"),
    (r"\lvert x \rvert \vert y \mid z", r"| x | | y | z"),
    (r"\Vert x \parallel", r"\| x \|"),
    (r"a \ast b", "a * b"),
    (r"\not { { = } }", r"\neq"),
    # sizes
    (r"\left( a \right)", "( a )"),
    (r"x ^ \left( a \right)", "x ^ { ( a ) }"),
    (r"\left. a \middle | b \right] ^ 2", "a | b ] ^ { 2 }"),
    (r"\left< a \right>", r"\langle a \rangle"),
    (r"\bigl( a \Bigg)", "( a )"),
    (r"\dfrac 1 2 \tfrac { 1 } { 2 }", r"\frac { 1 } { 2 } \frac { 1 } { 2 }"),
    (r"{ a \over b }", r"\frac { a } { b }"),
    (r"\displaystyle \sum", r"\sum"),
    (r"\widehat { a } \overrightarrow { A B }", r"\hat a \vec { A B }"),
    # spaces, limits
    (r"\int x \, d x \quad ~ y", r"\int x d x y"),
    (r"\int \limits _ 0 ^ 1", r"\int _ { 0 } ^ { 1 }"),
    (r"\sum \nolimits _ 0", r"\sum _ { 0 }"),
    # functions, alphabets
    (r"\operatorname { s i n } x", r"\sin x"),
    (r"\mathrm { l o g } x", r"\log x"),
    (r"\int x \mathrm { d } x", r"\int x d x"),
    (r"{ \rm d } x", "d x"),
    (r"\text { i f } x", "i f x"),
    # matrices
    (r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"( \begin{matrix} a & b \\ c & d \end{matrix} )"),
    (r"\left\{ \begin{array} { l l } a & b \end{array} \right.", r"\begin{cases} a & b \end{cases}"),
    (r"\begin { m a t r i x } a \end { m a t r i x }", r"\begin {matrix} a \end {matrix}"),
    # primes
    ("f ' ( x )", r"f ^ { \prime } ( x )"),
    ("f ^ { ' } ( x )", r"f ^ { \prime } ( x )"),
    ("f ^ '", r"f ^ { \prime }"),
    ("f ' ' _ n ^ 2", r"f _ { n } ^ { \prime \prime 2 }"),
    ("f ^ ′", "f '"),
    # braces, order of scripts
    ("{ { a } }", "a"),
    ("{ a } + { b c }", "a + b c"),
    ("x ^ 2", "x ^ { 2 }"),
    ("x ^ { { 2 } }", "x ^ { 2 }"),
    ("{ x } ^ 2 _ i", "x _ { i } ^ { 2 }"),
    ("{ ( a + b ) } ^ 2", "( a + b ) ^ { 2 }"),
    ("{ } ^ 2 x", "^ { 2 } x"),
    (r"\sqrt 2", r"\sqrt { 2 }"),
    (r"x _ { } ^ 2", "x ^ { 2 }"),
    (r"\sqrt [ 3 ] x", r"\sqrt [ { 3 } ] { x }"),
    # characters
    ("x ≤ y − 1 × α", r"x \leq y - 1 \times \alpha"),
    ("（ x ， y ）", "( x , y )"),
    ("x &lt; y", "x < y"),
    ("x & g t ; y", "x > y"),
    (r"5 % \# #", r"5 \% \# \#"),
    (r"x \sp 2 \sb i", "x _ { i } ^ { 2 }"),
    (r"\Bbb R", r"\mathbb { R }"),
    # markup
    (r"\color { r e d } x", "x"),
    (r"\textcolor{red}{x} ^ 2", "x ^ { 2 }"),
    (r"x \nonumber \tag { 1 } \label { a }", "x"),
    (r"\hspace { 1 c m } x \kern 2 p t y", "x y"),
    # line ends, old roots
    (r"x + y \\", "x + y"),
    (r"\begin{matrix} a \\ b \\ \end{matrix}", r"\begin{matrix} a \\ b \end{matrix}"),
    (r"\root 3 \of { \root n \of x }", r"\sqrt [ 3 ] { \sqrt [ n ] { x } }"),
    # signs, spaces
    (r"\not \leq \not | \not \exists", r"\nleq \nmid \nexists"),
    (r"x \phantom { y } z", "x z"),
    # stacks
    (r"\underset { x \to 0 } { \lim } f", r"\lim _ { x \to 0 } f"),
    (r"\overset n { \underset { i } { \sum } } i", r"\sum _ { i } ^ { n } i"),
    (r"\underset { k } { \sum ^ n }", r"\sum _ { k } ^ { n }"),
    (r"\stackrel { d } { = }", r"\overset { d } { = }"),
    # declared alphabets
    (r"{ \bf x } y", r"\mathbf { x } y"),
    (r"{ \cal L } \bm { v } \textbf x", r"\mathcal L \boldsymbol v \mathbf { x }"),
    (r"\mathbf a \mathbf b", r"\mathbf { a b }"),
    # matrices
    (r"\begin{array} { l | r } a & b \end{array}", r"\begin{array} { c | c } a & b \end{array}"),
    (r"\begin{align*} a & = b \end{align*}", r"\begin{aligned} a & = b \end{aligned}"),
    (r"\begin{equation} a + b \end{equation}", "a + b"),
    # degrees
    (r"9 0 \degree", r"9 0 ^ { \circ }"),
    (r"a _ 1 °", r"a _ { 1 } ^ \circ"),
]


@pytest.mark.parametrize(("spelling", "other"), SAME)
def test_two_spellings_become_one(spelling, other):
    assert normal(spelling) == normal(other)


APART = [
    (r"\phi", r"\varphi"),
    (r"\ldots", r"\cdots"),
    (r"\leq", r"\leqslant"),
    ("x ^ { 2 3 }", "x ^ 2 3"),
    ("a _ b c", "a _ { b c }"),
    ("{ x _ 1 } ^ 2", "x _ 1 ^ 2"),
    ("a { } ^ 2", "a b ^ 2"),
    ("x ^ 2 { } _ 3", "x ^ 2 _ 3"),
    (r"\mathbb R", "R"),
    (r"{ \bf a } b", r"\bf a b"),
    (r"\sin", "s i n"),
    (r"\frac { a } { b }", r"\binom { a } { b }"),
    (r"\begin{array} { c | c } a & b \end{array}", r"\begin{matrix} a & b \end{matrix}"),
    ("1 . 2", "1 2"),
    (r"\sqrt { [ 3 ] x }", r"\sqrt [ 3 ] x"),
    ("x ^ { 2", "x ^ { 2 }"),
    (r"\mathbf { x }", r"\boldsymbol { x }"),
    (r"\mathcal { x }", r"\mathscr { x }"),
    (r"\ldots", ". . ."),
    (r"\binom { n } { k }", r"\left( \begin{array} { c } n \\ k \end{array} \right)"),
    (r"\overset { x } { y }", "y ^ { x }"),
    (r"\underset { D } { \int }", r"\int _ { D }"),
    (r"\begin{matrix} a & l t ; \end{matrix}", r"\begin{matrix} a < \end{matrix}"),
    (r"\mathbf { a } ^ 2 \mathbf { b }", r"\mathbf { a b } ^ 2"),
    ("中 ж", "中 x"),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_differs_in_ink_stays_apart(one, other):
    assert normal(one) != normal(other)


def test_a_bracket_that_an_optional_argument_would_end_at_keeps_its_braces():
    tokens = normalize(r"\sqrt [ { [ } 3 ] { x }".split())
    assert tokens == r"\sqrt [ { [ 3 } ] { x }".split()
    assert parse(tokens).children[0].children[1] is not None


@settings(max_examples=150)
@given(LABELS)
def test_what_is_normalized_is_well_formed_and_stays_as_it_is(tokens):
    once = normalize(tokens)
    assert to_tokens(parse(once)) == once
    assert normalize(once) == once


ANY = st.lists(
    st.sampled_from(
        r"""a 1 + { } { } ^ _ ' \limits \frac \sqrt [ ] \left \right ( ) . < \lt & \\ \begin \end {matrix} {pmatrix}
        \begin{array} \end{array} \, \not = \mathrm \rm \bf \over \lbrack \rbrack \le \displaystyle \hat \substack
        \middle \big \phantom \operatorname s i n \nonsense $ % # 中 ′""".split()
    ),
    max_size=14,
)


@settings(max_examples=800)
@given(ANY)
def test_nothing_makes_it_raise_and_twice_is_once(tokens):
    once = normalize(tokens)
    assert normalize(once) == once


def test_every_rule_changes_something_that_no_other_rule_does(monkeypatch):
    needed = set()
    for rule in RULES:
        monkeypatch.setattr(rules, "RULES", [other for other in RULES if other is not rule])
        needed |= {rule.name for one, other in SAME if normal(one) != normal(other)}
    assert needed == {rule.name for rule in RULES}


def test_deep_nesting_does_not_make_it_raise():
    for tokens in (["{"] * 5000, ["x", "^", "{"] * 5000, ["{"] * 70 + ["}"] * 70, [], [""]):
        assert isinstance(normalize(tokens), list)


def respelled(node: Node, chance: random.Random) -> list[str]:
    """A tree of symbols, scripts, fractions and roots, written as some annotator might."""

    def maybe(share: float = 0.5) -> bool:
        return chance.random() < share

    def argument(row: Node) -> list[str]:
        is_single = len(row.children) == 1 and row.children[0].kind == "symbol"
        written = respelled(row, chance)
        if is_single and len(written) == 1 and maybe():
            return written
        return ["{", *(["{", *written, "}"] if maybe(0.2) else written), "}"]

    if node.kind == "row":
        tokens = []
        for child in node.children:
            written = respelled(child, chance)
            is_simple = child.kind in ("symbol", "fraction") and maybe(0.15)
            tokens += ["{", *written, "}"] if is_simple else written
            tokens += [chance.choice([r"\,", r"\;", "~"])] if maybe(0.1) and child.kind != "scripts" else []
        return tokens
    if node.kind == "symbol":
        names = [name for name, sign in rules.SIGNS.items() if sign == node.name and name not in rules.GRAMMAR]
        return [chance.choice(names) if names and maybe() else node.name]
    if node.kind == "fraction":
        name = chance.choice([r"\frac", r"\dfrac", r"\tfrac"])
        return [name, *argument(node.children[0]), *argument(node.children[1])]
    if node.kind == "root":
        degree = node.children[1]
        optional = [] if degree is None else ["[", *respelled(degree, chance), "]"]
        return [r"\sqrt", *optional, *argument(node.children[0])]
    base, below, above = node.children
    parts = [[mark, *argument(script)] for mark, script in (("_", below), ("^", above)) if script is not None]
    chance.shuffle(parts)
    limits = [r"\limits"] if base is not None and maybe(0.2) else []
    written = [] if base is None else respelled(base, chance)
    primes = ["'"] * len(node.details[2])
    return [*(["{", *written, "}"] if base is None or maybe(0.2) else written), *limits, *primes, *sum(parts, [])]


def test_two_spellings_of_a_crohme_label_become_one(shared_data):
    lines = (shared_data / "CROHME" / "2014" / "labels.txt").read_text().splitlines()
    different = 0
    for number, line in enumerate(lines):
        tokens = line.split("\t")[1].split()
        other = respelled(parse(tokens), random.Random(number))
        different += other != tokens
        assert normalize(other) == normalize(tokens), " ".join(other)
    assert different > 900


def test_crohme_labels_keep_their_image(shared_data):
    r"""But for `\limits` and a prime in an argument of its own: TeX prints them elsewhere, nobody writes them there."""
    changed = 0
    for split in ("train", "2014"):
        lines = (shared_data / "CROHME" / split / "labels.txt").read_text().splitlines()
        for tokens in {tuple(line.split("\t")[1].split()) for line in lines}:
            plain = " ".join(token for token in tokens if token != r"\limits").replace("{ ' }", r"{ \prime }").split()
            found = normalize(tokens)
            changed += found != list(tokens)
            assert same_image(plain, found), " ".join(tokens)
    assert changed > 40


def test_a_changed_rule_has_a_new_version():
    """Scores of two versions of the rules do not compare: raise RULES_VERSION, and write down the new digest here."""
    tables = [sorted(rules.SIGNS.items()), sorted(rules.SIZES.items()), sorted(rules.NEGATED.items()),
              sorted(rules.PLAIN_ALPHABETS), [rule.name for rule in RULES]]  # fmt: skip
    tables += [[normal(latex) for pair in SAME + APART for latex in pair]]
    digest = hashlib.sha256(repr(tables).encode()).hexdigest()[:12]
    assert {RULES_VERSION: digest} == {2: "6935207c293d"}
