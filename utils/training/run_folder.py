"""A run's folder: what it was told, what it logged, and where it stands. Whole files only: written aside, then renamed.

checkpoints/RUN/config.yaml            the configuration, every key resolved
               /vocabulary.txt         the tokens, one a line
               /log.jsonl              one line an epoch
               /curves.png             losses and scores so far
               /STAGE-best.safetensors weights that scored best on validation, ready to read with
               /STAGE-last.safetensors weights of the newest epoch
               /state.pt               what resuming needs beside them (plain tensors and values)
               /summary.json           scores, sizes, seconds, seed, configuration, versions
"""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.errors import CheckpointError, ConfigError

# A resumed run may move to another machine; anything else that differs would make it another run.
MAY_CHANGE = ("device", "threads", "data.root", "data.workers", "training.save_minutes")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the new one, whenever the power fails."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Checkpoint:
    """Weights with all that is needed to read with them."""

    path: Path
    weights: dict[str, Any]
    about: dict[str, Any]  # architecture, vocabulary (tokens), data (picture scale and limits), stage, epoch, scores


def save_checkpoint(path: Path, weights: dict[str, Any], about: dict[str, Any]) -> None:
    """Write tensors and their description as one safetensors file."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_whole(path, save(tensors, metadata={"about": json.dumps(about)}))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what save_checkpoint wrote. Raises CheckpointError for a missing, broken or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a .safetensors file of this project")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if not isinstance(about, dict) or not {"architecture", "vocabulary", "data"} <= about.keys():
        raise CheckpointError(f"{path}: a safetensors file of another project: it does not say its architecture")
    return Checkpoint(path, weights, about)


def load_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Give the model the checkpoint's weights. Raises CheckpointError when they are another model's."""
    try:
        missing, unexpected = model.load_state_dict(checkpoint.weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path}: weights of another model: {' '.join(str(error).split())}") from error
    if missing or unexpected:
        names = ", ".join([*missing, *unexpected][:3])
        raise CheckpointError(f"{checkpoint.path}: weights of another model: {names} …")


class Run:
    """The folder of one training run."""

    def __init__(self, folder: str | Path, is_writer: bool = True):
        self.folder = Path(folder)
        self.is_writer = is_writer  # of several processes that train together, one writes
        self.about: dict[str, Any] = {}
        self.restored: dict[str, Any] | None = None

    # --- beginning and resuming ---

    def begin(self, config: dict, vocabulary: Sequence[str], about: dict) -> None:
        """Start anew: write down what this run was told."""
        self.about = about
        if not self.is_writer:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        self._write("vocabulary.txt", "".join(f"{token}\n" for token in vocabulary))

    def resume(self, config: dict, vocabulary: Sequence[str], about: dict) -> None:
        """Continue: check that the run is the same one, and load where it stood."""
        import torch

        self.about = about
        kept = yaml.safe_load(self._read("config.yaml"))
        changed = [key for key in _differences(kept, config) if key not in MAY_CHANGE]
        if changed:
            names = ", ".join(changed)
            raise ConfigError(f"{self.folder}: to resume, the configuration must be the same; changed: {names}")
        if self._read("vocabulary.txt").splitlines() != list(vocabulary):
            raise CheckpointError(f"{self.folder / 'vocabulary.txt'}: the vocabulary of the data has changed since")
        path = self.folder / "state.pt"
        if path.exists():
            try:
                self.restored = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                reason = type(error).__name__
                raise CheckpointError(f"{path}: cannot be read ({reason}); the run cannot resume") from error
            self._cut_log(self.restored["log_lines"])
        elif (self.folder / "log.jsonl").exists():
            self._cut_log(0)

    def state_of(self, stage: str) -> dict | None:
        """Where a stage stood when the run stopped, or None when it had not begun."""
        if self.restored and self.restored["stage"] == stage:
            return self.restored
        return None

    def restore_finished(self, stage: str, model: Any) -> bool:
        """True, with its best weights loaded, when an earlier run finished this stage."""
        if not self.restored or stage not in self.restored["finished"]:
            return False
        load_weights(model, load_checkpoint(self.best(stage)))
        return True

    # --- while training ---

    def best(self, stage: str) -> Path:
        return self.folder / f"{stage}-best.safetensors"

    def log(self, line: dict) -> None:
        """Add a line to log.jsonl and draw the curves anew."""
        if not self.is_writer:
            return
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict]:
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def save_weights(self, stage: str, kind: str, weights: dict, **rest: Any) -> None:
        """Write STAGE-best or STAGE-last."""
        if self.is_writer:
            path = self.folder / f"{stage}-{kind}.safetensors"
            save_checkpoint(path, weights, {**self.about, "stage": stage, **rest})

    def save_state(self, stage: str, finished: Sequence[str], **state: Any) -> None:
        """Write what resuming needs: plain tensors and values only."""
        import torch

        if not self.is_writer:
            return
        buffer = io.BytesIO()
        log_lines = len(self.lines())
        torch.save({"stage": stage, "finished": list(finished), "log_lines": log_lines, **state}, buffer)
        write_whole(self.folder / "state.pt", buffer.getvalue())

    def summarize(self, summary: dict) -> None:
        """Write summary.json, with the versions it was made with."""
        import numpy
        import torch

        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
        self._write("summary.json", json.dumps({**summary, "versions": versions}, indent=2) + "\n")

    def keep(self, name: str, make: Callable[[], dict]) -> dict:
        """What `make` found out, once a run: a resumed run goes on with what the first start found."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        found = make()
        self._write(path.name, json.dumps(found) + "\n")
        return found

    def save_picture(self, name: str, draw: Callable[[Path], None]) -> Path:
        """Let `draw` write a picture aside, then rename it."""
        path = self.folder / name
        aside = self.folder / f".{name}"
        draw(aside)
        os.replace(aside, path)
        return path

    # --- inside ---

    def _write(self, name: str, text: str) -> None:
        if self.is_writer:
            write_whole(self.folder / name, text.encode("utf-8"))

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{self.folder / name}: cannot be read, so there is no run to resume") from error

    def _cut_log(self, lines: int) -> None:
        """Forget epochs that were logged but whose state was never saved: they will be run, and logged, again."""
        if self.is_writer and (self.folder / "log.jsonl").exists():
            kept = (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
            self._write("log.jsonl", "".join(kept))


def choose_folder(root: Path, dataset: str, name: str | None, resume: bool) -> Path:
    """The folder of a run: the named one, else a new one (SAMPLE, SAMPLE-2 …), or the newest one to resume."""
    if name:
        folder = root / name
        if resume and not (folder / "config.yaml").exists():
            raise CheckpointError(f"{folder}: no run to resume here")
        if not resume and (folder / "config.yaml").exists():
            raise CheckpointError(f"{folder}: this run exists; add --resume to continue it, or choose another --run")
        return folder
    taken = [path for path in [root / dataset, *root.glob(f"{dataset}-*")] if (path / "config.yaml").exists()]
    if resume:
        if not taken:
            raise CheckpointError(f"{root}: no run of {dataset} to resume; leave out --resume to begin one")
        return max(taken, key=lambda path: (path / "config.yaml").stat().st_mtime)
    number = 1
    while (folder := root / (dataset if number == 1 else f"{dataset}-{number}")) in taken:
        number += 1
    return folder


def _differences(kept: Any, new: Any, key: str = "") -> list[str]:
    """The dotted keys in which two configurations differ."""
    if isinstance(kept, dict) and isinstance(new, dict):
        names = [*kept, *(name for name in new if name not in kept)]
        pairs = [(name, kept.get(name), new.get(name)) for name in names]
    elif isinstance(kept, list) and isinstance(new, list) and len(kept) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(kept, new, strict=True))]
    else:
        return [] if kept == new else [key]
    prefix = f"{key}." if key else ""
    return [different for name, a, b in pairs for different in _differences(a, b, prefix + name)]
