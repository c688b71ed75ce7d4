"""The one loop over batches without gradients: validation, final scores, and whoever else decodes with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from utils.errors import MemoryLimitError
from utils.evaluation.metrics import scores
from utils.hypotheses import Hypothesis
from utils.training.devices import autocast
from utils.training.distributed import SINGLE_PROCESS, DistributedContext
from utils.training.epoch_log import with_exprate
from utils.training.interfaces import AnyBatch, LabeledBatch, Loader
from utils.training.memory import free_memory, is_out_of_memory, why_too_large
from utils.training.progress import progress

T = TypeVar("T")


class Prediction(NamedTuple):
    """What a model read in one image: its name, the label's token ids, and the hypothesis (its `tokens` are ids)."""

    name: str
    reference: list[int]
    hypothesis: Hypothesis


@torch.no_grad()
def each_batch(
    batches: Iterable[AnyBatch | None],
    work: Callable[[AnyBatch], Sequence[T]],
    device: torch.device,
    title: str = "",
    on_failure: Callable[[AnyBatch, Exception], None] | None = None,
    context: DistributedContext = SINGLE_PROCESS,
) -> Iterator[tuple[AnyBatch, Sequence[T]]]:
    """Yield (batch, work(batch)) of all batches, on the device and without gradients, with a progress bar.

    batches: have a len(); None where a process has no image.
    on_failure(batch, error): called with a batch of one image whose work failed; a larger batch that fails is done
        again in halves, down to the image at fault. None: the error is raised, but for memory that ran out: halves
        may fit, and a single image is tried twice.
    Raises MemoryLimitError for an image that does not fit.
    """
    tried_alone = set()
    for whole in progress(batches, title, context):
        parts = [whole] if whole is not None and len(whole) else []
        while parts:
            batch, result, failure = parts.pop().to(device), None, None
            try:
                with autocast(device):
                    result = work(batch)
            except (RuntimeError, ValueError, OSError, MemoryError) as error:
                if on_failure is None and not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # which would keep in memory what the work had made
            if failure is None:
                yield batch, result
            elif len(batch) > 1:
                free_memory()
                parts += reversed(batch.split())
            elif on_failure is not None:
                on_failure(batch, failure)
            elif tuple(batch.indices) in tried_alone:
                raise MemoryLimitError(why_too_large(batch, (), device))
            else:
                tried_alone.add(tuple(batch.indices))
                free_memory()
                parts.append(batch)


def predict(
    model: nn.Module,
    batches: Loader,
    device: torch.device,
    domain: str,
    title: str = "",
    context: DistributedContext = SINGLE_PROCESS,
) -> list[Prediction]:
    """Read every image by greedy autoregressive decoding; the predictions come in the images' own order.

    domain: "standard" or "handwritten", which encoder reads. Each process reads its own batches, and gets the
    predictions of all.
    """
    model.eval()

    def read(batch: LabeledBatch) -> Sequence[Hypothesis]:
        return model.read(batch.images(domain), batch.padding(domain), domain=domain)

    found = []
    for batch, hypotheses in each_batch(batches, read, device, title, context=context):
        found += zip(batch.indices, batch.names, batch.references(), hypotheses, strict=True)
    return [Prediction(*rest) for _, *rest in sorted(context.gather(found), key=lambda one: one[0])]


def chosen_for_sheet(
    predictions: Sequence[Prediction], loader: Loader, text: Callable[[Sequence[int]], str], count: int = 24
) -> list[tuple[np.ndarray, str, str]]:
    """At most `count` of the predictions, evenly chosen: (image uint8 (H, W) with ink 255, label, prediction).

    loader: what was read.   text(ids): LaTeX.
    """
    last = len(predictions) - 1
    indices = [round(i * last / (count - 1)) for i in range(count)] if last >= count else range(last + 1)
    items = []
    for index in indices:
        _, reference, hypothesis = predictions[index]
        items.append((loader.items.source.image(index, 0, 0), text(reference), text(hypothesis.tokens)))
    return items


def score(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Scores in percent: items, exprate, at_most_1, at_most_2, at_most_3, token_error_rate."""
    references = [prediction.reference for prediction in predictions]
    return with_exprate(scores(references, [prediction.hypothesis.tokens for prediction in predictions]))
