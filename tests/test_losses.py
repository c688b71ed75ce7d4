"""The losses: what each one measures, and that the pieces of a batch add up."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataset.loading.batch import Batch, LoadedItem, collate
from dataset.vocabulary import Vocabulary
from models.decoders.interface import teacher_forcing
from models.losses import (
    LOSSES,
    UNITS,
    Objective,
    attention_to_boxes,
    context_contrast,
    context_cosine,
    distribution,
    feature_map,
)
from models.recognizer import ModelOutput, Recognizer
from utils.config import schema
from utils.special_tokens import PAD

PAIR_LOSSES = [context_cosine, context_contrast, distribution, feature_map]
each_loss = pytest.mark.parametrize("loss", PAIR_LOSSES, ids=lambda loss: loss.__name__)


def made_up_output(seed: int, size: tuple[int, int] = (4, 6), directions: int = 1) -> ModelOutput:
    """Made-up results for two images with labels of 3 and 2 tokens."""
    framed = teacher_forcing(torch.tensor([[3, 4, 5], [3, 6, 0]]), torch.tensor([3, 2]), directions)
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * directions
    padding = torch.zeros(2, *size, dtype=torch.bool)
    padding[1, :, size[1] // 2 :] = True
    attention = torch.randn(rows, 4, size[0] * size[1], generator=generator).softmax(-1)
    return ModelOutput(
        logits=torch.randn(rows, 4, 8, generator=generator).requires_grad_(),
        targets=framed.targets,
        label_indices=framed.label_indices,
        context=torch.randn(rows, 4, 16, generator=generator).requires_grad_(),
        attention=attention.view(rows, 4, *size).requires_grad_(),
        counts=None,
        symbols=None,
        features=torch.randn(2, 5, *size, generator=generator).requires_grad_(),
        padding=padding,
    )


@each_loss
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = made_up_output(0), made_up_output(1)
    loss(student, teacher).backward()
    assert all(value.grad is None for value in (teacher.logits, teacher.context, teacher.features))
    assert any(value.grad is not None for value in (student.logits, student.context, student.features))


@each_loss
def test_what_equals_the_teacher_has_nothing_to_learn(loss):
    assert loss(made_up_output(0), made_up_output(0)) < loss(made_up_output(1), made_up_output(0))
    if loss is not context_contrast:
        assert loss(made_up_output(0), made_up_output(0)).abs() < 1e-5


@each_loss
def test_padding_does_not_count(loss):
    student, teacher = made_up_output(0), made_up_output(1)
    is_padding = student.targets == PAD
    changed = student._replace(
        logits=student.logits.masked_fill(is_padding[..., None], 9.0),
        context=student.context.masked_fill(is_padding[..., None], 9.0),
        features=student.features.masked_fill(student.padding[:, None], 9.0),
    )
    assert is_padding.any()
    assert loss(changed, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-5)


def test_contrast_compares_a_context_vector_with_those_of_other_tokens():
    teacher = made_up_output(1)
    own = made_up_output(0)._replace(context=teacher.context.detach())
    shifted = own._replace(context=teacher.context.detach().roll(1, 1))
    assert context_contrast(own, teacher) < 0.1 < 2 < context_contrast(shifted, teacher)


def test_contrast_does_not_set_equal_tokens_against_each_other():
    teacher = made_up_output(1)
    context = teacher.context.detach().clone()
    context[1, 0] = context[0, 0]  # both labels begin with token 3
    same = teacher._replace(context=context)
    assert context_contrast(same, same) < 0.1


@pytest.mark.parametrize("wanted", [(4, 6), (2, 3), (7, 9), (3, 11)])
def test_feature_maps_of_different_sizes_are_pooled_as_adaptive_pooling_does(wanted):
    student, teacher = made_up_output(0), made_up_output(1, wanted)
    width = (6 // 2, wanted[1] // 2)
    losses = []
    for i, (mine, other) in enumerate([(6, wanted[1]), width]):
        pooled = F.adaptive_avg_pool2d(student.features[i, :, :, :mine], (wanted[0], other))
        losses.append((pooled - teacher.features[i, :, :, :other]).square().flatten())
    assert feature_map(student, teacher).item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_distributions_are_compared_at_a_temperature_of_two():
    student, teacher = made_up_output(0), made_up_output(1)
    is_token = student.targets != PAD
    ink, standard = ((output.logits / 2).softmax(-1)[is_token] for output in (student, teacher))
    divergence = (standard * (standard / ink).log()).sum(-1).mean()
    assert distribution(student, teacher).item() == pytest.approx(4 * divergence.item(), rel=1e-4)


def boxes() -> torch.Tensor:
    """One feature position of 8 pixels for each token of the made-up labels; the second token of label 2 has none."""
    left = torch.tensor([[0.0, 8.0, 16.0], [40.0, 0.0, 0.0]])
    result = torch.stack([left + 1, torch.full_like(left, 9.0), left + 7, torch.full_like(left, 15.0)], -1)
    result[1, 1:] = torch.nan
    return result


@pytest.mark.parametrize("directions", [1, 2])
def test_attention_inside_the_boxes_costs_nothing(directions):
    student = made_up_output(0, directions=directions)
    attention = torch.zeros_like(student.attention)
    for row, indices in enumerate(student.label_indices.tolist()):
        for position, index in enumerate(indices):
            left = boxes()[row // directions, max(index, 0), 0].nan_to_num()
            attention[row, position, 1, int(left) // 8] = 1.0
    assert attention_to_boxes(student._replace(attention=attention), boxes(), 8).abs() < 1e-5
    assert attention_to_boxes(student._replace(attention=attention.roll(1, 3)), boxes(), 8) > 5


def test_attention_is_drawn_to_the_boxes_of_tokens_that_have_one():
    student = made_up_output(0)
    attention_to_boxes(student, boxes(), 8).backward()
    gradient = student.attention.grad
    assert all(gradient[index] < 0 for index in ((0, 0, 1, 0), (0, 1, 1, 1), (1, 0, 1, 5)))
    assert (gradient[:, 3] == 0).all() and (gradient[1, 1:] == 0).all()  # the end, the padding, the token without a box
    assert (gradient[0, 0] != 0).sum() == 1


@pytest.mark.parametrize("decoder", ["gru", "transformer"])
def test_an_objective_can_draw_attention_to_the_boxes(decoder):
    torch.manual_seed(0)
    options = {
        "gru": {"hidden": 16, "embedding": 8, "attention": 8, "coverage_kernel": 3, "dropout": 0.0},
        "transformer": {"width": 16, "heads": 2, "layers": 1, "feed_forward": 16, "dropout": 0.0},
    }
    encoder = {"growth": 4, "layers": [2, 2], "compression": 0.5, "dropout": 0.0}
    model = Recognizer(7, encoder, decoder, options[decoder], domains=["handwritten"])
    objective = Objective(model, ["attention"])
    batch = TwoSymbols()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(batch)["attention"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


class TwoSymbols:
    """Two images of two symbols beside each other, in the one order and in the other."""

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
    assert attention_to_boxes(made_up_output(0), torch.full((2, 3, 4), torch.nan), 8) == 0


# ---- the objective ---------------------------------------------------------------------------------------------------


def model(**changes) -> Recognizer:
    torch.manual_seed(0)
    options = {"hidden": 16, "embedding": 8, "attention": 8, "coverage_kernel": 3, "dropout": 0.0}
    encoder = {"growth": 4, "layers": [2, 2], "compression": 0.5, "dropout": 0.0}
    return Recognizer(8, encoder, "gru", options, **{"counting": 8, "symbols": True, **changes}).eval()


def pairs(kind: str = "pairs") -> Batch:
    """Three pairs of different sizes, with labels of one, five and two tokens; the last token has no box."""
    random, items = np.random.default_rng(0), []
    for index, (size, label) in enumerate([((16, 24), [3]), ((24, 48), [4, 5, 3, 6, 7]), ((20, 33), [4, 3])]):
        ink = random.integers(0, 256, size, np.uint8)
        standard = random.integers(0, 256, (size[0] + 8, size[1] - 7), np.uint8)
        left = np.arange(len(label), dtype=np.float32) * 9
        boxes = np.stack([left, left * 0 + 2, left + 10, left * 0 + 14], 1)
        boxes[4:] = np.nan
        images = {"ink": ink if kind != "standard" else None, "standard": standard if kind != "ink" else None}
        items.append(LoadedItem(index, str(index), np.int32(label), **images, boxes=boxes))
    return collate(items)


def gradients(objective: Objective, parts: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of a batch in pieces, as the trainer adds them up."""
    objective.zero_grad()
    whole, total = objective.count_units(pairs()), 0.0
    for part in parts:
        counts = objective.count_units(part)
        loss = sum(value * (counts[objective.units[name]] / whole[objective.units[name]])
                   for name, value in objective(part).items())  # fmt: skip
        loss.backward()
        total += loss.item()
    return total, [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.is_divisible])
def test_the_pieces_of_a_batch_add_up_to_its_gradient(name):
    objective = Objective(model(), [name], label_smoothing=0.1, uncounted=[4])
    one, other = pairs().split()
    assert len(one) != len(other) and one.tokens / pairs().tokens != len(one) / len(pairs())
    whole, in_pieces = gradients(objective, [pairs()]), gradients(objective, [one, other])
    assert in_pieces[0] == pytest.approx(whole[0], rel=1e-4)
    assert any(gradient.abs().max() > 1e-4 for gradient in whole[1])
    for gradient, wanted in zip(in_pieces[1], whole[1], strict=True):
        assert (gradient - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-6


def test_contrast_says_that_it_cannot_be_split():
    objective = Objective(model(), ["label", "context_contrast"])
    assert objective.indivisible == ("context_contrast",)
    objective = Objective(model(), ["context_contrast"])
    assert gradients(objective, list(pairs().split()))[0] < 0.95 * gradients(objective, [pairs()])[0]
    assert Objective(model(), [name for name in LOSSES if name != "context_contrast"]).indivisible == ()


def test_an_empty_batch_has_no_units():
    assert Objective(model(), LOSSES).count_units(None) == dict.fromkeys(UNITS, 0)


def test_the_teacher_is_the_network_on_the_standard_image():
    network, batch = model(), pairs()
    student, teacher = (
        network(batch.images(domain), batch.padding(domain), batch.labels, batch.lengths, domain)
        for domain in ("handwritten", "standard")
    )
    found = Objective(network, ["context_cosine", "distribution", "feature_map"])(batch)
    assert found["context_cosine"] == context_cosine(student, teacher) > 0.01
    assert found["distribution"] == distribution(student, teacher) > 1e-6
    assert found["feature_map"] == feature_map(student, teacher) > 0.01


def test_the_teacher_is_given_the_right_inputs_and_no_gradient():
    network, batch, inputs = model().train(), pairs(), []
    network.decoder.register_forward_pre_hook(lambda module, given: inputs.append((given[0].requires_grad, given[2])))
    Objective(network, ["context_cosine"], input_noise=0.9)(batch)
    (student_learns, noisy), (teacher_learns, right) = inputs
    assert torch.equal(right, teacher_forcing(batch.labels, batch.lengths, 1).inputs)
    assert not torch.equal(noisy, right) and student_learns and not teacher_learns


@pytest.mark.parametrize(
    ("kind", "domain"), [("ink", "handwritten"), ("standard", "standard"), ("pairs", "handwritten")]
)
def test_labels_are_learnt_from_ink_where_there_is_any(kind, domain):
    network, batch = model(), pairs(kind)
    output = network(batch.images(domain), batch.padding(domain), batch.labels, batch.lengths, domain)
    wanted = F.cross_entropy(output.logits.flatten(0, 1), output.targets.flatten(), ignore_index=PAD)
    assert Objective(network, ["label"])(batch)["label"].item() == pytest.approx(wanted.item())


def test_label_smoothing_gives_a_share_of_the_target_to_all_tokens():
    network, batch = model(), pairs()
    plain, smooth = (Objective(network, ["label"], share)(batch)["label"].item() for share in (0.0, 0.3))
    output = network(batch.images("handwritten"), batch.padding("handwritten"), batch.labels, batch.lengths)
    log_probabilities = output.logits.log_softmax(-1)[output.targets != PAD]
    uniform = -log_probabilities.mean().item()
    assert smooth == pytest.approx(0.7 * plain + 0.3 * uniform, rel=1e-5) and abs(smooth - plain) > 1e-3


def test_what_is_not_counted_does_not_change_the_loss():
    network, batch = model(), pairs()
    with torch.no_grad():
        for counter in network.counting.counters:
            counter.symbols.bias[4] = -100.0  # predicts none of token 4, which occurs twice
    counted, uncounted = (Objective(network, ["counting"], uncounted=ids)(batch)["counting"] for ids in ((), (4,)))
    assert uncounted.item() == pytest.approx(counted.item() - 2 * 0.5 / (3 * 8), rel=1e-4)


def test_the_vocabulary_names_what_has_no_ink():
    vocabulary = Vocabulary(["+", "\\frac", "^", "_", "{", "}"])
    assert vocabulary.decode(vocabulary.inkless) == ["^", "_", "{", "}"]


def test_the_config_knows_the_same_losses():
    assert set(schema.LOSSES) == set(LOSSES)
    assert set(schema.FORMER_LOSSES.values()) <= set(LOSSES)
    assert set(schema.BOX_LOSSES) == {name for name, loss in LOSSES.items() if "boxes" in loss.needs}
    assert set(schema.PAIR_LOSSES) == {name for name, loss in LOSSES.items() if "pairs" in loss.needs} | {
        *schema.FORMER_LOSSES
    }


def test_former_names_mean_what_they_meant():
    network, batch = model(), pairs()
    found, wanted = (
        Objective(network, names)(batch) for names in (schema.FORMER_LOSSES, schema.FORMER_LOSSES.values())
    )
    assert list(found) == ["glimpse_cosine", "glimpse_contrast"] and list(found.values()) == list(wanted.values())


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="lable: unknown loss; known: label, counting"):
        Objective(model(), ["lable"])
