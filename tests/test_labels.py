"""Label files in the layouts and encodings that people bring, and what becomes of a single label."""

import pytest

from dataset.formats.items import NamedImages, in_order_of_names
from dataset.formats.labels import clean_label, read_labels
from dataset.formats.text_files import BadLine, decoded_lines, lines_of
from dataset.latex.characters import to_latex
from dataset.latex.markup import without_markup
from utils.errors import DataError


def rows(text, **options):
    return [(label.name, " ".join(label.tokens)) for label in read_labels(text.splitlines(), "labels", **options)]


# ---- layouts ---------------------------------------------------------------------------------------------------------

WANTED = [("f00", "x ^ { 2 } , y"), ("f 1", r"\frac { a } { b }")]


@pytest.mark.parametrize(
    "text",
    [
        "f00\tx ^ { 2 } , y\nf 1\t\\frac { a } { b }",
        "images/f00.png\tx^{2},y\n./train/images/f 1.jpg\t$\\frac{a}{b}$",
        "images\\f00.png\tx^{2},y\nC:\\me\\f 1.JPG\t\\(\\frac{a}{b}\\)",
        "f00.png x^{2} , y\nf 1.png \\frac{a}{b}",
        'f00.png,"x^{2} , y"\nf 1.png,\\frac{a}{b}',
        'f00.png, "x^{2} , y"\nf 1.png, \\frac{a}{b}',
        "f00.png;x^{2},y\nf 1.png;\\frac{a}{b}",
        "f00.png,x^{2},y\nf 1.png,\\frac{a}{b}",
    ],
)
def test_names_and_labels_are_found_in_every_layout_of_a_text_file(text):
    assert rows(text) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        'name,label\nf00,"x^{2} , y"\nf 1,\\frac{a}{b}',
        "Image File;LaTeX\nf00.png;x^{2},y\nf 1.png;\\frac{a}{b}",
        "sep=;\nBild;Formel\nf00.png;x^{2},y\nf 1.png;\\frac{a}{b}",
        "\ufefflatex\tpath\nx^{2},y\timg/f00.png\n\\frac{a}{b}\timg/f 1.png",
        ',filename,label,writer\n0,f00.png,"x^{2},y",me\n1,f 1.png,\\frac{a}{b},me',
        '"x^{2},y",f00.png\n\\frac{a}{b},f 1.png',
        "name,label\nf00.png,x^{2},y\nf 1.png,\\frac{a}{b}\n,,\n",
        'id,text,normalized_label\nf00,o,"x^{2},y"\nf 1,p,\\frac{a}{b}',
        'latex,id,file name\n"x^{2},y",0,f00.png\n\\frac{a}{b},1,f 1.png',
        'id,name,latex\n0,f00,"x^{2},y"\n1,f 1,\\frac{a}{b}',
    ],
)
def test_tables_are_read_with_titles_or_without(text):
    assert rows(text, kind="table") == WANTED


def test_lines_of_json_are_read_and_a_bad_one_is_named():
    good = '{"name": "f00.png", "tex": "x^{2} , y"}\n\n{"file_name": "a/f 1.png", "n": 3, "text": "\\\\frac{a}{b}"}'
    assert rows(good, kind="json") == WANTED
    bad = ["{", "[1]", '{"name": "f.png"}', '{"name": "f.png", "tex": 3}', '{"name": "f.png", "tex": ""}']
    labels = list(read_labels(bad, "train.jsonl", kind="json"))
    assert [label.where for label in labels] == [f"train.jsonl, line {number}" for number in range(1, 6)]
    assert [label.problem for label in labels[:2]] == ["expected a JSON object"] * 2
    assert labels[2].problem.endswith("and a label, such as `tex`; its keys are name")
    assert labels[3].problem.endswith("its keys are name, tex") and labels[4].problem


def test_a_table_whose_columns_nobody_names_is_an_error():
    with pytest.raises(DataError, match="labels: which column holds the labels.* 3 columns"):
        rows("f00.png,me,x\nf01.png,me,y", kind="table")


def test_a_row_without_a_label_is_named_by_its_line():
    (label,) = read_labels(["name,label", "f00.png"], "labels.csv", kind="table")
    assert label.where == "labels.csv, line 2" and "1 cells in it" in label.problem


def test_items_of_one_name_in_two_folders_get_two_names():
    assert rows("a/1.png\tx\nb/1.png\ty") == [("1", "x"), ("b_1", "y")]
    assert rows("1.png\tx\n1.jpg\ty") == [("1", "x"), ("1_jpg", "y")]
    (_, again) = read_labels(["a/1.png\tx", "a/1.png\ty"], "labels.txt")
    assert again.problem == "duplicate name 'a/1.png', first in line 1"


# ---- images ----------------------------------------------------------------------------------------------------------


def take(files, *paths):
    images = NamedImages({file: file for file in files}, "images")
    return [images.take(path)[0] for path in paths], images.left()


def test_an_image_is_found_by_what_fits_best():
    assert take(["f.jpg", "f.png"], "f.png") == (["f.png"], ["f.jpg"])
    assert take(["f.png"], "f.jpg") == (["f.png"], [])  # there is no other
    assert take(["a/1.png", "b/1.png"], "b/1.png", "x/a/1") == (["b/1.png", "a/1.png"], [])
    assert take(["f.png"], "g") == ([None], ["f.png"])


def test_capital_letters_in_a_files_name_make_no_difference_where_one_file_alone_is_meant():
    images = NamedImages({"f00.png": 1, "g.png": 2, "G.png": 3}, "images")
    assert images.take("photos/F00.PNG") == (1, "")
    assert [images.take(path)[0] for path in ("G.png", "g.jpg")] == [3, 2]
    assert NamedImages({"gG.png": 3, "Gg.png": 4}, "images").take("GG")[0] is None


def test_an_image_has_one_label():
    images = NamedImages({"f.png": 1}, "images")
    assert images.take("f") == (1, "") and images.take("f.png") == (None, "f.png has a label already")


def test_either_unicode_form_of_a_name_is_found():
    composed, decomposed = "\u00e9.png", "e\u0301.png"
    assert take([decomposed], composed) == ([decomposed], [])
    assert take([composed], decomposed) == ([composed], [])
    assert [label.name for label in read_labels([f"{decomposed}\tx"], "labels.txt")] == ["\u00e9"]


def test_two_images_of_one_name_are_told_with_the_choice():
    chosen, told = NamedImages({"f.jpg": 1, "f.png": 2}, "images").take("f")
    assert chosen == 1 and told == "2 images are called 'f': f.jpg, f.png; f.jpg is taken"


def test_files_are_counted_as_people_count():
    assert in_order_of_names(["f10.png", "f2.png", "F1.png"]) == ["F1.png", "f2.png", "f10.png"]


# ---- encodings -------------------------------------------------------------------------------------------------------

TEXT = "f00\tx = 1\r\nf01\t速度 、 v 。\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk"])
def test_usual_encodings_are_recognized(encoding, tmp_path):
    data = TEXT.encode(encoding)
    assert list(decoded_lines(data, "labels")) == ["f00\tx = 1", "f01\t速度 、 v 。"]
    (tmp_path / "labels.txt").write_bytes(data)
    assert len(list(lines_of(tmp_path / "labels.txt"))) == 2


def test_any_other_encoding_can_be_named():
    assert list(decoded_lines("caf\u00e9".encode("latin-1"), "labels", "latin-1")) == ["caf\u00e9"]
    assert list(decoded_lines(TEXT.encode("utf-16"), "labels", "utf-16"))[0] == "f00\tx = 1"
    with pytest.raises(DataError, match="encoding: 'klingon' is not known"):
        list(decoded_lines(b"x", "labels", "klingon"))


@pytest.mark.parametrize("others", ["", "f02\t速度\n"])
def test_a_byte_that_cannot_be_decoded_costs_one_line(others, tmp_path):
    data = others.encode() + b"f00\tx\nf01\ty \xe9\nf03\tz\n"
    found = list(decoded_lines(data, "labels.txt"))
    (bad,) = [line for line in found if isinstance(line, BadLine)]
    line = 2 + bool(others)
    assert bad.where == f"labels.txt, line {line}" and "expected UTF-8 text, but byte 7 of it is 0xE9" in bad.reason
    assert len(found) == line + 1 and bad.text.startswith("f01\ty")
    (tmp_path / "labels.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"labels\.txt, line {line}: expected UTF-8 text, but byte 7"):
        list(lines_of(tmp_path / "labels.txt"))
    *_, label, _ = read_labels(found, "labels.txt")
    assert label.name == "f01" and "0xE9" in label.problem  # its image is not one without a label


def test_one_line_of_utf_8_is_enough_to_take_the_others_for_damaged():
    found = list(decoded_lines("f00\té\n".encode() + b"f01\t\xb0\xa1\n", "labels.txt"))
    assert found[0] == "f00\té" and isinstance(found[1], BadLine)


# ---- single labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (r"\frac{x}{2}", r"\frac { x } { 2 }"),
        (r"$$x+1$$", "x + 1"),
        (r"\[ x+1 \]", "x + 1"),
        (r"\begin{matrix}a\end{matrix}", r"\begin{matrix} a \end{matrix}"),
        (r"\begin {matrix} a \end {matrix}", r"\begin {matrix} a \end {matrix}"),
        (r"a \ b", "a ~ b"),
        ("a &lt; b", "a < b"),
        ("x + 1", "x + 1"),
    ],
)
def test_labels_are_cut_into_tokens(text, tokens):
    found, notes, problem = clean_label(text)
    assert " ".join(found) == tokens and problem == ""
    assert bool(notes) == (text.split() != tokens.split())


def test_tokens_that_a_package_knows_stay_as_they_are():
    known = {r"\left(", "sin", "x", "，"}
    assert clean_label(r"\left( sin x ，", known)[0] == [r"\left(", "sin", "x", "，"]
    assert clean_label("sin", {"x"})[0] == ["s", "i", "n"]


def test_a_known_token_is_known_in_either_unicode_form():
    assert to_latex("e\u0301", {"\u00e9"}) == ("\u00e9", [], [])


def test_control_characters_are_named():
    assert clean_label("x\x07y")[2] == "the label has the control character U+0007"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("y =\u200b r\ufeff", "y = r"),
        ("x\u00a0y", "x y"),
        ("a − b – c", "a - b - c"),
        ("х + с", "x + c"),
        ("Αο", "Ao"),
        ("a，b（１）", "a,b(1)"),
        ("𝟐𝑥 ℎ", "2x h"),
        ("ℝ", r"\mathbb{R}"),
        ("x²⁺ⁿ₁", "x^{2+n}_{1}"),
        ("½", r"\frac{1}{2}"),
        ("αβ ≤ ∞", r"\alpha \beta  \leq  \infty"),
        ("9 0 °", r"9 0 ^{\circ}"),
        ("x̄", r"\bar{x}"),
        ("速度 、", "速度 、"),
        ("′", "'"),
    ],
)
def test_characters_of_certain_meaning_become_latex(text, latex):
    found = to_latex(text)
    assert found.text.strip() == latex and not found.problems
    assert bool(found.notes) == (text != latex)


def test_what_a_small_character_is_read_as_is_told_with_its_mark():
    assert to_latex("x²₁").notes == ["² (U+00B2) is read as ^{2}", "₁ (U+2081) is read as _{1}"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x + Я", "character 5, Я (U+042F)"),
        ("к", "к (U+043A)"),
        ("хлеб", "character 1, х (U+0445)"),
        ("é", "é (U+00E9)"),
        ("“", "U+201C"),
        ("√2", "character 1, √ (U+221A)"),
    ],
)
def test_characters_of_no_certain_meaning_are_named(text, told):
    assert told in "; ".join(to_latex(text).problems)
    assert told in clean_label(text)[2]
    assert clean_label(text, known=set(text))[2] == ""


@pytest.mark.parametrize(
    ("latex", "rest"),
    [
        (r"\color [ r g b ] { 1 } x", "x"),
        (r"\textcolor {red} { x } y", "{ x } y"),
        (r"\hspace * { 1 c m } x", "x"),
        (r"\hskip - 1 . 5 e m x", "x"),
        (r"\raisebox { 2 p t } { x }", "{ x }"),
        (r"\color { r e d", r"\color { r e d"),
        (r"\kern x", r"\kern x"),
        (r"\color [ x", r"\color [ x"),
    ],
)
def test_markup_goes_with_its_arguments_and_stays_where_they_are_missing(latex, rest):
    assert " ".join(without_markup(latex.split())) == rest
