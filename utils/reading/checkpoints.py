"""Which weights to read with: the published ones, those of one's own newest run, or a named file."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError
from utils.project import CHECKPOINTS

PUBLISHED = "crohme.safetensors"


def find_checkpoint(name: str | None, folder: Path | None = None) -> Path:
    """The checkpoint that a person means: a path, a run's folder for the best weights of its last stage, "newest" for
    their own newest run, or None for the published weights.

    folder: with runs and the published weights; by default checkpoints/ of this project, wherever one works.
    Raises CheckpointError where there is none. Any other path is returned as it is; whether it can be read is seen
    later.
    """
    folder = CHECKPOINTS if folder is None else folder
    if name == "newest":
        return newest_checkpoint(folder)
    if name is not None:
        path = Path(name)
        if not (path / "config.yaml").is_file():
            return path
        *_, best = best_weights(path)
        if not best.is_file():
            raise CheckpointError(
                f"{name}: this run has no weights of its last stage yet; name a file of it: STAGE-best.safetensors"
            )
        return best
    if not (folder / PUBLISHED).is_file():
        raise CheckpointError(f"{folder / PUBLISHED}: the published weights are not there; name others: --checkpoint")
    return folder / PUBLISHED


def newest_checkpoint(folder: Path) -> Path:
    """The best weights of the newest run that finished an epoch of its last stage. Raises CheckpointError."""
    found = []
    for config in folder.glob("*/config.yaml"):
        with suppress(CheckpointError, OSError):  # still training, or no run
            *_, best = best_weights(config.parent)
            found.append((best.stat().st_mtime, best))
    if not found:
        raise CheckpointError(f"{folder}: no run that finished an epoch of its last stage; train one, or name a path")
    return max(found)[1]


def best_weights(folder: Path) -> list[Path]:
    """Where the best weights of each stage of a run are, or will be. Raises CheckpointError for what is no run."""
    from utils.config.loading import load_yaml  # not needed to read with published weights

    try:
        stages = load_yaml((folder / "config.yaml").read_text(encoding="utf-8"))["stages"]
        names = [stage["name"] for stage in stages]
    except (OSError, ValueError, LookupError, TypeError):
        names = []
    if not names:
        raise CheckpointError(f"{folder}: expected a .safetensors file, or the folder of a run")
    return [folder / f"{name}-best.safetensors" for name in names]


def held_out_of(name: str | None) -> dict[str, Any]:
    """What of the training labels validated a checkpoint: its share and seed; nothing where it does not say.

    name: see find_checkpoint(). That it does not say is told on stderr: then the configuration's defaults are likely.
    """
    from utils.training.run_folder import load_checkpoint

    checkpoint = load_checkpoint(find_checkpoint(name))
    if "held_out" not in checkpoint.about:
        print(f"{checkpoint.path}: does not say which labels validated it; taken to be those of the default settings",
              file=sys.stderr)  # fmt: skip
    return checkpoint.about.get("held_out") or {}
