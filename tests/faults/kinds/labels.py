"""Label files of every layout, tables of tokens, and single labels through everything that reads LaTeX."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from dataset.formats.labels import clean_label
from dataset.formats.manifest import open_references
from dataset.formats.packages import Reading
from dataset.formats.preparation import Options, prepare
from tests.faults.campaign import Case, Kind
from tests.faults.mutation import TEXT, TEXTS, Original, mutated, mutated_value
from tests.made_up_packages import LABELS, caption, image

PIECES = r"""\frac \sqrt \overset \binom \left \right \begin{matrix} \end{matrix} \begin{array}{c|c} \end{array} \begin
    \end{cases} { } { } [ ] ^ _ ^ _ & \\ ( ) \big \text \mathrm \operatorname \hat \overbrace \xrightarrow \pmod \over
    \choose \not \limits \prime ' '' \sum \int \lim x y 1 2 + - = \alpha \hline \multicolumn \color \limits_ {\bf
    \rm \displaystyle \quad \, ~ $ % # \unknown \ \{ \} | \| . < > \cancel \boxed \phantom \textcircled \mbox é
    中 ½ ² 𝒙 √
    \stackrel \def \input{/etc/passwd} \write18{id} \csname \loop \relax \verb|x| \href{x}{y}""".split()


def tables() -> list[Original]:
    """A label file in every layout that is read, for the images of the training split."""
    labels = LABELS["train"]
    rows = [{"name": f"{name}.png", "latex": label} for name, label in labels.items()]
    texts = {
        "labels.txt": caption("train"),
        "captions.txt": "".join(f"images/{name}.png  ${label}$\n" for name, label in labels.items()),
        "labels.csv": "name,label\n" + "".join(f'{name}.png,"{label}"\n' for name, label in labels.items()),
        "labels.tsv": "".join(f"{name}.png\t{label}\n" for name, label in labels.items()),
        "metadata.csv": "sep=;\nfile;writer;latex\n"
        + "".join(f"{name}.png;w;{label}\n" for name, label in labels.items()),
        "train.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    return [Original(name, text.encode(), TEXT) for name, text in texts.items()]


def make_files(folder: Path) -> Case:
    (folder / "images").mkdir()
    for name, label in LABELS["train"].items():
        (folder / "images" / f"{name}.png").write_bytes(image(name, label, ".png"))
    originals = tables()

    def read(place: Path, name: str, data: bytes, words: bytes | None, options: Options) -> object:
        shutil.copytree(folder / "images", place / "source" / "images")
        (place / "source" / name).write_bytes(data)
        if words is not None:
            (place / "source" / "vocabulary.txt").write_bytes(words)
        bad = prepare(place / "source", place / "NAME", "train", progress=False, options=options)
        references = open_references(place / "NAME", "train")
        assert len(references) + len(bad) > 0
        return references

    for original in originals:
        read(folder / original.name.replace(".", "_"), original.name, original.data, None, Options())

    def case(random: random.Random, folder: Path) -> object:
        original = random.choice(originals)
        words = b"x\ny\n+\n\\frac\n{\n}\n" if random.random() < 0.3 else None
        data = original.data
        if words and random.random() < 0.5:
            words = mutated(random, words, TEXT)
        elif original.name == "train.jsonl" and random.random() < 0.5:
            rows = [json.loads(line) for line in data.splitlines()]
            row = random.randrange(len(rows))
            rows[row] = mutated_value(random, rows[row])
            data = "".join(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n" for row in rows)
            data = data.encode("utf-8", "surrogatepass")
        elif random.random() < 0.1:  # a line of a megabyte, or very many
            data += random.choice((b"a_1\t" + b"x " * 300_000, b"q\tx\n" * 50_000, b"\n" * 300_000, b"a_1\t{" * 1))
        else:
            data = mutated(random, data, TEXT)
        encoding = random.choice((None,) * 8 + ("gbk", "utf-16", "latin-1", "nothing", "hex", "idna", "rot13", "\0"))
        reading = Reading(encoding, random.random() < 0.1)
        options = Options(reading, random.choice(("refuse", "replace", "add")), random.random() < 0.3)
        return read(folder, original.name, data, words, options)

    return case


def make_formulas(folder: Path) -> Case:
    """One label, through what reads, typesets, normalizes, compares and writes LaTeX."""
    from dataset.latex.mathml import to_mathml
    from dataset.renderer import Style, render
    from demo import draw_svg
    from evaluate import draw_label, score_item
    from utils.evaluation.scores import Prediction, Reference

    def read(text: str, other: str) -> None:
        tokens, _, problem = clean_label(text)
        others = clean_label(other)[0]
        if not problem:
            score_item(Reference("a", tokens, "here", ""), Prediction(others, None, False, ()))
        drawn = draw_label(tokens)
        if drawn is not None:
            assert drawn.image.size < 50_000_000
        told = None
        for work in (lambda: render(tokens, Style(em=20)), lambda: draw_svg(tokens), lambda: to_mathml(tokens)):
            try:
                work()
            except ValueError as error:  # a RenderError or LatexError, both of which users are told
                from utils.errors import UserError

                if not isinstance(error, UserError):
                    raise
                told = error
        if told is not None:
            raise told

    read(r"\frac { 1 } { 2 }", "x")

    def label(random: random.Random) -> str:
        if random.random() < 0.15:
            piece = random.choice(PIECES)
            return f"{piece} " * random.choice((50, 1000, 5000)) + "x"
        pieces = PIECES if random.random() < 0.9 else [*PIECES, *TEXTS]
        text = " ".join(random.choice(pieces) for _ in range(random.choice((1, 3, 10, 40, 200))))
        if random.random() < 0.3:  # balanced, so that more of it is read
            text = "\\frac { " * (n := random.randint(1, 80)) + text + " } { x }" * n
        return text.replace(" ", "") if random.random() < 0.1 else text

    return lambda random, folder: read(label(random), label(random))


KINDS = [Kind("labels", make_files, share=40, cpu_seconds=4), Kind("formulas", make_formulas, share=30, cpu_seconds=4)]
