"""A run's log for TensorBoard, beside log.jsonl: losses, scores and learning rate, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.errors import ConfigError


class TensorBoardLog:
    """Writes a log's lines into FOLDER/tensorboard. Epochs of all stages are counted through."""

    def __init__(self, folder: Path, first_line: int = 0):
        """first_line: of the log that is to come, where a run is resumed; what stands there already is replaced."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("--tensorboard: it is not installed; expected: pip install tensorboard") from error
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=first_line + 1)

    def add(self, line: dict[str, Any], number: int) -> None:
        """line: of the log.   number: of this line, counted from 1."""
        values = {"learning_rate": line["learning_rate"], "images_per_second": line["images_per_second"]}
        values |= {f"loss/{name}": value for name, value in line["losses"].items()}
        for kind in ("validation", "validation_of_swa"):
            values |= {f"{kind}/{name}": value for name, value in line.get(kind, {}).items() if name != "items"}
        for name, value in values.items():
            self.writer.add_scalar(f"{line['stage']}/{name}", value, number)
        self.writer.flush()
