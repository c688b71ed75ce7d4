"""Predictions of anybody, in every layout that evaluate.py takes."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

from dataset.formats.predictions import read_outcomes, read_predictions
from tests.faults.campaign import Case, Kind
from tests.faults.mutation import BINARY, TEXT, Original, file_cases, mutated_value
from utils.evaluation.scores import Reference

LABELS = {"f00": r"\frac { 3 } { 8 }", "a/b.3": "x + y", "é": "x ^ { 2 }"}


def layouts() -> list[Original]:
    rows = [{"id": name, "reference": label, "prediction": label, "score": -0.5, "is_truncated": False,
             "alternatives": [["x", -1.0], ["y", None]]} for name, label in LABELS.items()]  # fmt: skip
    plain = "".join(f"{name}\t{label}\n" for name, label in LABELS.items())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, label in LABELS.items():
            file.writestr(f"{name}.txt", f"%{name}\n${label}$\n")
    single = io.BytesIO()
    with zipfile.ZipFile(single, "w") as file:
        file.writestr("predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return [
        Original("a.txt", plain.encode(), TEXT),
        Original("a.csv", ("name,latex\n" + plain.replace("\t", ",")).encode(), TEXT),
        Original("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), TEXT),
        Original("a.json", json.dumps(rows).encode(), TEXT),
        Original("b.json", json.dumps({"results": LABELS}).encode(), TEXT),
        Original("folder/f00.txt", b"%c\n$x$\n", TEXT),
        Original("a.zip", archive.getvalue(), BINARY),
        Original("b.zip", single.getvalue(), BINARY),
    ]


def make(folder: Path) -> Case:
    references = [Reference(name, label.split(), f"labels.txt, line {number}", "", name)
                  for number, (name, label) in enumerate(LABELS.items(), 1)]  # fmt: skip

    def read(path: Path) -> None:
        path = path.parent if path.parent.name == "folder" else path
        predictions = read_predictions(path, references, ("x",))
        json.dumps([[*prediction.tokens, prediction.score] for prediction in predictions.values()]).encode()
        for prediction in predictions.values():
            for tokens, score in prediction.alternatives:
                " ".join(tokens), score is None or float(score)
        read_outcomes(path, references)

    originals = layouts()
    from_files = file_cases(originals, read)

    def case(random: random.Random, folder: Path) -> None:
        if random.random() < 0.6:
            return from_files(random, folder)
        original = random.choice([each for each in originals if "json" in each.name])
        is_lines = original.name.endswith("l")
        values = [json.loads(line) for line in original.data.splitlines()] if is_lines else json.loads(original.data)
        values = mutated_value(random, mutated_value(random, values) if random.random() < 0.3 else values)
        lines = values if is_lines and isinstance(values, list) else [values]
        (folder / original.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read(folder / original.name)

    def bomb(random: random.Random, folder: Path) -> None:
        """A zip that unpacks to a thousand times its size."""
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for name in random.sample(sorted(LABELS), random.randint(1, 3)):
                file.writestr(f"{name}.txt", random.choice((b"x ", b"\n", b"\0")) * 20_000_000)
        return read(folder / "a.zip")

    return lambda random, folder: bomb(random, folder) if random.random() < 0.01 else case(random, folder)


KINDS = [Kind("predictions", make, share=100)]
