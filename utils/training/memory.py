"""Training that does not run out of memory: measure what a step needs, and go on in pieces when it was too much.

Before training, `fit_memory` probes how memory grows with a batch, and says how many pixels fit. While training,
`run_in_pieces` repeats a step that ran out of memory in 2, 4, 8 … pieces that add up to the same gradient, and a
`Budget` makes the batches that follow a little smaller. Nothing is skipped.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from utils.config.schema import StageConfig, TrainingConfig
from utils.errors import MemoryLimitError
from utils.training.devices import random_state, restore_random_state
from utils.training.distributed import SINGLE_PROCESS, DistributedContext
from utils.training.interfaces import AnyBatch, LabeledBatch
from utils.training.run_folder import Run
from utils.training.trial import trial_steps

T = TypeVar("T")

MAX_PROBE_SECONDS = 20
MAX_ATTEMPTS = 3  # at a step of the optimizer
OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU on Windows
    "ALLOC_FAILED",  # cuDNN and cuBLAS
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device. Libraries under torch say it in their own words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def free_memory() -> None:
    """Give back what nobody uses. Call it outside the `except` block: an error keeps its step's tensors alive."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


# ---- a step that may be too large ------------------------------------------------------------------------------------


def run_in_pieces(
    batch: LabeledBatch | None,
    step: Callable[[LabeledBatch], T],
    start_over: Callable[[], None],
    context: DistributedContext = SINGLE_PROCESS,
    indivisible: Sequence[str] = (),
) -> tuple[list[T], bool]:
    """Run a step over a whole batch, or over as many pieces of it as memory asks for.

    batch: None or empty where a process has no image.
    step(piece): forward and backward, adding to the gradients. Its loss is divided by the tokens of the *whole* batch
        (of all processes), so the pieces add up to the whole. It must exchange nothing with other processes, see
        sum_gradients.
    start_over(): undoes what steps have added: optimizer.zero_grad(set_to_none=True). Called before each attempt.

    indivisible: losses whose gradient would be another one in pieces; where there are any, the batch stays whole.

    Each attempt starts from the same random state. Only BatchNorm keeps the statistics of a failed attempt, which are
    those of some of the same images once more.
    Returns what step returned for each piece, and whether any process had to split: all get the same answer.
    Raises MemoryLimitError, in all processes, when a single image does not fit, or a batch that must stay whole.
    """
    pieces = [batch] if batch is not None and len(batch) else []
    random = random_state(context.device)
    tried_alone, too_large = set(), None
    while True:
        start_over()
        results, failed = _attempt(pieces, step)
        if failed is None:
            break
        results.clear()
        start_over()
        free_memory()
        restore_random_state(random, context.device)
        is_smallest = len(failed) == 1 or bool(indivisible)
        if is_smallest and id(failed) in tried_alone:
            too_large = failed
            break
        if is_smallest:  # has a second chance, now that memory was freed
            tried_alone.add(id(failed))
        if not indivisible:
            pieces = [half for piece in pieces for half in (piece.split() if len(piece) > 1 else [piece])]
    was_split, any_is_too_large = context.any([len(pieces) > 1, too_large is not None])
    if any_is_too_large:
        raise MemoryLimitError(why_too_large(too_large, indivisible, context.device))
    return results, was_split


def _attempt(pieces: Sequence[LabeledBatch], step: Callable[[LabeledBatch], T]) -> tuple[list[T], LabeledBatch | None]:
    """What step returned for each piece, and the piece that ran out of memory; None where none did."""
    results = []
    for piece in pieces:
        try:
            results.append(step(piece))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return results, piece
    return results, None


def why_too_large(batch: AnyBatch | None, indivisible: Sequence[str], device: torch.device) -> str:
    """What a MemoryLimitError says.

    batch: of one image, or one that must stay whole; None where it is another process's.
    """
    if batch is None:
        return "another process has an image or batch that does not fit into memory; it says which"
    if len(batch) == 1:
        name = batch.names[0] if hasattr(batch, "names") else f"image {batch.indices[0] + 1}"
        pixels = batch.padded_pixels if hasattr(batch, "padded_pixels") else batch.padding[0].numel()
        return f"{name}: this image alone ({pixels:,} pixels) needs more memory than there is on {device}; {REMEDIES}"
    return (
        f"a batch of {len(batch)} images ({batch.padded_pixels:,} pixels) needs more memory than there is on "
        f"{device}, and {', '.join(indivisible)} would have another gradient in pieces; smaller batches "
        f"(batch.max_pixels, batch.batch_size) would help"
    )


def take_step(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """optimizer.step(); once more, where memory ran out before it had changed anything.

    An optimizer takes most of its memory at its first step, for the averages that it keeps.
    Raises MemoryLimitError where there is no room, or where some weights have changed already: then the state that was
    saved last is the one to go on from.
    """
    for _ in range(MAX_ATTEMPTS):
        before = _versions(optimizer)
        try:
            optimizer.step()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
        if not before.items() <= _versions(optimizer).items():
            break
    raise MemoryLimitError(f"the optimizer's step needs more memory than there is on {device}; {REMEDIES}")


def _versions(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """How often each weight, and each tensor that the optimizer keeps of it, was written to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return {id(tensor): tensor._version for tensor in (*weights, *kept)}


REMEDIES = (
    "smaller max_height and max_width or image_scale, a smaller model, or a device with more memory would help, "
    "and so would ending other programs that use it"
)


class Budget:
    """How many pixels a batch may have: a tenth less after one that had to be split, and back after a quiet while."""

    def __init__(self, max_pixels: int, quiet_batches: int = 200, fetched_ahead: int = 0):
        """quiet_batches: so many in a row without a split make the budget grow again, up to max_pixels.
        fetched_ahead: batches that a loader has ready when the budget shrinks. They are still of the old size, so
            their splits do not count.
        """
        self.full = self.max_pixels = max_pixels
        self.quiet_batches, self.fetched_ahead = quiet_batches, fetched_ahead
        self.quiet = 0  # batches since the last change; negative while old ones are still to come

    def record(self, was_split: bool) -> bool:
        """Note how a batch went. Returns whether max_pixels has changed, and the sampler must be told."""
        before = self.max_pixels
        if was_split and self.quiet >= 0:  # it was of the present size
            self.max_pixels = max(1, int(before * 0.9))
            self.quiet = -self.fetched_ahead
        else:
            self.quiet += 1
            if self.quiet >= self.quiet_batches and before < self.full:
                self.max_pixels = min(self.full, math.ceil(before / 0.9))
                self.quiet = 0
        return self.max_pixels != before

    def state_dict(self) -> dict[str, int]:
        return {"full": self.full, "max_pixels": self.max_pixels, "quiet": self.quiet}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.full, self.max_pixels, self.quiet = state["full"], state["max_pixels"], state["quiet"]


# ---- how much fits ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryModel:
    """What a training step needs: base + per_pixel x pixels x (1 + token_cost x longest label), in bytes.

    pixels: padded, count x tallest x widest. The second term is the encoder; the third is attention, which keeps
    something for every token and feature position. max_pixels is the budget that this leaves room for.
    """

    base: float
    per_pixel: float
    token_cost: float
    max_pixels: int
    probes: tuple[tuple[int, int, int], ...]  # (pixels, tokens, bytes) as measured

    def predict(self, cost: float) -> float:
        """Bytes for a batch that the sampler says costs so many pixels, longest label included."""
        return self.base + self.per_pixel * cost


def fit_memory(
    probe: Callable[[int, int, int, int], int],
    available: int,
    reserved: int = 0,
    share: float = 0.9,
    height: int = 128,
    width: int = 512,
    tokens: tuple[int, int] = (16, 64),
) -> MemoryModel:
    """Measure a few small steps, and say how many pixels fit.

    probe(count, height, width, tokens): runs a step like those of training on such a batch and returns the bytes it
        took at its peak, beyond what was there before (see peak_memory).
    available: bytes that are free (see free_bytes). reserved: bytes of that which something else will take later,
        such as the optimizer's averages. share: of what is left, how much to plan with.

    Batches double from two images on, with short and with long labels, until one takes a quarter of what is free
    or time is up. A probe that does not fit ends it as well. Processes should use the smallest budget of them all.
    Raises MemoryLimitError when four probes do not fit.
    """
    started, probes, count = time.monotonic(), [], 2
    _try_probe(probe, [], 1, height, width, tokens)  # the first step of all also takes what libraries keep for good
    while _try_probe(probe, probes, count, height, width, tokens):
        if len(probes) >= 6 and (probes[-1][2] > available / 4 or time.monotonic() - started > MAX_PROBE_SECONDS):
            break
        count *= 2
    if len(probes) < 4:
        raise MemoryLimitError(f"not even {count} images of {height} x {width} pixels fit into memory; {REMEDIES}")

    pixels, length, taken = np.array(probes, np.float64).T
    terms = np.stack([np.ones_like(pixels), pixels, pixels * length], axis=1)
    # Relative errors, so that small probes count as well; in units that make all terms alike.
    scale = terms.max(axis=0)
    weighted = terms / scale / taken[:, None]
    base, per_pixel, per_token = np.linalg.lstsq(weighted, np.ones_like(taken), rcond=None)[0] / scale
    if per_token < 0 or per_pixel <= 0:  # labels cost nothing that can be seen: all of it is pixels
        per_token = 0.0
        per_pixel, base = np.polyfit(pixels, taken, 1)
    if per_pixel <= 0:
        raise MemoryLimitError(f"memory does not grow with the batch, it cannot be fitted: {probes}")
    max_pixels = int((share * (available - reserved) - max(base, 0)) / per_pixel)
    if max_pixels < height * width:
        raise MemoryLimitError(f"there is no room for one image of {height} x {width} pixels; {REMEDIES}")
    return MemoryModel(float(base), float(per_pixel), float(per_token / per_pixel), max_pixels, tuple(probes))


def measure_memory(
    objective: nn.Module,
    stage: StageConfig,
    make_batch: Callable[[int, int, int, int], LabeledBatch],
    device: torch.device,
    precision: str = "auto",
    share: float = 0.9,
) -> dict[str, Any]:
    """The fields of a MemoryModel: what a step of this stage needs on a CUDA device, from a few probes.

    make_batch(count, height, width, tokens): a batch of such images and labels.   Nothing of the model is changed.
    """
    with trial_steps(objective, stage, device, precision) as step:

        def probe(count: int, height: int, width: int, tokens: int) -> int:
            batch = make_batch(count, height, width, tokens).to(device)
            return peak_memory(lambda: step(batch), device)

        # Still to come, for what learns: the averages of the optimizer (two), and for all, the averaged weights.
        sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in objective.model.parameters()]
        reserved = sum(size * (3 if learns else 1) for size, learns in sizes)
        return dataclasses.asdict(fit_memory(probe, free_bytes(device), reserved, share))


def measured_once(
    objective: nn.Module,
    stage: StageConfig,
    training: TrainingConfig,
    make_batch: Callable[[int, int, int, int, str], LabeledBatch],
    run: Run,
    context: DistributedContext,
) -> MemoryModel | None:
    """What a step of the stage needs, measured when the run comes to it first, and kept in its folder.

    make_batch(count, height, width, tokens, kind of images): a batch to measure with.   None without a GPU.
    """
    if context.device.type != "cuda":
        return None

    def make(*sizes: int) -> LabeledBatch:
        return make_batch(*sizes, stage.images)

    def probe() -> dict[str, Any]:
        return measure_memory(objective, stage, make, context.device, training.precision)

    return MemoryModel(**context.first_then_all(lambda: run.keep(f"memory-{stage.name}", probe)))


def _try_probe(probe, probes: list, count: int, height: int, width: int, tokens: tuple[int, int]) -> bool:
    """Probe one count with each number of tokens; False when it did not fit."""
    fits = True
    for length in tokens:
        try:
            probes.append((count * height * width, length, int(probe(count, height, width, length))))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fits = False
            break
    free_memory()
    return fits


def peak_memory(step: Callable[[], None], device: torch.device) -> int:
    """Bytes that a step takes on a CUDA device at its peak, beyond what was allocated before."""
    free_memory()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may still take, its own cache and its own limit included."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total
    return int(min(free + unused, allowed - allocated))
