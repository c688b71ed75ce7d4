"""A run's log for TensorBoard, beside log.jsonl: what each epoch was like in numbers, and images with predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.errors import ConfigError
from utils.plots import draw_sheet

# Of a log's line; each is left out of lines that lack it.
NUMBERS = (
    "learning_rate",
    "images_per_second",
    "padding",
    "mean_batch",
    "largest_batch",
    "largest_padded",
    "max_pixels",
    "oversize",
    "peak_memory",
    "seconds",
    "cpu_seconds",
    "validation_seconds",
)


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
        values = {name: line[name] for name in NUMBERS if name in line}
        if "splits" in line:
            values["batches_out_of_memory"] = len(line["splits"])
        values |= {f"loss/{name}": value for name, value in line["losses"].items()}
        for kind in ("validation", "validation_of_swa"):
            values |= {f"{kind}/{name}": value for name, value in line.get(kind, {}).items() if name != "items"}
        for name, value in values.items():
            self.writer.add_scalar(f"{line['stage']}/{name}", value, number)
        self.writer.flush()

    def add_sheet(self, stage: str, items: Sequence[tuple[np.ndarray, str, str]], title: str, number: int) -> None:
        """Images with label and prediction, as one image.   items: see draw_sheet.   number: see add."""
        file = io.BytesIO()
        draw_sheet(items, file, title)
        sheet = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
        self.writer.add_image(f"{stage}/predictions", sheet[:, :, ::-1], number, dataformats="HWC")
        self.writer.flush()
