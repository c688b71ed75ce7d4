"""Names, labels and predictions that are markup: the report, formulas as SVG and MathML, and the server's answers."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.faults.campaign import Case, Kind
from tests.faults.mutation import TEXTS
from tests.test_page import SCORES, item

HOSTILE = ["<script>alert(1)</script>", "</script><script>alert(1)</script>", "\"><img src=x onerror=alert(1)>",
           "'onload='alert(1)",
           "<svg/onload=alert(1)>", "javascript:alert(1)", "</style><script>", "<!--", "-->", "]]>", "<![CDATA[",
           "&lt;script&gt;",
           "{{7*7}}", "{% for x in y %}", "</textarea>", "<iframe srcdoc='<script>'>", "\u2028",
           "\\u003cscript\\u003e", "\0", "\ud800",
           "<a href=javascript:alert(1)>x</a>", "data:text/html,<script>alert(1)</script>", "<base href=//x>",
           "<meta http-equiv=refresh>",
           "\\href{javascript:alert(1)}{x}", "\\text{<script>}", "<", ">", "&", "\"", "'", "`"]  # fmt: skip


class Page(HTMLParser):
    """Notes all that could run, or load something from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.scripts: list[dict] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag == "script":
            self.scripts.append(dict(attributes))
        if tag in ("iframe", "object", "embed", "base", "form", "frame", "link", "template"):
            self.wrong.append(tag)
        for name, value in attributes:
            value = (value or "").strip().lower()
            is_elsewhere = name in ("src", "href", "xlink:href", "action") and not value.startswith(
                ("data:image/png", "#")
            )
            if (
                name.startswith("on")
                or name == "srcdoc"
                or "javascript:" in value[:20]
                and name != "title"
                or is_elsewhere
            ):
                self.wrong.append(f"{tag} {name}={value[:40]}")


def text_of(random: random.Random) -> str:
    return "".join(random.choice((*HOSTILE, *HOSTILE, *TEXTS, "x")) for _ in range(random.randint(1, 4)))


def changed(random: random.Random, values: object) -> object:
    """The same, with every text in it hostile now and then."""
    if isinstance(values, dict):
        return {key: changed(random, value) for key, value in values.items()}
    if isinstance(values, list):
        return [changed(random, value) for value in values]
    return text_of(random) if isinstance(values, str) and random.random() < 0.5 else values


def make_reports(folder: Path) -> Case:
    from evaluate import draw_label
    from utils.evaluation.page import write_page

    write_page(folder / "good.html", "title", SCORES, [item("a", "x + 1", "x")])
    good = Page((folder / "good.html").read_text(encoding="utf-8"))
    assert len(good.scripts) == 1 and good.wrong == ["link", "link href=data:,", "form"]  # of the page itself

    def case(random: random.Random, folder: Path) -> None:
        reference, prediction = ([text_of(random).split() or ["x"] for _ in range(2)] for _ in range(2))
        reference, prediction = sum(reference, []), sum(prediction, [])
        numbers = [float("nan"), float("inf"), -1.0, 0.5, 2.0]
        changes = {
            "alternatives": [(text_of(random), random.choice((None, -0.5, float("nan"))))],
            "confidences": [random.choice(numbers) for _ in prediction],
            "reference_drawn": draw_label(reference), "prediction_drawn": draw_label(prediction),
            "attention": np.full((len(prediction), 3, 8), random.choice(numbers), np.float32),
        }  # fmt: skip
        one = item(text_of(random), " ".join(reference), " ".join(prediction), **changes)
        write_page(folder / "report.html", text_of(random), changed(random, SCORES), [one])
        page = Page((folder / "report.html").read_text(encoding="utf-8"))
        assert len(page.scripts) == 1 and page.wrong == good.wrong, (page.scripts, page.wrong)

    return case


def make_formulas(folder: Path) -> Case:
    """What the demo puts into its page as markup: SVG and MathML."""
    from demo import draw_svg, write_mathml

    def check(text: str) -> None:
        for element in ElementTree.fromstring(text).iter():
            tag = element.tag.rpartition("}")[2].lower()
            assert tag not in ("script", "foreignobject", "iframe", "a", "image", "use", "annotation-xml", "maction"), (
                tag
            )
            for name, value in element.attrib.items():
                name = name.rpartition("}")[2].lower()
                assert not name.startswith("on") and name not in ("href", "src", "style"), (name, value)

    def case(random: random.Random, folder: Path) -> None:
        latex = " ".join(random.choice((text_of(random), r"\frac{1}{2}", "x", r"\text{" + text_of(random) + "}",
                                        r"\color{" + text_of(random) + "}")) for _ in range(random.randint(1,
                                        4)))  # fmt: skip
        latex = latex.encode("utf-8", "replace").decode()  # as text comes from a request
        check(write_mathml(latex))
        check(draw_svg(latex))

    check(write_mathml("x"))
    check(draw_svg("x"))
    return case


def make_uploads(folder: Path) -> Case:
    """What a server is sent: it answers with JSON, and with 4xx where it is to blame on the sender."""
    from starlette.testclient import TestClient

    from tests.faults.kinds.images import all_formats
    from tests.faults.kinds.ink import RICH, STROKES
    from tests.faults.mutation import BINARY, TEXT, mutated
    from tests.test_demo import TYPESETTING
    from tests.test_reader import reader
    from utils.serving.application import make_application

    client = TestClient(make_application(reader(), TYPESETTING), raise_server_exceptions=True)
    client.__enter__()  # the application starts its queue, which ends with this process
    images = [data for _, data in all_formats()]

    def case(random: random.Random, folder: Path) -> None:
        data, mutations = random.choice((
            (random.choice(images), BINARY), (RICH, TEXT), (json.dumps(STROKES).encode(), TEXT),
            (json.dumps({"latex": "x ^ 2"}).encode(), TEXT)))  # fmt: skip
        if random.random() < 0.9:
            data = mutated(random, data, mutations)
        settings = random.choice(
            ("", "?beam=2", "?beam=0", "?beam=x", "?lines=join", "?boxes=1&svg=1", "?x=%00", "?clean=always")
        )
        kind = random.choice(("image/png", "application/json", "application/inkml+xml",
        "multipart/form-data; boundary=x",
                              "multipart/form-data", "text/html", "", "application/x-www-form-urlencoded"))  # fmt: skip
        if random.random() < 0.15:
            latex = text_of(random).encode("utf-8", "replace").decode()
            answer = client.get(
                "/typeset", params={"latex": latex, "format": random.choice(("svg", "png", "mathml", "x"))}
            )
        elif random.random() < 0.5:
            name = text_of(random).replace("\0", "").encode("utf-8", "replace").decode()
            answer = client.post("/recognize" + settings, files={"file": (name or "x", data, kind or "x/y")})
        else:
            answer = client.post("/recognize" + settings, content=data, headers={"content-type": kind})
        assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.text[:200])
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise AssertionError("an answer that is a page")

    return case


KINDS = [
    Kind("reports", make_reports, share=20), Kind("markup", make_formulas, share=60),
    Kind("uploads", make_uploads, share=0, cpu_seconds=3),
]  # fmt: skip
