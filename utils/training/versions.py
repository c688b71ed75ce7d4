"""Which code and which libraries a run was made with, and what has changed since."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import file_digest
from utils.project import ROOT

# What decides how a training goes.
CODE = ("train_stage.py", "train_stage_ABS.py", "dataset/**/*.py", "models/**/*.py", "utils/**/*.py")
MAX_NAMED = 5  # files, in one message


def present_versions(root: Path = ROOT) -> dict[str, Any]:
    """Versions of Python, torch and NumPy, and the first 12 digits of the SHA-256 of each file of the code.

    root: where the code lies.
    """
    import numpy
    import torch

    files = sorted(path for pattern in CODE for path in root.glob(pattern))
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "code": {path.relative_to(root).as_posix(): file_digest(path)[:12] for path in files},
    }


def version_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, a line each: `torch was 2.11.0, is 2.13.0`, `the code: models/losses.py, …`."""
    names = [name for name in now if name != "code" and before.get(name) not in (None, now[name])]
    told = [f"{name} was {before[name]}, is {now[name]}" for name in names]
    if "code" in before:
        old, new = before["code"], now["code"]
        files = sorted(file for file in {**old, **new} if old.get(file) != new.get(file))
        more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
        told += [f"the code: {', '.join(files[:MAX_NAMED])}{more}"] if files else []
    return told
