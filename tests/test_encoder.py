"""The encoder: padding and neighbors in the batch never change what it says about an image."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.densenet import DenseBlock, DenseLayer, DenseNet, Transition
from tests.benchmarks.kernels import count_kernels, encoder_step
from tests.plain import PlainDenseNet

SIZES = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 90)), min_size=1, max_size=4)


def encoder(layers: tuple[int, ...]) -> DenseNet:
    """A small encoder in eval mode whose BatchNorms do something, as after training."""
    torch.manual_seed(0)
    network = DenseNet(layers=layers, growth=4, stem=6, dropout=0.0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def batch_of(images: list[torch.Tensor], more: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (H, W) -> images (B, 1, H, W) with rubbish in the padding, and the padding."""
    height = max(image.shape[0] for image in images) + more
    width = max(image.shape[1] for image in images) + more
    stacked = torch.full((len(images), 1, height, width), 7.0)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        stacked[i, 0, : image.shape[0], : image.shape[1]] = image
        padding[i, : image.shape[0], : image.shape[1]] = False
    return stacked, padding


@pytest.mark.parametrize("layers", [(2, 2), (1, 2, 1)])
@given(sizes=SIZES, more=st.integers(0, 40), seed=st.integers(0, 100))
@settings(max_examples=12, deadline=None)
@torch.no_grad()
def test_an_image_alone_gives_the_same_features_as_in_any_batch(layers, sizes, more, seed):
    network = encoder(layers)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(size, generator=generator) for size in sizes]
    features, padding = network(*batch_of(images, more))
    for i, image in enumerate(images):
        alone, _ = network(image[None, None], torch.zeros(1, *image.shape, dtype=torch.bool))
        height, width = alone.shape[2:]
        assert (features[i, :, :height, :width] - alone[0]).abs().max() < 1e-5
        assert not padding[i, :height, :width].any() and padding[i].sum() == padding[i].numel() - height * width
        assert (features[i] * padding[i] == 0).all()


@pytest.mark.parametrize(("layers", "stride"), [((1,), 4), ((2, 2), 8), ((1, 1, 1), 16)])
def test_each_further_block_halves_the_grid(layers, stride):
    network = encoder(layers)
    features, padding = network(torch.rand(2, 1, 33, 50), torch.zeros(2, 33, 50, dtype=torch.bool))
    cells = (-(-33 // stride), -(-50 // stride))
    assert network.stride == stride
    assert features.shape == (2, network.channels, *cells) and padding.shape == (2, *cells)


def test_the_full_encoder_has_the_published_size():
    network = DenseNet(layers=(16, 16, 16), growth=24, compression=0.5)
    assert (network.channels, network.stride) == (684, 16)


def test_batch_norm_stays_in_full_precision_under_autocast():
    network = encoder((2, 2)).train()
    images, padding = torch.rand(3, 1, 30, 40), torch.zeros(3, 30, 40, dtype=torch.bool)
    full = network(images, padding)[0]
    seen = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: seen.append(module.running_mean.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        half = network(images, padding)[0]
    assert set(seen) == {torch.float32}
    assert (half.float() - full).abs().mean() < 0.02 * full.abs().mean()


def learnt(network: torch.nn.Module) -> list[torch.Tensor]:
    """What one training step of an encoder gives: features, gradients and BatchNorm's averages."""
    images, padding = batch_of([torch.ones(40, 90).tril(), torch.ones(25, 60).triu()])
    torch.manual_seed(1)  # of dropout
    features, _ = network.train()(images, padding)
    features.square().mean().backward()
    return [features, *(parameter.grad for parameter in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("bottleneck", [4, 2])
def test_the_fast_encoder_equals_the_plain_one(bottleneck):
    network = DenseNet(layers=(3, 4), growth=8, dropout=0.0, bottleneck=bottleneck)
    assert {layer.conv2.in_channels for block in network.blocks for layer in block} == {8 * bottleneck}
    plain = PlainDenseNet(copy.deepcopy(network))
    for fast, slow in zip(learnt(network.to(memory_format=torch.channels_last)), learnt(plain), strict=True):
        assert (fast - slow).abs().max() <= 1e-4 * slow.abs().max() + 1e-6


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("is_training", [True, False])
def test_the_written_out_passes_of_a_dense_block_equal_autograd(is_training, is_half, recompute):
    """With dropout, and some parameters frozen. Autograd sums the gradients of a map in another order."""

    def plainly(block: DenseBlock, features: torch.Tensor, is_valid: torch.Tensor) -> torch.Tensor:
        for layer in block:
            rows = features.permute(0, 2, 3, 1).flatten(0, 2)
            squeezed = layer.squeeze(rows, (len(features), *features.shape[2:]))
            features = torch.cat([features, layer.expand(squeezed, is_valid)], 1)
        return features

    torch.manual_seed(0)
    network = encoder((3,)).train(is_training)
    block = DenseBlock(network.blocks[0], recompute).train(is_training)
    for layer in block:
        layer.dropout = 0.3
    for frozen in (block[0].conv1.weight, block[1].norm2.bias, block[2].conv2.weight):
        frozen.requires_grad_(False)
    inputs = torch.randn(2, 6, 5, 7).to(memory_format=torch.channels_last)
    is_valid = torch.ones(2, 1, 5, 7)
    is_valid[1, :, 3:] = 0
    found = []
    for run, tested in ((plainly, copy.deepcopy(block)), (DenseBlock.forward, block)):
        features = inputs.to(torch.bfloat16 if is_half else torch.float32).requires_grad_()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            maps = run(tested, features, is_valid)
        (maps.float() * torch.linspace(-1, 1, maps.shape[1])[:, None, None]).square().sum().backward()
        found.append([maps, features.grad, *(p.grad for p in tested.parameters()), *tested.buffers()])
    for plain, written_out in zip(*found, strict=True):
        assert (plain is None) == (written_out is None)
        if plain is not None:
            assert plain.dtype == written_out.dtype
            difference = (plain.float() - written_out.float()).abs().max()
            assert difference <= (3e-2 if is_half else 1e-5) * plain.float().abs().max()


@pytest.mark.parametrize("is_half", [False, True])
def test_dropout_drops_its_share_and_keeps_the_mean(is_half):
    """Everywhere alike, and anew each time; a share is rounded to 256ths."""
    layer = DenseBlock([DenseLayer(6, 8, dropout=0.3)])
    with torch.no_grad():
        layer[0].norm2.weight.zero_()
        layer[0].norm2.bias.fill_(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if is_half else torch.float32
    features = torch.randn(5, 6, 60, 83).to(dtype, memory_format=torch.channels_last)
    once, again = (layer(features, torch.ones(5, 1, 60, 83))[:, 6:] for _ in range(2))
    is_kept = once > 0
    assert once[is_kept].float().allclose(torch.tensor(256 / (256 - 77)), rtol=1e-2 if is_half else 1e-6)
    for shares in (is_kept.float().mean((1, 2, 3)), is_kept.float().mean((0, 2, 3)), is_kept.float().mean((0, 1))):
        chance = (77 / 256 * 179 / 256 * shares.numel() / is_kept.numel()) ** 0.5
        assert (shares - 179 / 256).abs().max() <= 5 * chance
    assert abs(is_kept.float().mean() - 179 / 256) < 0.5 / 256
    assert abs((is_kept & (again > 0)).float().mean() - (179 / 256) ** 2) <= 0.01


def test_dropout_of_a_transition_keeps_the_mean():
    transition = Transition(6, 8, dropout=0.3)
    with torch.no_grad():
        transition.norm.weight.zero_()
        transition.norm.bias.fill_(1)
    torch.manual_seed(0)
    features = torch.randn(5, 6, 60, 84)
    pooled = transition(features)
    shares = (pooled * (256 - 77) / 256 * 4).round()  # how many of four positions are kept
    assert torch.allclose(pooled, shares / 4 * 256 / (256 - 77))
    assert {*shares.unique().tolist()} == {0, 1, 2, 3, 4}
    assert abs(pooled.mean() - 1) < 0.01
    assert transition.eval()(features).allclose(torch.ones(()))


def test_a_dense_layer_starts_few_kernels():
    """Of a training step, forward and backward; see tests/benchmarks/kernels.py. On a CPU a mask takes three."""
    few, more = (count_kernels(encoder_step((depth,), 4, 0.2, "fp32")) for depth in (2, 3))
    assert (more - few).total() <= 19, more - few


@pytest.mark.parametrize("is_half", [False, True])
def test_recomputing_changes_nothing_but_the_memory(is_half):
    network = DenseNet(layers=(3, 4), growth=8, dropout=0.2)
    again = DenseNet(layers=(3, 4), growth=8, dropout=0.2, recompute=True)
    again.load_state_dict(network.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        for kept, recomputed in zip(learnt(network), learnt(again), strict=True):
            assert torch.equal(kept, recomputed)


def test_memory_grows_with_the_layers_and_not_with_their_square():
    """Eight more layers keep what eight layers keep: nothing is concatenated once more for each of them."""

    def kept(depth: int) -> int:
        sizes = {}

        def count(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network = DenseNet(layers=(depth,), growth=8, dropout=0.0)
            features, _ = network(torch.rand(2, 1, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool))
        return sum(sizes.values())

    few, more, most = kept(8), kept(16), kept(24)
    assert most - more < 1.1 * (more - few)
