"""What ink learns from the standard image of the same label, under the same decoder.

Ink and type are laid out differently but share their tokens. So they are compared token by token: what the decoder
glimpses and expects at each token. All functions take what `Recognizer.teach` returned for the pupil and the teacher
(same labels, same order); the teacher gets no gradient. Each returns a scalar, a mean over real tokens, ends included.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decoder import PAD


def glimpse_cosine(pupil, teacher) -> Tensor:
    """1 - cosine between the two glimpses of each token."""
    cosine = F.cosine_similarity(pupil.glimpses.float(), teacher.glimpses.detach().float(), dim=-1)
    return _mean_over_tokens(1 - cosine, pupil.targets)


def glimpse_contrast(pupil, teacher, temperature: float = 0.1) -> Tensor:
    """InfoNCE (van den Oord et al., 2018): each glimpse of ink must find its own among all the teacher's in the batch.

    The same token at another place is no counter-example: its glimpse ought to look the same.
    """
    real = pupil.targets != PAD
    tokens = pupil.targets[real]
    ink = F.normalize(pupil.glimpses[real].float(), dim=-1)
    standard = F.normalize(teacher.glimpses[real].detach().float(), dim=-1)
    with torch.autocast(ink.device.type, enabled=False):
        similarity = ink @ standard.T / temperature
    own = torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    similarity = similarity.masked_fill((tokens[:, None] == tokens) & ~own, float("-inf"))
    return F.cross_entropy(similarity, torch.arange(len(tokens), device=tokens.device))


def distribution(pupil, teacher, temperature: float = 2.0) -> Tensor:
    """Divergence of the pupil's token distribution from the teacher's, KL(teacher || pupil), both softened.

    Times temperature squared, so that its gradient keeps its size: Hinton et al., 2015, section 2.
    """
    ink = (pupil.logits.float() / temperature).log_softmax(-1)
    standard = (teacher.logits.detach().float() / temperature).log_softmax(-1)
    divergence = F.kl_div(ink, standard, reduction="none", log_target=True).sum(-1)
    return _mean_over_tokens(divergence, pupil.targets) * temperature**2


def _mean_over_tokens(values: Tensor, targets: Tensor) -> Tensor:
    """values, targets: (R, L). By a mask: to pick the real tokens out, a GPU would be waited for."""
    real = targets != PAD
    return (values * real).sum() / real.sum()


def feature_map(pupil, teacher) -> Tensor:
    """Mean squared error between the two feature maps, cell by cell: the public baseline, for comparison.

    The maps of ink and type differ in size. The ink's, without its padding, is averaged down (or repeated up) to the
    cells of the teacher's, by the rule of adaptive average pooling.
    """
    ink, standard = pupil.features.float(), teacher.features.detach().float()
    with torch.autocast(ink.device.type, enabled=False):
        rows = _pooling(_extent(pupil.padding, 1), _extent(teacher.padding, 1), ink.shape[2], standard.shape[2])
        columns = _pooling(_extent(pupil.padding, 2), _extent(teacher.padding, 2), ink.shape[3], standard.shape[3])
        pooled = torch.einsum("byh,bchw,bxw->bcyx", rows, ink, columns)
    inside = (~teacher.padding)[:, None]
    return ((pooled - standard).square() * inside).sum() / (inside.sum() * ink.shape[1])


def _extent(padding: Tensor, side: int) -> Tensor:
    """Cells of each picture along one side of padding (B, h, w): (B,)."""
    return (~padding).any(3 - side).sum(1)


def _pooling(given: Tensor, wanted: Tensor, most_given: int, most_wanted: int) -> Tensor:
    """Weights (B, most_wanted, most_given) that average `given` (B,) cells into `wanted` (B,) ones, along one side."""
    given, wanted = given[:, None, None], wanted[:, None, None]
    to = torch.arange(most_wanted, device=given.device)[:, None]
    of = torch.arange(most_given, device=given.device)
    first = (to * given).div(wanted, rounding_mode="floor")
    last = ((to + 1) * given + wanted - 1).div(wanted, rounding_mode="floor")
    weights = ((of >= first) & (of < last) & (to < wanted) & (of < given)).float()
    return weights / weights.sum(2, keepdim=True).clamp(min=1)


def attention_to_boxes(taught, boxes: Tensor, stride: int) -> Tensor:
    """Attention supervision: minus the logarithm of the attention that falls into the cells of a token's own box.

    boxes: (B, L, 4) left, top, right, bottom in pixels of the pictures taught, one for each token of the labels; NaN
    where a token has no place (`{`, `^`): it has nothing to learn.   stride: pixels to a cell.   A cell counts when the
    box touches it.
    """
    boxes = boxes.repeat_interleave(len(taught.places) // len(boxes), 0)
    places = taught.places.clamp(min=0)[..., None].expand(-1, -1, 4)
    own = boxes.gather(1, places.clamp(max=boxes.shape[1] - 1))
    has_box = own.isfinite().all(-1) & (taught.places >= 0)
    left, top, right, bottom = own.nan_to_num().unbind(-1)

    def touched(low: Tensor, high: Tensor, cells: int) -> Tensor:
        start = torch.arange(cells, device=low.device) * stride
        return ((start + stride > low[..., None]) & (start < high[..., None])).float()

    height, width = taught.attention.shape[2:]
    with torch.autocast(boxes.device.type, enabled=False):
        mass = torch.einsum(
            "blhw,blh,blw->bl", taught.attention.float(), touched(top, bottom, height), touched(left, right, width)
        )
    loss = -(mass + 1e-6).log() * has_box
    return loss.sum() / (taught.targets != PAD).sum()


def symbol_map(taught, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. (RetinaNet), ICCV 2017, section 3; exponent 2) of the map of symbols.

    targets: (B, V, h, w), see symbol_targets().   The sum over the images' own feature positions, divided by the number
    of positive targets in the batch. An image without a positive target is left out: where its symbols lie is unknown.
    """
    logits = taught.symbols.float()
    with torch.autocast(logits.device.type, enabled=False):
        error = (targets - logits.sigmoid()).abs()
        focal = error.square() * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    is_known = targets.flatten(1).any(1)[:, None, None] & ~taught.padding
    return (focal * is_known[:, None]).sum() / targets.sum().clamp(min=1)
