"""Published weights: small, and they read what the run's own weights read."""

import pytest
import torch

from models.recognizer import Ensemble, Recognizer
from utils.errors import CheckpointError
from utils.training.publish import publish
from utils.training.run_folder import load_checkpoint, load_weights, save_checkpoint

OPTIONS = {"hidden": 32, "embedding": 32, "attention": 32, "coverage_kernel": 3}


def trained(path, seed=0, growth=8, dropout=0.5, **changes):
    torch.manual_seed(seed)
    model = Recognizer(9, {"growth": growth, "layers": [3, 3]}, "gru", OPTIONS | {"dropout": dropout}, counting=8)
    about = {"architecture": model.architecture(), "vocabulary": list("abcdef"), "data": {}, "stage": "handwritten"}
    save_checkpoint(path, model.state_dict(), about | changes)
    return path


@pytest.fixture
def source(tmp_path):
    return trained(tmp_path / "best.safetensors")


def read(path):
    checkpoint = load_checkpoint(path)
    model = Ensemble.from_architecture(checkpoint.about["architecture"])
    load_weights(model, checkpoint)
    images = (torch.rand(3, 1, 30, 60, generator=torch.Generator().manual_seed(1)) > 0.8).float()
    return model.eval().read(images, torch.zeros(3, 30, 60, dtype=torch.bool)), checkpoint


def test_published_weights_read_the_same_from_less_than_half_the_bytes(source, tmp_path):
    size = publish(source, tmp_path / "small.safetensors")
    assert size < 0.4 * source.stat().st_size
    (before, _), (after, checkpoint) = read(source), read(tmp_path / "small.safetensors")
    assert [each.tokens for each in before] == [each.tokens for each in after]
    assert [each.score for each in before] == pytest.approx([each.score for each in after], abs=0.02)
    assert checkpoint.about["stage"] == "handwritten" and checkpoint.about["vocabulary"] == list("abcdef")


def test_a_weight_too_large_for_16_bits_is_named(source, tmp_path):
    checkpoint = load_checkpoint(source)
    checkpoint.weights["decoder.output.bias"][0] = 1e6
    save_checkpoint(source, checkpoint.weights, checkpoint.about)
    with pytest.raises(CheckpointError, match="decoder.output.bias is larger than 16 bits hold"):
        publish(source, tmp_path / "small.safetensors")


def test_weights_that_read_standard_images_only_are_refused(tmp_path):
    model = Recognizer(9, {"growth": 4, "layers": [2]}, "gru", OPTIONS, domains=("standard",))
    about = {"architecture": model.architecture(), "vocabulary": [], "data": {}}
    save_checkpoint(tmp_path / "one.safetensors", model.state_dict(), about)
    with pytest.raises(CheckpointError, match="reads standard images only"):
        publish(tmp_path / "one.safetensors", tmp_path / "small.safetensors")


def test_several_networks_become_one_file_and_read_together(source, tmp_path):
    other = trained(tmp_path / "other.safetensors", seed=1, growth=6, data={"scales": [1.2]})
    publish(source, tmp_path / "both.safetensors", [other], scales=[1.0])
    found, checkpoint = read(tmp_path / "both.safetensors")
    networks = []
    for one in map(load_checkpoint, (source, other)):
        networks.append(Recognizer(**one.about["architecture"]))
        load_weights(networks[-1], one)
    images = (torch.rand(3, 1, 30, 60, generator=torch.Generator().manual_seed(1)) > 0.8).float()
    wanted = Ensemble(networks).eval().read(images, torch.zeros(3, 30, 60, dtype=torch.bool))
    assert [each.tokens for each in found] == [each.tokens for each in wanted]
    assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=0.02)
    assert checkpoint.about["data"] == {"scales": [1.0]} and "stage" not in checkpoint.about
    with pytest.raises(CheckpointError, match="both.safetensors: holds several networks; expected one, of a run"):
        publish(tmp_path / "both.safetensors", tmp_path / "again.safetensors")


def test_networks_of_one_line_become_one_with_the_mean_of_their_weights(source, tmp_path):
    """Dropout, which may grow from run to run, is no part of a network's sizes."""
    other = trained(tmp_path / "other.safetensors", seed=1, dropout=0.3)
    wider = trained(tmp_path / "wider.safetensors", growth=12)
    publish(source, tmp_path / "mean.safetensors", [other], as_mean=True)
    first, second, mean = (load_checkpoint(each) for each in (source, other, tmp_path / "mean.safetensors"))
    for name, weight in mean.weights.items():
        wanted = (first.weights[name] + second.weights[name]) / 2 if weight.is_floating_point() else first.weights[name]
        assert torch.allclose(weight.float(), wanted.float(), atol=1e-3), name
    assert "stage" not in mean.about and "networks" not in mean.about["architecture"]
    read(tmp_path / "mean.safetensors")
    with pytest.raises(CheckpointError, match="wider.safetensors: has no mean with .*: its network is another"):
        publish(source, tmp_path / "none.safetensors", [wider], as_mean=True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"vocabulary": list("abcdeg")}, "another vocabulary"),
        ({"data": {"image_scale": 0.5}}, "other images, {'image_scale': 0.5} instead of {}"),
        ({"held_out": {"seed": 1}}, "other labels for validation"),
        ({"architecture": {"decoder": "transformer"}}, "another decoder"),
    ],
)
def test_networks_that_cannot_read_together_are_refused(source, tmp_path, changes, what):
    other = trained(tmp_path / "other.safetensors", **changes)
    with pytest.raises(CheckpointError) as caught:
        publish(source, tmp_path / "both.safetensors", [other])
    assert str(caught.value) == f"{other}: cannot read together with {source}: it has {what}"
    assert not (tmp_path / "both.safetensors").exists()
