"""What ink learns from the standard image: losses per token, and attention drawn to boxes."""

import pytest
import torch
from torch.nn import functional as F

from models import alignment
from models.decoder import PAD, frame
from models.objective import Objective
from models.recognizer import Recognizer, Taught

LOSSES = [alignment.glimpse_cosine, alignment.glimpse_contrast, alignment.distribution, alignment.feature_map]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def taught(seed: int, cells: tuple[int, int] = (4, 6), directions: int = 1) -> Taught:
    """Made-up results for two pictures with labels of 3 and 2 tokens."""
    framed = frame(torch.tensor([[3, 4, 5], [3, 6, 0]]), torch.tensor([3, 2]), directions)
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * directions
    padding = torch.zeros(2, *cells, dtype=torch.bool)
    padding[1, :, cells[1] // 2 :] = True
    attention = torch.randn(rows, 4, cells[0] * cells[1], generator=generator).softmax(-1)
    return Taught(
        logits=torch.randn(rows, 4, 8, generator=generator).requires_grad_(),
        targets=framed.targets,
        places=framed.places,
        glimpses=torch.randn(rows, 4, 16, generator=generator).requires_grad_(),
        attention=attention.view(rows, 4, *cells).requires_grad_(),
        counts=None,
        features=torch.randn(2, 5, *cells, generator=generator).requires_grad_(),
        padding=padding,
    )


@each_loss
def test_the_teacher_gets_no_gradient(loss):
    pupil, teacher = taught(0), taught(1)
    loss(pupil, teacher).backward()
    assert all(value.grad is None for value in (teacher.logits, teacher.glimpses, teacher.features))
    assert any(value.grad is not None for value in (pupil.logits, pupil.glimpses, pupil.features))


@each_loss
def test_what_equals_the_teacher_has_nothing_to_learn(loss):
    assert loss(taught(0), taught(0)) < loss(taught(1), taught(0))
    if loss is not alignment.glimpse_contrast:
        assert loss(taught(0), taught(0)).abs() < 1e-5


@each_loss
def test_padding_does_not_count(loss):
    pupil, teacher = taught(0), taught(1)
    is_padding = pupil.targets == PAD
    changed = pupil._replace(
        logits=pupil.logits.masked_fill(is_padding[..., None], 9.0),
        glimpses=pupil.glimpses.masked_fill(is_padding[..., None], 9.0),
        features=pupil.features.masked_fill(pupil.padding[:, None], 9.0),
    )
    assert is_padding.any()
    assert loss(changed, teacher).item() == pytest.approx(loss(pupil, teacher).item(), rel=1e-5)


def test_contrast_asks_for_the_own_glimpse_among_those_of_other_tokens():
    teacher = taught(1)
    own = taught(0)._replace(glimpses=teacher.glimpses.detach())
    shifted = own._replace(glimpses=teacher.glimpses.detach().roll(1, 1))
    assert alignment.glimpse_contrast(own, teacher) < 0.1 < 2 < alignment.glimpse_contrast(shifted, teacher)


def test_contrast_does_not_set_equal_tokens_against_each_other():
    teacher = taught(1)
    glimpses = teacher.glimpses.detach().clone()
    glimpses[1, 0] = glimpses[0, 0]  # both labels begin with token 3
    same = teacher._replace(glimpses=glimpses)
    assert alignment.glimpse_contrast(same, same) < 0.1


@pytest.mark.parametrize("wanted", [(4, 6), (2, 3), (7, 9), (3, 11)])
def test_feature_maps_of_different_sizes_are_pooled_as_adaptive_pooling_does(wanted):
    pupil, teacher = taught(0), taught(1, wanted)
    width = (6 // 2, wanted[1] // 2)
    losses = []
    for i, (mine, other) in enumerate([(6, wanted[1]), width]):
        pooled = F.adaptive_avg_pool2d(pupil.features[i, :, :, :mine], (wanted[0], other))
        losses.append((pooled - teacher.features[i, :, :, :other]).square().flatten())
    assert alignment.feature_map(pupil, teacher).item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def boxes() -> torch.Tensor:
    """One 8-pixel cell each for the tokens of the made-up labels; the second token of label 2 has no place."""
    left = torch.tensor([[0.0, 8.0, 16.0], [40.0, 0.0, 0.0]])
    result = torch.stack([left + 1, torch.full_like(left, 9.0), left + 7, torch.full_like(left, 15.0)], -1)
    result[1, 1:] = torch.nan
    return result


@pytest.mark.parametrize("directions", [1, 2])
def test_attention_inside_the_boxes_costs_nothing(directions):
    pupil = taught(0, directions=directions)
    attention = torch.zeros_like(pupil.attention)
    for row, places in enumerate(pupil.places.tolist()):
        for position, place in enumerate(places):
            left = boxes()[row // directions, max(place, 0), 0].nan_to_num()
            attention[row, position, 1, int(left) // 8] = 1.0
    assert alignment.attention_to_boxes(pupil._replace(attention=attention), boxes(), 8).abs() < 1e-5
    assert alignment.attention_to_boxes(pupil._replace(attention=attention.roll(1, 3)), boxes(), 8) > 5


def test_attention_is_drawn_to_the_boxes_of_tokens_that_have_one():
    pupil = taught(0)
    alignment.attention_to_boxes(pupil, boxes(), 8).backward()
    gradient = pupil.attention.grad
    assert (gradient[0, 0, 1, 0], gradient[0, 1, 1, 1], gradient[1, 0, 1, 5]) < (0.0, 0.0, 0.0)
    assert (gradient[:, 3] == 0).all() and (gradient[1, 1:] == 0).all()  # the end, the padding, the placeless token
    assert (gradient[0, 0] != 0).sum() == 1


def test_each_real_token_weighs_the_same_so_that_pieces_of_a_batch_add_up():
    whole = taught(0)
    together = alignment.attention_to_boxes(whole, boxes(), 8) * 7  # 4 and 3 real tokens, ends included
    parts = []
    for i, tokens in enumerate((4, 3)):
        rows = whole._replace(targets=whole.targets[i, None], places=whole.places[i, None],
                              attention=whole.attention[i, None])  # fmt: skip
        parts.append(alignment.attention_to_boxes(rows, boxes()[i, None], 8) * tokens)
    assert sum(parts).item() == pytest.approx(together.item(), rel=1e-5)


@pytest.mark.parametrize("decoder", ["gru", "transformer"])
def test_the_objective_draws_attention_to_the_boxes(decoder):
    torch.manual_seed(0)
    options = {
        "gru": {"hidden": 16, "embedding": 8, "attention": 8, "coverage_kernel": 3, "dropout": 0.0},
        "transformer": {"width": 16, "heads": 2, "layers": 1, "feed_forward": 16, "dropout": 0.0},
    }
    encoder = {"growth": 4, "layers": [2, 2], "compression": 0.5, "dropout": 0.0}
    model = Recognizer(7, encoder, decoder, options[decoder], domains=["handwritten"])
    objective = Objective(model, ["attention"])
    assert objective.units == {"attention": "tokens"}
    batch = MadeUpBatch()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(batch)["attention"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


class MadeUpBatch:
    """Two pictures of two symbols beside each other, in the one order and in the other."""

    ink, standard = True, None
    labels, lengths = torch.tensor([[3, 4], [4, 3]]), torch.tensor([2, 2])
    boxes = torch.tensor([[[2.0, 2, 14, 14], [18, 2, 30, 14]]]).expand(2, -1, -1)

    def images(self, domain):
        images = torch.zeros(2, 1, 16, 32)
        for row, (stripes, cross) in enumerate(((2, 18), (18, 2))):
            images[row, 0, 2:14:3, stripes : stripes + 12] = 1
            images[row, 0, 2:14, cross + 5 : cross + 7] = 1
        return images

    def padding(self, domain):
        return torch.zeros(2, 16, 32, dtype=torch.bool)


def test_without_any_box_attention_is_left_alone():
    assert alignment.attention_to_boxes(taught(0), torch.full((2, 3, 4), torch.nan), 8) == 0
