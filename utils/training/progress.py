"""A progress bar that is fit for a screen and for a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from utils.training.distributed import DistributedContext


def progress(batches: Iterable, name: str, context: DistributedContext, **options: Any) -> tqdm:
    """A bar over batches, in one process of those that train together; none without a name.   options: of tqdm."""
    interval = 0.2 if sys.stderr.isatty() else 30  # seconds; a log file wants a line now and then
    options |= {"unit": "batch", "leave": False, "dynamic_ncols": True, "mininterval": interval}
    return tqdm(batches, desc=name, disable=not (name and context.is_first), **options)
