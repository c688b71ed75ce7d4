"""Files of pen strokes: InkML and JSON, as prepare.py and recognize.py read them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from dataset.formats.preparation import prepare
from tests.faults.campaign import Case, Kind
from tests.faults.kinds.images import preparer
from tests.faults.mutation import NUMBERS, TEXT, TEXTS, Original, file_cases, mutated_value
from tests.made_up_packages import inkml

RICH = rb"""<?xml version="1.0" encoding="UTF-8"?>
<ink xmlns="http://www.w3.org/2003/InkML">
<traceFormat><channel name="X" type="decimal"/><channel name="Y" type="decimal" orientation="-ve"/></traceFormat>
<annotation type="truth">$\frac{1}{2}+x^2$</annotation><annotation type="writer">w 1</annotation>
<annotationXML type="truth" encoding="Content-MathML"><math xmlns="http://www.w3.org/1998/Math/MathML">
<mrow><mfrac xml:id="f"><mn xml:id="1">1</mn><mn xml:id="2">2</mn></mfrac><mo xml:id="p">+</mo>
<msup><mi xml:id="x">x</mi><mn xml:id="t">2</mn></msup></mrow></math></annotationXML>
<trace id="0">10 10, 10 40, 12 41</trace><trace id="1">0 45, 22 45</trace><trace id="2">5 50 '3'2"1 1</trace>
<trace id="3" contextRef="#c">30 30, 50 30, 50 60.5, -1e1 +3</trace><trace id="4" type="penUp">1 1</trace>
<context xml:id="c" inkSourceRef="#s"/><inkSource xml:id="s"><traceFormat><channel name="Y"/><channel name="X"/>
</traceFormat></inkSource><traceGroup xml:id="g"><annotation type="truth">Segmentation</annotation>
<traceGroup xml:id="h"><annotation type="truth">1</annotation><traceView traceDataRef="0"/><annotationXML href="1"/>
</traceGroup></traceGroup></ink>"""
STROKES = [[[10, 10], [10, 40.5], [12, 41, 0.3]], [[30, 30], [50, 30]], [[60, 20]]]


def truth_of(random: random.Random) -> bytes:
    """The file with a truth of its own, or with entities, depth, or very many points."""
    pieces = ["\\frac", "{", "}", "^", "_", "x", "\\sqrt", "[", "]", "\\left", "\\begin{matrix}", "&",
    "\\\\", "\\lim", "$", "é",
              "\\mathrm", "\\text", "{ }", "\\not", "\\limits", "\\right", "\\end{matrix}", "|",
              *TEXTS[:8]]  # fmt: skip
    choice = random.random()
    truth = " ".join(random.choice(pieces) for _ in range(random.choice((1, 5, 30, 300))))
    if choice < 0.1:
        truth = random.choice(("{", "\\frac {", "\\sqrt {", "^ {", "( ", "\\left (")) * random.choice((150, 3000))
    truth = truth.replace("&", "&amp;").replace("<", "&lt;").replace("\0", "").replace("\x01", "")
    data = inkml(truth) if choice < 0.5 else RICH.decode().replace("$\\frac{1}{2}+x^2$", truth)
    if choice > 0.9:
        data = data.replace("<trace ", random.choice(("<a>", "<traceGroup>", "<math><mrow>")) * 150 + "<trace ", 1)
    elif choice > 0.85:
        data = '<!DOCTYPE a [<!ENTITY b "cccc"><!ENTITY d SYSTEM "file:///etc/passwd">]>' + data.replace(
            "1 1", "&b;&d;"
        )
    elif choice > 0.8:
        form = random.choice(("{0} {1}, ", "{0} {1} ", "{0} {1}\n", "'{0} {1}, ", "{0}-{1} "))
        points = "".join(form.format(i, i * i % 97) for i in range(random.choice((3000, 20_000))))
        data = data.replace("10 10, ", points, 1).replace("0 0, ", points, 1)
    return data.encode("utf-8", "replace")


def make_inkml(folder: Path) -> Case:
    def read(path: Path) -> object:
        return prepare(path.parent, path.parents[1] / "NAME", "train", progress=False)

    originals = [Original("ink/a.inkml", inkml("x + y").encode(), TEXT), Original("ink/a.inkml", RICH, TEXT)]
    from_files = file_cases(originals, read)

    def case(random: random.Random, folder: Path) -> object:
        if random.random() < 0.6:
            return from_files(random, folder)
        (folder / "ink").mkdir()
        path = folder / "ink" / "a.inkml"
        path.write_bytes(truth_of(random))
        return read(path)

    return case


def make_strokes(folder: Path) -> Case:
    network = preparer()
    from_files = file_cases([Original("a.json", json.dumps(STROKES).encode(), TEXT)], network.prepare)

    def case(random: random.Random, folder: Path) -> object:
        if random.random() < 0.5:
            return from_files(random, folder)
        value = mutated_value(random, STROKES)
        if random.random() < 0.2:
            value = [[[float(random.choice(NUMBERS[:12])), random.random() * 10 ** random.randint(-9, 300)]
                      for _ in range(3)] for _ in range(3)]  # fmt: skip
        (folder / "a.json").write_text(json.dumps(value))
        return network.prepare(folder / "a.json")

    return case


KINDS = [Kind("inkml", make_inkml, share=60), Kind("strokes", make_strokes, share=40)]
