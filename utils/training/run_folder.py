"""A run's folder: what it was told, what it logged, and where it stands. Whole files only: written aside, then renamed.

checkpoints/RUN/config.yaml            the configuration, every key resolved
               /vocabulary.txt         the tokens, one a line
               /log.jsonl              one line an epoch
               /curves.png             losses and scores so far
               /STAGE-best.safetensors weights that scored best on validation, ready to read with
               /STAGE-last.safetensors weights of the newest epoch
               /state.pt               what resuming needs beside them (plain tensors and values)
               /summary.json           scores, sizes, seconds, seed, configuration, versions
               /SPLIT-predictions.jsonl what the final weights read, a line an image, of validation and test splits
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from utils.config.loading import differences, load_yaml, of_this_version, with_present_keys
from utils.errors import CheckpointError, ConfigError
from utils.files import atomic_path, atomic_write, naming
from utils.special_tokens import END
from utils.training.epoch_log import read_line
from utils.training.tensorboard import TensorBoardLog
from utils.training.versions import present_versions, version_changes

if TYPE_CHECKING:
    from filelock import BaseFileLock

# A resumed run may move to another machine, and may become longer; anything else would make it another run.
MAY_CHANGE = ("device", "threads", "data.root", "data.chinese_font", "data.workers", "training.save_minutes")
MAY_GROW = re.compile(r"training\.minutes|stages\.(\d+)\.epochs")
LOCK_SECONDS = 10  # that the workers of a run that was killed may still be there
STATE_VERSION = 2  # of state.pt; raise it when what a Trainer saves changes its meaning


@dataclass(frozen=True)
class Checkpoint:
    """Weights with all that is needed to read with them."""

    path: Path
    weights: dict[str, Any]
    about: dict[str, Any]  # architecture, vocabulary (tokens), data (image scale and limits), stage, epoch, scores


def save_checkpoint(path: Path, weights: dict[str, Any], about: dict[str, Any]) -> None:
    """Write tensors and their description as one safetensors file."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    atomic_write(path, save(tensors, metadata={"about": json.dumps(about)}))


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
    except (SafetensorError, OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if not isinstance(about, dict) or not {"architecture", "vocabulary", "data"} <= about.keys():
        raise CheckpointError(f"{path}: a safetensors file of another project: it does not say its architecture")
    for key, kind, expected in (
        ("architecture", dict, "a table"),
        ("vocabulary", list, "a list"),
        ("data", dict, "a table"),
    ):
        if not isinstance(about[key], kind):
            raise CheckpointError(f"{path}: what it says of its {key} is not {expected}")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite; nothing can be read with it")
    return Checkpoint(path, weights, about | {"data": with_present_keys(about["data"])})


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
        self.tensorboard: TensorBoardLog | None = None
        self._lock: BaseFileLock | None = None
        self.is_writer = is_writer  # of several processes that train together, one writes
        self.about: dict[str, Any] = {}
        self.restored: dict[str, Any] | None = None  # the saved state, where the run is resumed
        self.is_extended = False  # resumed with more epochs or minutes than before
        self.stage_seconds: dict[str, float] = {}  # that the finished stages were trained for, by the run's clock

    @cached_property
    def versions(self) -> dict[str, Any]:
        """Of the code and the libraries that this process runs with."""
        return present_versions()

    # --- beginning and resuming ---

    def lock(self) -> None:
        """Let no other process train in the folder, as long as this one lives. Raises CheckpointError.

        What a process that was killed had half written goes: a state has the size of the weights, several times.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock")  # ends with the process, killed or not
        try:
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise CheckpointError(
                f"{self.folder}: another process trains in this run; wait for it, or choose another --run"
            ) from None
        except NotImplementedError:  # a network drive that has no locks
            print(f"{self.folder}: its disk has no locks; let no other process train in it", file=sys.stderr)
            return
        for partial in self.folder.glob(".*.partial*"):
            partial.unlink(missing_ok=True)

    def begin(self, config: dict, vocabulary: Sequence[str], about: dict) -> None:
        """Begin a new run: write its configuration and vocabulary."""
        self.about = about
        if not self.is_writer:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("vocabulary.txt", "".join(f"{token}\n" for token in vocabulary))
        # Last: with it the run is there, and can be resumed.
        self._write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def resume(self, config: dict, vocabulary: Sequence[str], about: dict) -> None:
        """Continue: check that the run is the same one, or the same one made longer, and load where it stood."""
        self.about = about
        self.restored = self._load_state()
        kept = of_this_version(self._kept_config())
        if self._read("vocabulary.txt").splitlines() != list(vocabulary):
            raise CheckpointError(f"{self.folder / 'vocabulary.txt'}: the vocabulary of the data has changed since")
        self._check_changes(kept, config)
        if self.is_extended:
            self._write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        if self.restored:
            self.stage_seconds = dict(self.restored["stage_seconds"])
            self._tell_version_changes(self.restored.get("versions", {}))  # states of earlier versions have none
        if (self.folder / "log.jsonl").exists():
            self._truncate_log(self.restored["log_lines"] if self.restored else 0)

    def _load_state(self) -> dict[str, Any] | None:
        import torch

        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = type(error).__name__
            raise CheckpointError(f"{path}: cannot be read ({reason}); the run cannot resume") from error
        if isinstance(state, dict) and state.get("version") == STATE_VERSION and not _is_whole(state):
            raise CheckpointError(f"{path}: damaged, so the run cannot resume")
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise CheckpointError(
                f"{path}: saved by another version of this program, so the run cannot resume; "
                f"the weights beside it ({self.folder}/*.safetensors) can be read"
            )
        return state

    def _check_changes(self, kept: dict, config: dict) -> None:
        """Raises ConfigError where the configuration is another one, and not only a longer one."""
        finished = list(self.restored["finished"]) if self.restored else []
        changed = []
        for key, before, now in differences(kept, config):
            match = MAY_GROW.fullmatch(key)
            if match and isinstance(before, int | float) and isinstance(now, int | float) and now > before:
                self.is_extended = True
                stage = config["stages"][int(match[1])].get("name") if match[1] else None
                if stage in finished and stage != self.restored["stage"]:
                    raise ConfigError(
                        f"{self.folder}: {key} cannot grow from {before} to {now}: stage {stage} is finished, and "
                        f"{self.restored['stage']} has gone on from it"
                    )
            elif key not in MAY_CHANGE:
                changed.append(f"{key} (was {before!r}, is {now!r})")
        if changed:
            raise ConfigError(
                f"{self.folder}: to resume, the configuration must be the same, but for more epochs or minutes; "
                f"changed: {', '.join(changed)}"
            )

    def _tell_version_changes(self, before: dict[str, Any]) -> None:
        changes = version_changes(before, self.versions)
        if changes and self.is_writer:
            print(
                f"{self.folder}: changed since its state was saved: {'; '.join(changes)}. It goes on from that state, "
                "and may end in other weights than without the change",
                file=sys.stderr,
            )

    def state_of(self, stage: str) -> dict | None:
        """Where a stage stood when the run stopped, or None when it had not begun."""
        if self.restored and self.restored["stage"] == stage:
            return self.restored
        return None

    def restore_finished(self, stage: str, model: Any) -> bool:
        """True, with its best weights loaded, when an earlier start finished this stage.

        False for the stage that finished last in a run that is extended: it may have more to do.
        """
        if not self.restored or stage not in self.restored["finished"]:
            return False
        if self.is_extended and stage == self.restored["stage"]:
            self.stage_seconds.pop(stage, None)
            return False
        load_weights(model, load_checkpoint(self.best(stage)))
        return True

    # --- while training ---

    def best(self, stage: str) -> Path:
        return self.folder / f"{stage}-best.safetensors"

    def log(self, line: dict) -> None:
        """Add a line to log.jsonl."""
        if not self.is_writer:
            return
        path = self.folder / "log.jsonl"
        with naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.tensorboard:
            self.tensorboard.add(line, len(self.lines()))

    def text(self, ids: Sequence[int]) -> str:
        """A label as LaTeX, with `?` for what is no token of the vocabulary, whose ids follow the special ones."""
        tokens, first = self.about["vocabulary"], END + 1
        return " ".join(tokens[index - first] if index >= first else "?" for index in ids)

    def lines(self) -> list[dict]:
        """The log's lines, those of earlier versions under today's names."""
        path = self.folder / "log.jsonl"
        try:
            return [read_line(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        except (ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: expected an epoch as a JSON object in each line ({error})") from None

    def save_weights(self, stage: str, kind: str, weights: dict, **rest: Any) -> None:
        """Write STAGE-best or STAGE-last."""
        if self.is_writer:
            path = self.folder / f"{stage}-{kind}.safetensors"
            save_checkpoint(path, weights, {**self.about, "stage": stage, **rest})

    def save_state(self, stage: str, is_finished: bool, seconds_used: float = 0.0, **state: Any) -> None:
        """Write what resuming needs: plain tensors and values only.

        is_finished: whether the stage is.   seconds_used: of training in this stage, by the run's clock.
        """
        import torch

        if is_finished:
            self.stage_seconds[stage] = seconds_used
        if not self.is_writer:
            return
        about = {"version": STATE_VERSION, "stage": stage, "finished": list(self.stage_seconds)}
        about |= {"versions": self.versions}
        about |= {"stage_seconds": self.stage_seconds, "log_lines": len(self.lines()), "seconds_used": seconds_used}
        buffer = io.BytesIO()
        torch.save(about | state, buffer)
        atomic_write(self.folder / "state.pt", buffer.getvalue())

    def summarize(self, summary: dict) -> None:
        """Write summary.json, with the versions it was made with."""
        versions = {name: version for name, version in present_versions().items() if name != "code"}
        self._write("summary.json", json.dumps({**summary, "versions": versions}, indent=2) + "\n")

    def save_predictions(self, split: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write SPLIT-predictions.jsonl, a line for each image, as evaluate.py --against reads them."""
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._write(f"{split}-predictions.jsonl", "".join(lines))

    def keep(self, name: str, make: Callable[[], dict]) -> dict:
        """What `make` found out, once a run: a resumed run goes on with what the first start found."""
        path = self.folder / f"{name}.json"
        if path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{path}: damaged ({error}); delete it, to have it found out again") from None
        found = make()
        self._write(path.name, json.dumps(found) + "\n")
        return found

    def save_image(self, name: str, draw: Callable[[Path], None]) -> Path:
        """Let `draw` write an image under a temporary name, then rename it."""
        with atomic_path(self.folder / name) as path:
            draw(path)
        return self.folder / name

    # --- inside ---

    def _write(self, name: str, text: str) -> None:
        if self.is_writer:
            atomic_write(self.folder / name, text)

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{self.folder / name}: cannot be read, so there is no run to resume") from error
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.folder / name}: damaged, so the run cannot resume ({error})") from None

    def _kept_config(self) -> dict:
        """The configuration that the run was begun with. Raises CheckpointError."""
        try:
            kept = load_yaml(self._read("config.yaml"))
            if not isinstance(kept, dict) or not all(isinstance(key, str) for key in kept):
                raise ValueError("expected a table of keys")
        except ValueError as error:
            raise CheckpointError(
                f"{self.folder / 'config.yaml'}: damaged, so the run cannot resume ({error})"
            ) from None
        return kept

    def _truncate_log(self, lines: int) -> None:
        """Forget epochs that were logged but whose state was never saved: they will be run, and logged, again."""
        if self.is_writer:
            kept = self._read("log.jsonl").splitlines(keepends=True)[:lines]
            self._write("log.jsonl", "".join(kept))


def _is_whole(state: dict[str, Any]) -> bool:
    """Whether a state says where the run stands, in the kinds of values that save_state() writes."""
    kinds = {"stage": str, "finished": list, "stage_seconds": dict, "log_lines": int}
    versions = state.get("versions", {})  # states of earlier versions have none
    is_versions = isinstance(versions, dict) and isinstance(versions.get("code", {}), dict)
    return is_versions and all(isinstance(state.get(key), kind) for key, kind in kinds.items())


def open_run(
    folder: Path, config: dict, about: dict, is_writer: bool, is_resumed: bool, with_tensorboard: bool = False
) -> Run:
    """Begin a run in a folder, or resume the one that it holds.

    config: plain values.   about: the architecture, the vocabulary's tokens, and the data's settings, which every
    checkpoint is to hold.   is_writer: of several processes, one writes.   Raises ConfigError, CheckpointError.
    """
    run = Run(folder, is_writer)
    if is_writer:
        run.lock()
        if not is_resumed and (folder / "config.yaml").exists():
            raise CheckpointError(f"{folder}: another process has begun this run meanwhile; choose another --run")
    (run.resume if is_resumed else run.begin)(config, about["vocabulary"], about)
    if with_tensorboard and is_writer:
        run.tensorboard = TensorBoardLog(run.folder, len(run.lines()))
    return run


def new_folder(root: Path, dataset: str, name: str | None) -> Path:
    """The folder of a new run: the named one, else the first free one of SAMPLE, SAMPLE-2 …"""
    if name:
        if (root / name / "config.yaml").exists():
            raise CheckpointError(
                f"{root / name}: this run exists; add --resume to continue it, or choose another --run"
            )
        return root / name
    number = 1
    while (root / (dataset if number == 1 else f"{dataset}-{number}") / "config.yaml").exists():
        number += 1
    return root / (dataset if number == 1 else f"{dataset}-{number}")


def find_run(root: Path, dataset: str | None, name: str | None) -> Path:
    """The folder of the run to resume: the named one, else the newest one of the data set, whatever its name.

    name: of a folder in `root`, or the path of one that lies elsewhere.   Raises CheckpointError where there is none.
    """
    if name:
        for folder in (root / name, Path(name)):
            if (folder / "config.yaml").exists():
                return folder
        raise CheckpointError(f"{root / name}: no run to resume here")
    runs = [path.parent for path in root.glob("*/config.yaml") if dataset_of(path) == dataset]
    if not runs:
        raise CheckpointError(f"{root}: no run of {dataset} to resume; leave out --resume to begin one")
    return max(runs, key=lambda folder: max(path.stat().st_mtime_ns for path in folder.iterdir()))


def dataset_of(config: Path) -> str | None:
    """The data set that a run's config.yaml names."""
    try:
        return load_yaml(config.read_text(encoding="utf-8"))["dataset"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
