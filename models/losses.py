"""What a stage minimizes. LOSSES lists every loss, and an Objective computes those that a stage names from one batch.

To add a loss, write its function here, give it a line in LOSSES, and add its name to LOSSES in utils/config/schema.py,
and to PAIR_LOSSES or BOX_LOSSES there where it needs those; a test compares the tables. A loss is a scalar, the mean of
its unit, so that the losses of the pieces of a batch, weighted by the units they hold, add up to the loss of the whole.

In stages that show pairs, the student is the network on ink, and the teacher the same decoder on the standard image of
the same label, without gradient. The two images are laid out differently but have the same tokens, so most losses
compare them token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.counting import true_counts
from models.recognizer import ModelOutput, Recognizer
from models.symbols import symbol_targets
from utils.config.schema import FORMER_LOSSES
from utils.special_tokens import PAD

if TYPE_CHECKING:
    from utils.config.schema import StageConfig, TrainingConfig


def _mean_over_tokens(values: Tensor, targets: Tensor) -> Tensor:
    """values, targets: (R, L). With a mask: indexing by one would make the CPU wait for the GPU."""
    is_token = targets != PAD
    return (values * is_token).sum() / is_token.sum()


# ---- losses of one image ---------------------------------------------------------------------------------------------


def label_loss(output: ModelOutput, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the tokens of the batch, ends included, padding not."""
    logits = output.logits.flatten(0, 1).float()
    return F.cross_entropy(logits, output.targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)


def counting_loss(counts: Tensor, labels: Tensor, uncounted: Sequence[int] = ()) -> Tensor:
    """Smooth L1 between counts (B, V) and the true ones of labels (B, L), padded with 0: Li et al. (CAN), ECCV 2022.

    uncounted: ids without ink of their own (braces, `^`, `_`), which the paper does not count.
    """
    return F.smooth_l1_loss(counts, true_counts(labels, counts.shape[1], uncounted))


def attention_to_boxes(output: ModelOutput, boxes: Tensor, stride: int) -> Tensor:
    """Attention supervision: minus the logarithm of the attention that falls on a token's own box, mean over tokens.

    boxes: (B, L, 4) left, top, right, bottom in pixels of the images, one for each token of the labels; NaN where a
    token has no ink (`{`, `^`) or its place is not known: such a token adds zero.   stride: pixels per feature
    position. A position belongs to a box when it overlaps with it.
    """
    boxes = boxes.repeat_interleave(len(output.label_indices) // len(boxes), 0)
    indices = output.label_indices.clamp(min=0)[..., None].expand(-1, -1, 4)
    own = boxes.gather(1, indices.clamp(max=boxes.shape[1] - 1))
    has_box = own.isfinite().all(-1) & (output.label_indices >= 0)
    left, top, right, bottom = own.nan_to_num().unbind(-1)

    def overlapping(low: Tensor, high: Tensor, length: int) -> Tensor:
        start = torch.arange(length, device=low.device) * stride
        return ((start + stride > low[..., None]) & (start < high[..., None])).float()

    height, width = output.attention.shape[2:]
    rows, columns = overlapping(top, bottom, height), overlapping(left, right, width)
    with torch.autocast(boxes.device.type, enabled=False):
        mass = torch.einsum("blhw,blh,blw->bl", output.attention.float(), rows, columns)
    loss = -(mass + 1e-6).log() * has_box
    return loss.sum() / (output.targets != PAD).sum()


def symbol_map_loss(output: ModelOutput, targets: Tensor) -> Tensor:
    """Cross-entropy of the map of symbols where symbols have their middle, over the number of such positives.

    targets: (B, V, h, w), see symbol_targets(). Positions without a symbol add nothing, nor does an image that has no
    symbol in a known place. A sigmoid focal loss over all positions (Lin et al. (RetinaNet), ICCV 2017) learns slower:
    after 90 s of one core it names 39 % of the symbols of ink, this loss 50 %.
    """
    with torch.autocast(output.symbols.device.type, enabled=False):
        log_probabilities = output.symbols.float().log_softmax(1)
    return -(targets * log_probabilities).sum() / targets.sum().clamp(min=1)


# ---- losses of pairs -------------------------------------------------------------------------------------------------


def context_cosine(student: ModelOutput, teacher: ModelOutput) -> Tensor:
    """1 - cosine between the two context vectors of each token."""
    cosine = F.cosine_similarity(student.context.float(), teacher.context.detach().float(), dim=-1)
    return _mean_over_tokens(1 - cosine, student.targets)


def context_contrast(student: ModelOutput, teacher: ModelOutput, temperature: float = 0.1) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): each context vector of ink against all of the teacher's in the batch.

    The same token elsewhere is no negative: its context vector should be similar.
    """
    is_token = student.targets != PAD
    tokens = student.targets[is_token]
    ink = F.normalize(student.context[is_token].float(), dim=-1)
    standard = F.normalize(teacher.context[is_token].detach().float(), dim=-1)
    with torch.autocast(ink.device.type, enabled=False):
        similarity = ink @ standard.T / temperature
    own = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    similarity = similarity.masked_fill((tokens[:, None] == tokens) & ~own, float("-inf"))
    return F.cross_entropy(similarity, torch.arange(len(tokens), device=tokens.device))


def distribution(student: ModelOutput, teacher: ModelOutput, temperature: float = 2.0) -> Tensor:
    """Divergence of the student's token distribution from the teacher's, KL(teacher || student), both softened.

    Times temperature squared, so that its gradient keeps its size: Hinton et al., 2015, section 2.
    """
    ink = (student.logits.float() / temperature).log_softmax(-1)
    standard = (teacher.logits.detach().float() / temperature).log_softmax(-1)
    divergence = F.kl_div(ink, standard, reduction="none", log_target=True).sum(-1)
    return _mean_over_tokens(divergence, student.targets) * temperature**2


def feature_map(student: ModelOutput, teacher: ModelOutput) -> Tensor:
    """Mean squared error between the two feature maps, position by position: the public code of this method has it.

    The maps of ink and type differ in size. The ink's, without its padding, is averaged down (or repeated up) to the
    size of the teacher's, by the rule of adaptive average pooling.
    """
    ink, standard = student.features.float(), teacher.features.detach().float()
    with torch.autocast(ink.device.type, enabled=False):
        rows = _pooling(_extent(student.padding, 1), _extent(teacher.padding, 1), ink.shape[2], standard.shape[2])
        columns = _pooling(_extent(student.padding, 2), _extent(teacher.padding, 2), ink.shape[3], standard.shape[3])
        pooled = torch.einsum("byh,bchw,bxw->bcyx", rows, ink, columns)
    is_valid = (~teacher.padding)[:, None]
    return ((pooled - standard).square() * is_valid).sum() / (is_valid.sum() * ink.shape[1])


def _extent(padding: Tensor, side: int) -> Tensor:
    """Feature positions of each image along one side of padding (B, h, w): (B,)."""
    return (~padding).any(3 - side).sum(1)


def _pooling(given: Tensor, wanted: Tensor, max_given: int, max_wanted: int) -> Tensor:
    """Weights (B, max_wanted, max_given) that average `given` (B,) positions into `wanted` (B,), along one side."""
    given, wanted = given[:, None, None], wanted[:, None, None]
    target = torch.arange(max_wanted, device=given.device)[:, None]
    source = torch.arange(max_given, device=given.device)
    first = (target * given).div(wanted, rounding_mode="floor")
    last = ((target + 1) * given + wanted - 1).div(wanted, rounding_mode="floor")
    weights = ((source >= first) & (source < last) & (target < wanted) & (source < given)).float()
    return weights / weights.sum(2, keepdim=True).clamp(min=1)


# ---- the table -------------------------------------------------------------------------------------------------------


class TrainingBatch(Protocol):
    """What the losses ask of a batch; see dataset/loading/batch.py."""

    labels: Tensor  # (B, L) ids without start and end, padded with 0
    lengths: Tensor  # (B,)
    tokens: int  # of the labels, ends included
    ink: Tensor | None
    standard: Tensor | None
    boxes: Tensor | None  # (B, L, 4), see attention_to_boxes(); needed by losses that say so

    def __len__(self) -> int: ...

    def images(self, domain: str) -> Tensor: ...

    def padding(self, domain: str) -> Tensor: ...


@dataclass(frozen=True)
class LossInputs:
    """What a loss may use."""

    student: ModelOutput
    teacher: ModelOutput | None  # where the stage shows pairs
    labels: Tensor
    boxes: Tensor | None
    stride: int  # pixels per feature position
    label_smoothing: float
    uncounted: Sequence[int]  # ids that the counting head does not count

    def symbol_targets(self) -> Tensor:
        vocabulary_size = self.student.symbols.shape[1]
        return symbol_targets(self.labels, self.boxes, self.student.padding, self.stride, vocabulary_size)


@dataclass(frozen=True)
class Loss:
    """function: its value on a batch.   unit: what it is a mean over, one of UNITS.   needs: "boxes", "pairs", or a
    head of the model, "counting" or "symbols".   is_divisible: whether the losses of pieces add up to that of the
    batch. One that compares the samples of a batch with each other is not; over several processes, each compares those
    of its own batch.   decodes: whether it asks for what the decoder says, and not for encoder and heads alone.
    """

    function: Callable[[LossInputs], Tensor]
    unit: str = "tokens"
    needs: tuple[str, ...] = ()
    is_divisible: bool = True
    decodes: bool = True


LOSSES = {
    "label": Loss(lambda given: label_loss(given.student, given.label_smoothing)),
    "counting": Loss(
        lambda given: counting_loss(given.student.counts, given.labels, given.uncounted),
        unit="images",
        needs=("counting",),
        decodes=False,
    ),
    "attention": Loss(
        lambda given: attention_to_boxes(given.student, given.boxes, given.stride),
        needs=("boxes",),
    ),
    "symbols": Loss(
        lambda given: symbol_map_loss(given.student, given.symbol_targets()),
        unit="symbol_positions",
        needs=("boxes", "symbols"),
        decodes=False,
    ),
    "context_cosine": Loss(
        lambda given: context_cosine(given.student, given.teacher),
        needs=("pairs",),
    ),
    "context_contrast": Loss(
        lambda given: context_contrast(given.student, given.teacher),
        needs=("pairs",),
        is_divisible=False,
    ),
    "distribution": Loss(
        lambda given: distribution(given.student, given.teacher),
        needs=("pairs",),
    ),
    "feature_map": Loss(
        lambda given: feature_map(given.student, given.teacher),
        unit="feature_positions",
        needs=("pairs",),
        decodes=False,
    ),
}

# How many of each unit a batch has. Tensors are left on their device, so that the CPU need not wait for a GPU.
UNITS: dict[str, Callable[[Recognizer, TrainingBatch], int | Tensor]] = {
    "tokens": lambda model, batch: batch.tokens,
    "images": lambda model, batch: len(batch),
    "feature_positions": lambda model, batch: (~_feature_padding(model, batch, "standard")).sum(),
    # At least one, to be divided by: without a positive target the loss is zero.
    "symbol_positions": lambda model, batch: _targets_of_batch(model, batch).sum().clamp(min=1),
}


def _feature_padding(model: Recognizer, batch: TrainingBatch, domain: str) -> Tensor:
    """The padding that the encoder returns: (B, h, w)."""
    stride = model.encoder(domain).stride
    return batch.padding(domain)[:, ::stride, ::stride]


def _targets_of_batch(model: Recognizer, batch: TrainingBatch) -> Tensor:
    domain = _domain(batch)
    padding = _feature_padding(model, batch, domain)
    return symbol_targets(batch.labels, batch.boxes, padding, model.encoder(domain).stride, model.vocabulary_size)


def _domain(batch: TrainingBatch) -> str:
    return "standard" if batch.ink is None else "handwritten"


class Objective(nn.Module):
    """forward(batch) -> {name: loss}, for each loss that a stage names, the mean over its unit.

    A batch with ink and standard images is one of pairs. The teacher is given no input noise.

    label_smoothing: of the label loss.   input_noise: see Recognizer.forward().   uncounted: see counting_loss().
    Raises ValueError for a loss that is not known.
    """

    def __init__(
        self,
        model: Recognizer,
        names: Iterable[str],
        label_smoothing: float = 0.0,
        input_noise: float = 0.0,
        uncounted: Sequence[int] = (),
    ):
        super().__init__()
        self.model, self.label_smoothing, self.input_noise = model, label_smoothing, input_noise
        self.uncounted = tuple(uncounted)
        self.losses: dict[str, Loss] = {}
        for name in names:
            if FORMER_LOSSES.get(name, name) not in LOSSES:
                raise ValueError(f"{name}: unknown loss; known: {', '.join(LOSSES)}")
            self.losses[name] = LOSSES[FORMER_LOSSES.get(name, name)]

    @classmethod
    def of(
        cls, model: Recognizer, stage: StageConfig, training: TrainingConfig, uncounted: Sequence[int] = ()
    ) -> Objective:
        """What a stage of a configuration minimizes: the losses that have a weight."""
        names = [name for name, weight in stage.losses.items() if weight]
        return cls(model, names, training.label_smoothing, training.input_noise, uncounted)

    @property
    def units(self) -> dict[str, str]:
        """What each loss is a mean over: {name: unit}."""
        return {name: loss.unit for name, loss in self.losses.items()}

    @property
    def indivisible(self) -> tuple[str, ...]:
        """The losses that must see a batch as a whole: in pieces they would have another gradient."""
        return tuple(name for name, loss in self.losses.items() if not loss.is_divisible)

    @property
    def decodes(self) -> bool:
        """Whether any loss asks for what the decoder says; it is left out else."""
        return any(loss.decodes for loss in self.losses.values())

    def count_units(self, batch: TrainingBatch | None) -> dict[str, int | Tensor]:
        """How many of each unit a batch, or a piece of one, has: {unit: number}.   None, an empty batch, has none.

        The loss of each piece, times its units, divided by those of the whole batch: these add up to the whole's loss.
        """
        units = ("tokens", "images", *self.units.values())
        return {unit: UNITS[unit](self.model, batch) if batch else 0 for unit in dict.fromkeys(units)}

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        domain = _domain(batch)
        student, teacher = self._output(batch, domain, self.input_noise), None
        if any("pairs" in loss.needs for loss in self.losses.values()):
            with torch.no_grad():
                teacher = self._output(batch, "standard")
        stride = self.model.encoder(domain).stride
        given = LossInputs(student, teacher, batch.labels, batch.boxes, stride, self.label_smoothing, self.uncounted)
        return {name: loss.function(given) for name, loss in self.losses.items()}

    def _output(self, batch: TrainingBatch, domain: str, input_noise: float = 0.0) -> ModelOutput:
        images, padding = batch.images(domain), batch.padding(domain)
        return self.model(images, padding, batch.labels, batch.lengths, domain, input_noise, self.decodes)
