"""Muon: which weights it takes, what its steps look like, and that it resumes."""

import pytest
import torch
from torch import nn

from utils.training.muon import Muon, hidden_matrices, orthogonalized


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3)
        self.conv = nn.Conv2d(6, 4, 3)
        self.embedding = nn.Embedding(9, 4)
        self.hidden = nn.Linear(4, 5)
        self.output = nn.Linear(5, 9)


def optimizer_of(model: nn.Module) -> Muon:
    hidden = {id(weight) for weight in hidden_matrices(model)}
    others = [weight for weight in model.parameters() if id(weight) not in hidden]
    return Muon([{"params": hidden_matrices(model), "is_hidden": True}, {"params": others}], lr=0.01)


def test_directions_stay_and_all_are_equally_long():
    torch.manual_seed(0)
    for size in ((20, 30), (30, 20)):
        matrices = torch.randn(3, *size)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        lengths = left.mT @ torch.stack(orthogonalized(matrices.unbind())) @ right.mT
        along = lengths.diagonal(dim1=1, dim2=2)
        assert 0.6 < along.min() and along.max() < 1.25
        assert (lengths - torch.diag_embed(along)).abs().max() < 1e-4
    assert torch.equal(orthogonalized([torch.zeros(3, 4)])[0], torch.zeros(3, 4))


def test_matrices_with_a_side_alike_do_not_touch_each_other():
    torch.manual_seed(0)
    matrices = [torch.randn(*size) for size in ((4, 30), (9, 4), (5, 8), (4, 4))]
    together = orthogonalized(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        assert found.shape == matrix.shape
        assert torch.allclose(found, orthogonalized([matrix])[0], atol=1e-5)


def test_hidden_are_the_matrices_between_features():
    model = Network()
    assert [id(weight) for weight in hidden_matrices(model)] == [id(model.conv.weight), id(model.hidden.weight)]


def test_the_parts_whose_matrices_count_can_be_chosen():
    model = nn.ModuleDict({"handwritten_encoder": Network(), "decoder": Network(), "symbol_map": Network()})
    for parts, own in ((["encoder"], "handwritten_encoder"), (["decoder"], "decoder")):
        wanted = [id(weight) for weight in hidden_matrices(model[own])]
        assert [id(weight) for weight in hidden_matrices(model, parts)] == wanted
    assert len(hidden_matrices(model)) == 6


def test_a_step_has_the_size_that_the_rate_says_whatever_the_gradient():
    model = Network()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight) * 1000
    optimizer_of(model).step()
    steps = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    singular = torch.linalg.svdvals(steps["conv.weight"].flatten(1))
    assert 0.03 < singular.min() and singular.max() < 0.0625
    assert steps["output.weight"].abs() == pytest.approx(torch.full((9, 5), 0.01), rel=1e-3)  # AdamW's first step


def test_a_resumed_optimizer_goes_on_as_if_never_stopped():
    def train(model, optimizer, steps, first):
        for step in range(first, first + steps):
            generator = torch.Generator().manual_seed(step)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()

    torch.manual_seed(0)
    whole, resumed = Network(), Network()
    resumed.load_state_dict(whole.state_dict())
    train(whole, optimizer_of(whole), 4, 0)
    first = optimizer_of(resumed)
    train(resumed, first, 2, 0)
    second = optimizer_of(resumed)
    second.load_state_dict(first.state_dict())
    train(resumed, second, 2, 2)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_saved_state_goes_to_the_device_of_its_weights_counts_of_steps_too():
    """Where they lay elsewhere, the kernel of AdamW's steps would refuse them."""
    model = Network()
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    saved = optimizer_of(model)
    saved.step()
    elsewhere = optimizer_of(model.to("meta"))
    elsewhere.load_state_dict(saved.state_dict())
    states = elsewhere.state.values()
    assert {name for state in states for name in state} == {"momentum", "step", "mean", "square"}
    assert all(value.is_meta for state in states for value in state.values())


@pytest.mark.parametrize("size", [(8, 4), (3, 6)])
def test_steps_have_nesterovs_momentum_decay_and_the_factor_of_matrices_with_more_rows(size):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(size))
    wanted, average = weight.detach().clone(), torch.zeros(size)
    optimizer = Muon([{"params": [weight], "is_hidden": True}], lr=0.01, hidden_factor=3.0, weight_decay=0.5)
    for _ in range(3):
        weight.grad = torch.randn(size)
        optimizer.step()
        average = 0.95 * average + 0.05 * weight.grad
        (direction,) = orthogonalized([0.05 * weight.grad + 0.95 * average])
        wanted = wanted * (1 - 0.01 * 0.5) - 0.01 * 3.0 * max(1, size[0] / size[1]) ** 0.5 * direction
        assert torch.allclose(weight, wanted, atol=1e-6)


def test_all_other_weights_take_the_steps_of_adamw():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 5))
    twin = nn.Parameter(weight.detach().clone())
    optimizers = [Muon([{"params": [weight]}], lr=0.01, weight_decay=0.1)]
    optimizers.append(torch.optim.AdamW([twin], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1))
    for _ in range(4):
        weight.grad = torch.randn(4, 5)
        twin.grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(weight, twin, atol=1e-6)
