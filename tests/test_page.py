"""The page of an evaluation: it says what was scored, needs nothing but itself, and works in a browser."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Browser, open_browser
from utils.evaluation.metrics import differing, edit_distance
from utils.evaluation.page import Drawn, ReportItem, counterparts, pack_attention, write_page

SCORES = {
    "dataset": "MADE-UP",
    "split": "test",
    "items": 500,
    "checkpoint": "runs/<b>&co.safetensors",
    "search": {"beam": 10, "directions": 2},
    "device": "cpu",
    "seconds": 12.5,
    "images_per_second": 40.0,
    "exact": {"exprate": 61.25, "at_most_1": 71, "at_most_2": 81, "at_most_3": 91, "token_error_rate": 11.1,
              "interval": [58.1, 64.2]},
    "normalized": {"exprate": 62.5, "at_most_1": 72, "at_most_2": 82, "at_most_3": 92, "token_error_rate": 10.1,
                   "interval": [59.3, 65.4], "rules": 7},
    "structure_exprate": 70.5,
    "symbol_accuracy": 93.5,
    "well_formed": 99.5,
    "visual_exprate": 63.5,
    "intervals": {"structure_exprate": [66.6, 74.4]},
    "by": {"length": [{"name": "up to 5", "items": 321, "exprate": 80, "interval": [75, 85]}],
           "kind": [{"name": "<kind>", "items": 1, "exprate": 0, "interval": [0, 0]}]},
    "confusions": [{"reference": "<", "prediction": "&", "count": 9}, {"reference": "x", "prediction": "", "count": 4}],
    "error_kinds": [{"name": "a <kind> of error", "items": 31, "alone": 7}],
    "failed": [{"id": "giant", "reason": "<out> of memory"}],
    "against": {"file": "other.jsonl", "only_here": 17, "only_there": 23, "p": 0.43},
}  # fmt: skip


def drawn(tokens: list[str]) -> Drawn | None:
    """A bar for each token, 20 pixels apart."""
    image = np.full((40, 20 * len(tokens) + 10), 255, np.uint8)
    boxes = [(i, 20 * i + 8.0, 10.0, 20 * i + 18.0, 30.0) for i in range(len(tokens))]
    for _, left, top, right, bottom in boxes:
        image[int(top) : int(bottom), int(left) : int(right)] = 0
    return Drawn(image, boxes) if tokens else None


def item(name: str, reference: str, prediction: str, **changes) -> ReportItem:
    """The network looked for token i at cell (1, i) alone, and was less and less sure."""
    reference, prediction = reference.split(), prediction.split()
    attention = np.zeros((len(prediction), 3, 8), np.float32)
    for i in range(len(prediction)):
        attention[i, 1, i % 8] = 0.7
    reference_marks, prediction_marks = differing(reference, prediction)
    made = ReportItem(
        name=name,
        reference=reference,
        prediction=prediction,
        errors=edit_distance(reference, prediction),
        image=np.zeros((40, 120), np.uint8),
        reference_marks=reference_marks,
        prediction_marks=prediction_marks,
        reference_drawn=drawn(reference),
        prediction_drawn=drawn(prediction),
        attention=attention,
        stride=16,
        confidences=[1 / (i + 1) for i in range(len(prediction))],
        alternatives=[("x + 1", -0.25), ("y", None)],
        visually_equal=reference == prediction,
    )
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def some_items() -> list[ReportItem]:
    return [
        item("right", "x + 1", "x + 1"),
        item("two-errors", r"\frac { 1 } { 2 }", r"\frac { 7 } { 4 }"),
        item("one-error", "a = b", "a = 6"),
        item("looks-alike", "x \\le y", "x \\leq y", visually_equal=True),
        item("unread", "a", "", attention=None, confidences=None, alternatives=[]),
    ]


class Reader(HTMLParser):
    """What a browser would see: (tag, attributes) of all elements, and the text inside of each kind."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input", "path", "rect", "circle"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, text):
        if self._open:
            self.texts[self._open[-1]][-1] += text

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [has for name, has in self.elements if name == tag and all(has.get(k) == v for k, v in wanted.items())]


def page_of(folder: Path, items: list[ReportItem], scores: dict | None = None, title: str = "a title") -> str:
    write_page(folder / "report.html", title, SCORES if scores is None else scores, items)
    return (folder / "report.html").read_text(encoding="utf-8")


# ---- without a browser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["<script>run()</script>", "</script><img/src=x/onerror=run()>", '"onload="run()', "a&lt;b&b", "<!--gallery-->",
     "{{title}}", "'><b>", r"\1\g<0>"],
)  # fmt: skip
def test_names_and_tokens_stay_text_whatever_they_say(tmp_path, text):
    plain = Reader(page_of(tmp_path, [item("name", "x y", "x z")]))
    token = text.replace(" ", "")
    scores = SCORES | {
        "dataset": text,
        "checkpoint": text,
        "confusions": [{"reference": token, "prediction": "", "count": 1}],
        "error_kinds": [{"name": text, "items": 1, "alone": 1}],
    }
    scores |= {"failed": [{"id": text, "reason": text}], "against": SCORES["against"] | {"file": text}}
    scores |= {"by": {"length": [{"name": text, "items": 1, "exprate": 1}], "kind": SCORES["by"]["kind"]}}
    made = item(text, f"x {token}", f"x {token}{token}", alternatives=[(text, -1.0)])
    read = Reader(page_of(tmp_path, [made], scores, title="t" + text))
    for tag in ("script", "img", "button", "article", "svg", "i", "b"):
        expected = len(plain.all(tag)) - (tag == "b")  # the counts of confusions are bold, and there is one less
        assert len(read.all(tag)) == expected, tag
    assert read.texts["h3"] == [text]
    assert read.texts["h1"] == ["t" + text]
    assert read.texts["button"][-1] == token + token
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)


def test_a_kind_of_error_is_told_with_its_items_and_those_that_have_no_other(tmp_path):
    read = Reader(page_of(tmp_path, some_items()))
    assert read.texts["th"].count("a <kind> of error") == 1
    cells = [text.strip() for text in read.texts["td"]]
    assert ("31", "7") in zip(cells, cells[1:], strict=False)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = page_of(tmp_path, [item("http://example.org/x", "x y", "x z")])
    read = Reader(page)
    for tag, attributes in read.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    style = "".join(read.texts["style"]) + "".join(attributes.get("style", "") for _, attributes in read.elements)
    assert "url(" not in style and "@import" not in style
    [script] = read.texts["script"]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|WebSocket", script)
    # and the browser is told so: it loads nothing, and runs this script alone
    [policy] = [has["content"] for has in read.all("meta") if has.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_the_page_tells_every_score(tmp_path):
    page = page_of(tmp_path, some_items())
    for told in (
        "61.25", "58.1 to 64.2", "62.50", "59.3 to 65.4", "71.00", "11.10", "70.50", "66.6 to 74.4", "93.50", "99.50",
        "63.50", "version 7", "beam 10, both directions", "exact McNemar p = 0.43", "at most its own symbols",
        "40.0 images/s on cpu", "up to 5", ">321<", "12.5 s",
        "runs/&lt;b&gt;&amp;co.safetensors", "&lt;out&gt; of memory", "alone: 17", "alone: 23", "5 of 500",
        "of 500 items are read without a single wrong token",
        "nothing was read", "−0.250", "&lt;kind&gt;", '<i class="nothing">nothing</i>',
    ):  # fmt: skip
        assert told in page, told


def test_scores_that_are_missing_are_left_out(tmp_path):
    rates = {name: SCORES["exact"][name] for name in ("exprate", "at_most_1")}
    few = SCORES | {"exact": rates, "normalized": rates, "by": {"depth": [{"name": "0", "exprate": 50}]}}
    for scores in ({}, few, *({name: SCORES[name] for name in SCORES if name != left_out} for left_out in SCORES)):
        read = Reader(page_of(tmp_path, [], scores))
        assert read.texts["h1"] == ["a title"]


def test_what_cannot_be_drawn_is_told(tmp_path):
    page = page_of(tmp_path, [item("x", "x", "{", prediction_drawn=None)])
    assert "cannot be drawn" in page


def test_each_attention_map_is_packed_to_its_own_peak():
    attention = np.array([[[0.1, 0.2], [0.0, 0.4]], [[0.0, 0.0], [0.0, 0.0]], [[np.nan, 0.002], [0.001, 0.0]]])
    levels = np.frombuffer(base64.b64decode(pack_attention(attention)), np.uint8).reshape(attention.shape)
    assert levels.tolist() == [[[64, 128], [0, 255]], [[0, 0], [0, 0]], [[0, 255], [128, 0]]]


@pytest.mark.parametrize(
    ("reference", "prediction", "faces"),
    [
        ("a b c", "a b c", [(0, 1), (1, 2), (2, 3)]),
        ("a b c", "a x c", [(0, 1), (1, 2), (2, 3)]),
        ("a b c", "a c", [(0, 1), (2, 3)]),
        ("a c", "a b c", [(0, 1), (1, 1), (1, 2)]),
        ("a b c d e", "a x y d e", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("a b c d", "a x d", [(0, 1), (1, 3), (3, 4)]),
        ("", "a", [(0, 0)]),
        ("a", "", []),
    ],
)
def test_every_token_that_was_read_faces_what_stands_there(reference, prediction, faces):
    found = counterparts(*differing(reference.split(), prediction.split()))
    assert [(each.start, each.stop) for each in found] == faces


def test_a_page_of_360_items_stays_small(tmp_path):
    import cv2

    random, items = np.random.default_rng(0), []
    for number in range(360):
        drawn = np.zeros((100, 300), np.uint8)
        for _ in range(12):  # strokes of about the length and grey levels of ink
            points = np.cumsum(random.normal(0, 9, (9, 2)), axis=0) + random.uniform((10, 20), (290, 80))
            cv2.polylines(drawn, [points.astype(np.int32)], False, 255, 3, cv2.LINE_AA)
        made = item(f"image {number}", "a b c d e f g h i j k l m n o", "a b c d e f g h i j k l m n p")
        made.image, made.attention = drawn, random.dirichlet(np.full(7 * 19, 0.05), 15).reshape(15, 7, 19)
        made.reference_drawn.image = made.prediction_drawn.image = 255 - drawn[20:80]
        items.append(made)
    write_page(tmp_path / "report.html", "size", SCORES, items)
    size = (tmp_path / "report.html").stat().st_size
    print(f"\n360 items: {size / 1e6:.1f} MB")
    assert size < 15e6


def test_text_is_readable_in_both_colour_schemes():
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3) wherever text of one color stands on another."""
    style = (Path(__file__).resolve().parents[1] / "utils" / "evaluation" / "page.css").read_text(encoding="utf-8")
    parts = style.split("* { box-sizing")[0].split("prefers-color-scheme: dark")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in parts)
    assert light.keys() > dark.keys() and dark["text"] > light["text"]
    dark = light | dark

    def luminance(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    pairs = [("text", "page"), ("text", "card"), ("text", "soft"), ("quiet", "page"), ("quiet", "card")]
    pairs += [("wrong", "soft"), ("wrong", "wrong-soft"), ("right", "right-soft"), ("same", "same-soft")]
    pairs += [("on-accent", "accent"), ("on-paper-wrong", "paper"), ("on-paper-accent", "paper")]
    for scheme in (light, dark):
        for text, ground in pairs:
            one, other = sorted((luminance(scheme[text]), luminance(scheme[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (text, ground, scheme[text], scheme[ground])


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    write_page(folder / "report.html", "made up", SCORES, some_items())
    return (folder / "report.html").as_uri()


# Where the overlay is darkest, as a share of the image's width and height, and how dark: null where there is none.
PEAK = """(() => {
  const canvas = document.querySelector(".ink canvas");
  if (!canvas) return null;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const levels = data.filter((_, i) => i % 4 === 3);
  const most = Math.max(...levels), cell = levels.indexOf(most);
  const box = canvas.getBoundingClientRect(), image = canvas.parentElement.querySelector("img").getBoundingClientRect();
  return [
    canvas.closest(".item").querySelector("h3").textContent,
    (box.x - image.x + (cell % canvas.width + .5) * box.width / canvas.width) / image.width,
    (box.y - image.y + (Math.floor(cell / canvas.width) + .5) * box.height / canvas.height) / image.height,
    most,
  ];
})()"""


def looked_at(browser: Browser) -> tuple | None:
    """Item, and pixel of its image of 40 x 120, at which the overlay has its peak."""
    peak = browser.value(PEAK)
    return peak and (peak[0], round(peak[1] * 120), round(peak[2] * 40))


def assert_nothing_failed(browser: Browser) -> None:
    assert browser.value("document.querySelector('#broken').hidden"), browser.texts("#broken")
    assert browser.value("'ready' in document.documentElement.dataset")
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    entries = [event["params"]["entry"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert not [entry for entry in entries if entry["level"] == "error"]


def test_the_page_opens_from_disk_with_its_errors_first(browser, address):
    browser.open(address)
    assert_nothing_failed(browser)
    assert browser.texts("h3") == ["two-errors", "one-error", "looks-alike", "unread"]
    assert browser.texts("output") == ["4 of 5 shown"]
    assert browser.texts("[data-show]") == ["Wrong 4", "Looks the same 1", "Right 1", "All 5"]
    asked = [event["params"]["request"]["url"] for event in browser.events
             if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert address in asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def test_what_a_name_says_is_not_run(browser, tmp_path):
    attack = "<img src=x onerror=hit=1><script>hit=1</script>"
    made = item(attack, attack, attack + " y", alternatives=[(attack, -1.0)])
    write_page(tmp_path / "report.html", attack, SCORES | {"dataset": attack}, [made])
    browser.open((tmp_path / "report.html").as_uri() + "#step=1")
    assert_nothing_failed(browser)
    assert browser.texts("h3") == [attack]
    assert browser.value("typeof hit") == "undefined"


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("show=right", ["right"]),
        ("show=same", ["looks-alike"]),
        ("show=all", ["right", "two-errors", "one-error", "looks-alike", "unread"]),
        ("sort=fewest", ["one-error", "looks-alike", "unread", "two-errors"]),
        ("sort=most", ["two-errors", "one-error", "looks-alike", "unread"]),
        ("sort=name&show=all", ["looks-alike", "one-error", "right", "two-errors", "unread"]),
        ("sort=unsure", ["two-errors", "one-error", "looks-alike", "unread"]),
        ("find=ERR", ["two-errors", "one-error"]),
        ("find=%3D+6", ["one-error"]),
        ("find=%5Cle", ["looks-alike"]),
        ("find=e+%3D", []),
        ("item=right", ["right", "two-errors", "one-error", "looks-alike", "unread"]),
        ("show=constructor&sort=nonsense&step=x&item=nobody", ["two-errors", "one-error", "looks-alike", "unread"]),
    ],
)
def test_the_address_filters_and_sorts(browser, address, state, names):
    browser.open(f"{address}#{state}")
    assert_nothing_failed(browser)
    assert browser.texts("h3") == names


def test_the_controls_filter_and_sort(browser, address):
    browser.open(f"{address}#item=right&step=1")
    browser.click("[data-show=all]")
    assert browser.texts("[data-show][aria-pressed=true]") == ["All 5"]
    browser.click("[name=find]")
    browser.ask("Input.insertText", text="x")
    assert browser.texts("h3") == ["right", "looks-alike"]
    browser.press("ArrowRight")  # moves in the text, not among tokens
    assert looked_at(browser) == ("right", 8, 24)
    browser.value("(() => { const sort = document.querySelector('[name=sort]'); sort.value = 'name';"
                  "sort.dispatchEvent(new Event('input', { bubbles: true })); })()")  # fmt: skip
    assert browser.texts("h3") == ["looks-alike", "right"]
    assert browser.value("location.hash") == "#show=all&sort=name&find=x&item=right&step=1"
    assert_nothing_failed(browser)


def test_stepping_shows_where_the_network_looked(browser, address):
    browser.open(f"{address}#item=one-error&step=2")
    assert looked_at(browser) == ("one-error", 24, 24)  # the middle of the cell in row 1, column 1
    browser.press("ArrowRight")
    assert looked_at(browser) == ("one-error", 40, 24)
    assert browser.texts(".token.here") == ["b", "6"]
    boxes = "[...document.querySelectorAll('rect.here')]"
    boxes = browser.value(boxes + ".map((box) => [box.closest('section').className, box.dataset.token])")
    assert boxes == [["reference", "2"], ["prediction", "2"]]
    assert browser.texts(".told")[1] == "3 of 3: 6, 33.3 % sure, differs; reference: b"
    assert browser.value("location.hash") == "#item=one-error&step=3"
    browser.press("ArrowRight")  # there is no fourth
    assert browser.value("location.hash") == "#item=one-error&step=3"
    browser.press("Escape")
    assert looked_at(browser) is None
    assert browser.value("document.querySelectorAll('.here').length") == 0
    assert_nothing_failed(browser)


def test_tokens_are_chosen_by_pointing_clicking_and_keys(browser, address):
    browser.open(f"{address}#show=all")
    tokens = "article:nth-child(3) .prediction .token"
    browser.mouse(f"{tokens}:nth-child(2)", "Moved")
    assert looked_at(browser) == ("one-error", 24, 24)
    browser.mouse("h1", "Moved")
    assert looked_at(browser) is None
    browser.click(f"{tokens}:nth-child(1)")
    browser.mouse("h1", "Moved")
    assert looked_at(browser) == ("one-error", 8, 24)
    browser.press("End")
    assert looked_at(browser) == ("one-error", 40, 24)
    assert browser.value("document.activeElement.textContent") == "6"
    browser.click("article:nth-child(2) .prediction rect[data-token='2']")  # the 7 in the drawn formula
    assert looked_at(browser) == ("two-errors", 40, 24)
    browser.click("article:nth-child(2) [data-step='-1']")
    assert looked_at(browser)[:2] == ("two-errors", 24)
    assert browser.texts(".told")[1].startswith("2 of 7: {, 50.0 % sure")
    assert_nothing_failed(browser)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_screen(browser, tmp_path, width):
    long = item("a" * 200, " ".join("x" * 150), " ".join("x" * 149) + r" \verylongcommand" + "y" * 80)
    write_page(tmp_path / "report.html", "b" * 100, SCORES | {"checkpoint": "c/" * 200}, [*some_items(), long])
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open((tmp_path / "report.html").as_uri() + "#show=all")
    assert browser.value("document.documentElement.scrollWidth") <= width
    browser.ask("Emulation.clearDeviceMetricsOverride")
