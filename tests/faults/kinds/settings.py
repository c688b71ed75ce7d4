"""Configuration files, assignments of the command line, and the files of a run's folder, for --resume and --init."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import yaml

from tests.faults.campaign import CANARY, Case, Kind
from tests.faults.mutation import BINARY, TEXT, TEXTS, VALUES, Original, file_cases, mutated, mutated_value
from utils.config.loading import load_config, overridden_keys
from utils.project import ROOT

HOSTILE = [
    "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n"
                                                    for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "seed: &a [*a]\n", "a: &a {b: *a}\n", "stages: &s\n  - *s\n", "seed: " + "[" * 3000, "seed: " + "{a: " * 900,
    f"seed: !!python/object/apply:os.system ['touch {CANARY}']\n", "seed: 2001-99-99\n", "seed: 0b_\n", "seed: 0x_\n",
    "? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "1: 2\n", "seed: 1:99:99\n", "seed: .inf\n", "seed: !!binary =\n",
    "seed: !!int x\n",
    "seed: !!set {a}\n", "seed: !!timestamp x\n", "<<: 1\n", "<<: [a]\n", "stages: 1\n", "stages: [1]\n",
    "presets: 1\n",
    "presets: [a]\n", "datasets: x\n", "datasets: {SAMPLE: 1}\n", "datasets: {SAMPLE: {preset: [a]}}\n",
    "---\n---\n", "seed: 1" + "0" * 5000,
    "model: null\n", "data: null\n", "data: 1\n", "model: [1]\n", "training: x\n",
]  # fmt: skip
PATHS = ["seed", "stages", "stages.0", "stages.0.epochs", "stages.9.epochs", "stages.standard.losses.label", "data",
         "data.root",
         "data.root.x", "model", "model.gru", "model.gru.hidden", "init", "presets", "", ".", "..", "stages.",
         "a.b.c", "dataset",
         "stages.-1", "stages.0.0", "batch.max_pixels", "augment", "training.minutes", "device"]  # fmt: skip


def make_configs(folder: Path) -> Case:
    text = (ROOT / "config.yaml").read_bytes()
    values = yaml.safe_load(text)
    presets = [None, "full", *values["presets"]]

    def read(path: Path, preset: str | None = None, assignments: list[str] = [], minutes: str | None = None) -> object:  # noqa: B006
        config = load_config(path, "SAMPLE", preset, assignments, None, minutes)
        overridden_keys(path, config.dataset, preset)
        return config.as_dict()

    from_file = file_cases([Original("config.yaml", text, TEXT)], read)

    def assignment(random: random.Random) -> str:
        value = random.choice((lambda: json.dumps(random.choice(VALUES)), lambda: random.choice(TEXTS),
                               lambda: random.choice(HOSTILE).strip().partition(": ")[2], lambda: "1"))()  # fmt: skip
        key = random.choice(PATHS) if random.random() < 0.9 else random.choice(TEXTS)
        return f"{key}={value}" if random.random() < 0.97 else key

    def case(random: random.Random, folder: Path) -> object:
        choice, path = random.random(), folder / "config.yaml"
        if choice < 0.25:
            return from_file(random, folder)
        if choice < 0.4:
            line = random.choice(HOSTILE)
            path.write_text(line if random.random() < 0.3 else text.decode() + line, encoding="utf-8")
            return read(path)
        if choice < 0.7:
            changed = values
            for _ in range(random.choice((1, 1, 3))):
                changed = mutated_value(random, changed)
            path.write_text(yaml.safe_dump(changed), encoding="utf-8", errors="replace")
            return read(path, random.choice(presets))
        path.write_bytes(text)
        assignments = [assignment(random) for _ in range(random.choice((1, 1, 2)))]
        return read(
            path, random.choice(presets), assignments, random.choice((None, "1", "x", "-1", "nan", "1e400", "["))
        )

    return case


def make_run_folders(folder: Path) -> Case:
    """A run that was stopped, with one of its files changed: resumed, started from, or compared."""
    import torch

    from tests.test_training import train
    from utils.config.loading import read_config
    from utils.training.compare import open_runs
    from utils.training.initialization import settings_of_weights
    from utils.training.run_folder import find_run

    whole = folder / "runs" / "run"
    try:
        train(whole, stop_after=7)
    except BaseException as stopped:
        assert type(stopped).__name__ == "KeyboardInterrupt", stopped
    state = torch.load(whole / "state.pt", weights_only=True)
    names = ["config.yaml", "vocabulary.txt", "log.jsonl", "state.pt", "state.pt"]
    names += [path.name for path in whole.glob("*.safetensors")]

    def case(random: random.Random, folder: Path) -> None:
        shutil.copytree(whole, folder / "run")
        path = folder / "run" / random.choice(names)
        data = path.read_bytes()
        if path.name == "state.pt" and random.random() < 0.6:
            changed = dict(state)
            key = random.choice(list(changed))
            changed[key] = random.choice((*VALUES, torch.zeros(3), changed[random.choice(list(changed))]))
            if random.random() < 0.3:
                del changed[key]
            file = io.BytesIO()
            torch.save(changed if random.random() < 0.95 else random.choice(VALUES), file)
            data = file.getvalue()
        elif path.name == "config.yaml" and random.random() < 0.5:
            data = random.choice(HOSTILE).encode()
        elif path.name == "log.jsonl" and random.random() < 0.5:
            data = (json.dumps(mutated_value(random, json.loads(data.splitlines()[0]))) + "\n").encode() + data
        else:
            data = mutated(random, data, TEXT if path.suffix in (".yaml", ".txt", ".jsonl") else BINARY)
        path.write_bytes(data)
        choice = random.random()
        if choice < 0.3:
            read_config(folder / "run" / "config.yaml")
            open_runs(["run"], folder)
        elif choice < 0.4:
            settings_of_weights(folder / "run")
        else:
            train(find_run(folder, None, "run"), resume=True)

    return case


KINDS = [
    Kind("configs", make_configs, share=30, cpu_seconds=3),
    Kind("run_folders", make_run_folders, share=20, cpu_seconds=3),
]
