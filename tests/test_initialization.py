"""A run that starts from weights: nothing that they know is lost, what is new is told, what cannot be is an error."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dataset.images.store import open_split
from dataset.loading.loaders import Data
from dataset.vocabulary import UNKNOWN, Vocabulary
from models.recognizer import Ensemble, Recognizer
from tests.made_up_ink import settings
from utils.config.loading import load_config, overridden_keys
from utils.errors import CheckpointError, ConfigError
from utils.training.initialization import Start, find_weights, settings_of_weights
from utils.training.run_folder import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "checkpoints" / "crohme.safetensors"
ENCODER = {"growth": 4, "layers": [1, 1], "compression": 0.5, "dropout": 0.0, "recompute": False}
DECODERS = {
    "gru": {"hidden": 8, "embedding": 8, "attention": 8, "coverage_kernel": 3, "dropout": 0.1},
    "transformer": {"width": 8, "heads": 2, "layers": 2, "feed_forward": 16, "dropout": 0.1},
}
both_decoders = pytest.mark.parametrize("decoder", DECODERS)


def network(size: int, decoder: str = "gru", seed: int = 0, **options) -> Recognizer:
    torch.manual_seed(seed)
    return Recognizer(size, ENCODER, decoder, DECODERS[decoder], **{"counting": 4, "symbols": True, **options}).eval()


def saved(path: Path, model: Recognizer | Ensemble, tokens: str, **about) -> Path:
    data = {"image_scale": 0.25, "max_height": 64, "max_width": 256, "scales": [1.2, 1.0]}
    about = {"architecture": model.architecture(), "vocabulary": list(tokens), "data": data, "stage": "last", **about}
    save_checkpoint(path, model.state_dict(), about)
    return path


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder", "more"), [("gru", {}), ("gru", {"location": 4, "symbols": True}), ("transformer", {})]
)
def test_what_weights_know_is_as_it_was_in_a_larger_vocabulary(decoder, more, monkeypatch):
    """Logits, counts and maps of the known tokens are equal, and those of the new ones are there."""
    monkeypatch.setitem(DECODERS, decoder, DECODERS[decoder] | more)
    old, new = network(9, decoder), network(13, decoder, seed=1)
    new.start_from(old.state_dict(), 9)
    images, padding = torch.rand(2, 1, 32, 64), torch.zeros(2, 32, 64, dtype=torch.bool)
    labels, lengths = torch.tensor([[3, 5, 8], [4, 4, 0]]), torch.tensor([3, 2])
    for domain in ("standard", "handwritten"):
        before, after = (model(images, padding, labels, lengths, domain) for model in (old, new))
        assert after.logits.shape[-1] == 13
        torch.testing.assert_close(after.logits[..., :9], before.logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.counts[:, :9], before.counts)
        torch.testing.assert_close(after.symbols[:, :9], before.symbols)
    assert new.decoder.embedding.weight[9:].abs().min() > 0  # not the same row for all new tokens
    assert len(new.decoder.output.weight[9:].unique(dim=0)) == 4


@pytest.mark.parametrize("missing", ["standard", "handwritten"])
def test_an_encoder_that_weights_lack_begins_as_a_copy_of_the_other_one(missing):
    there = {"standard": "handwritten", "handwritten": "standard"}[missing]
    old, new = network(9, domains=(there,)), network(9, seed=1)
    new.start_from(old.state_dict(), 9)
    for name, weight in new.encoder(missing).state_dict().items():
        assert torch.equal(weight, old.encoder(there).state_dict()[name]), name
    assert new.encoder(missing) is not new.encoder(there)
    alone = network(9, seed=1, domains=("handwritten",))
    alone.start_from(network(9).state_dict(), 9)  # an encoder that is not needed is left behind
    assert alone.standard_encoder is None


def test_weights_of_another_network_are_an_error(tmp_path):
    path = saved(tmp_path / "a.safetensors", network(9, "transformer"), "abcdef")
    with pytest.raises(CheckpointError, match="a.safetensors: weights of another model"):
        Start.of(str(path), None).load_into(network(9, "gru"))
    with pytest.raises(RuntimeError, match="size mismatch"):  # another number of tokens than they are said to have
        network(13).start_from(network(9).state_dict(), 8)


def test_the_published_weights_start_a_run_with_other_tokens():
    config = load_config(ROOT / "config.yaml", "MINE", "finetune", weights=settings_of_weights(PUBLISHED))
    start = Start.of(config.init, None)
    vocabulary = Vocabulary(start.tokens).extended(["\\angle", "x"])
    assert (len(start.tokens), vocabulary.tokens[110:]) == (110, ("\\angle",))
    model = Recognizer.from_config(config.model, len(vocabulary), config.domains(), config.uses_loss("symbols"))
    start.load_into(model)
    wanted = load_checkpoint(PUBLISHED).weights["decoder.context.weight"].float()
    assert torch.equal(model.decoder.context.weight, wanted)
    assert config.domains() == ("handwritten",)


# ---- configuration ---------------------------------------------------------------------------------------------------


@both_decoders
def test_the_network_of_the_weights_is_taken_whatever_the_configuration_has(tmp_path, decoder):
    path = saved(tmp_path / "a.safetensors", network(9, decoder), "abcdef")
    weights = settings_of_weights(path)
    config = load_config(ROOT / "config.yaml", "CROHME", None, weights=weights)
    model = Recognizer.from_config(config.model, 9, config.domains(), symbols=True)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in network(9, decoder).state_dict().items()}
    assert (config.init, config.data.image_scale, config.data.scales) == (str(path), 0.25, (1.2, 1.0))
    told = overridden_keys(ROOT / "config.yaml", "CROHME", None, weights)[f"--init {path}"]
    assert {"model.encoder.growth", f"model.{decoder}.dropout", "data.image_scale"} <= set(told)


def test_of_networks_that_read_together_a_run_starts_from_the_first(tmp_path):
    together = Ensemble([network(9), network(9, seed=1)])
    path = saved(tmp_path / "a.safetensors", together, "abcdef")
    assert (
        settings_of_weights(path).settings
        == settings_of_weights(saved(tmp_path / "b.safetensors", network(9), "abcdef")).settings
    )
    start, model = Start.of(str(path), None), network(9, seed=2)
    start.load_into(model)
    for own, wanted in zip(model.state_dict().values(), together.networks[0].state_dict().values(), strict=True):
        assert torch.equal(own, wanted)
    [told] = start.describe("abcdef", [stage("a", "ink")])
    assert told == f"starts from {path}, stage last, the first of its 2 networks"
    saved(path, together, "abcdef", architecture={"networks": []})
    with pytest.raises(CheckpointError, match="a.safetensors: describes networks that this version does not know"):
        settings_of_weights(path)


def test_asking_for_another_network_than_the_weights_have_is_an_error_that_names_the_key(tmp_path):
    weights = settings_of_weights(saved(tmp_path / "a.safetensors", network(9), "abcdef"))

    def load(*assignments):
        return load_config(ROOT / "config.yaml", "CROHME", None, assignments, weights=weights)

    with pytest.raises(ConfigError, match=r"--set model.encoder.growth: .*a.safetensors was trained with 4, .* 24"):
        load("model.encoder.growth=24")
    with pytest.raises(ConfigError, match="--set model.decoder: .* was trained with 'gru', .* 'transformer'"):
        load("model.decoder=transformer")
    with pytest.raises(ConfigError, match="--set init: expected --init PATH"):
        load("init=b.safetensors")
    assert load("model.gru.dropout=0.4", "model.encoder.recompute=true").model.gru.dropout == 0.4
    assert load("data.image_scale=0.5", "model.decoder=gru").data.image_scale == 0.5


def test_a_runs_folder_stands_for_the_best_weights_of_its_last_stage(tmp_path):
    (tmp_path / "config.yaml").write_text("stages: [{name: first}, {name: second}, {name: third}]")
    with pytest.raises(CheckpointError, match="no best weights of any stage yet"):
        find_weights(tmp_path)
    for name in ("first-best", "second-best", "third-last"):
        saved(tmp_path / f"{name}.safetensors", network(9), "abcdef")
    assert find_weights(tmp_path) == tmp_path / "second-best.safetensors"
    with pytest.raises(CheckpointError, match=r"expected a .safetensors file, or the folder of a run"):
        find_weights(tmp_path.parent)
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        settings_of_weights(tmp_path / "none.safetensors")


# ---- what is told ----------------------------------------------------------------------------------------------------


def stage(name: str, images: str, starts_from_standard: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, images=images, starts_from_standard=starts_from_standard, starts_from_decoder=False
    )


def test_new_tokens_lacking_tokens_and_copied_encoders_are_told(tmp_path):
    path = saved(tmp_path / "a.safetensors", network(15, domains=("handwritten",)), "abcdefghijkl")
    start = Start.of(str(path), None)
    told = list(start.describe(["z", "a", "y", "b"], [stage("ink", "ink")]))
    assert told == [
        f"starts from {path}, stage last",
        "new to the weights, and untrained: 2 tokens (y z)",
        "known to the weights alone: 10 tokens (c d e f g h i j …); they stay, but nothing in the data recalls them",
    ]
    stages = [stage("drawn", "standard"), stage("alignment", "pairs", True), stage("ink", "ink")]
    *_, encoder, replaced = start.describe(list("abcdefghijkl"), stages)
    assert "no encoder of standard images, which stage drawn needs: it begins as a copy of the handwritten" in encoder
    assert "stage alignment replaces the handwritten encoder" in replaced and "--preset finetune" in replaced
    assert list(Start().describe(["a"], stages)) == []


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data_set(tmp_path) -> Path:
    for split, labels in (("train", ["a", "b a"]), ("test", ["a c", "d", "b"])):
        (tmp_path / split / "images").mkdir(parents=True)
        for number in range(len(labels)):
            image = np.full((20, 30), 255, np.uint8)
            image[8:12, 6:15] = 0
            cv2.imwrite(str(tmp_path / split / "images" / f"{number}.png"), image)
        rows = "".join(f"{number}\t{label}\n" for number, label in enumerate(labels))
        (tmp_path / split / "labels.txt").write_text(rows)
    (tmp_path / "vocabulary.txt").write_text("a\nb\n")
    return tmp_path


def test_a_store_is_read_in_the_tokens_of_weights_and_not_built_again(data_set, capsys):
    """A token of a test label that train lacks, but the weights know, counts: they may read it."""
    own, other = Vocabulary("ab"), Vocabulary("dxcb").extended("ab")
    labels = {"train": [["a"], ["b", "a"]], "test": [["a", "c"], ["d"], ["b"]]}
    assert UNKNOWN in open_split(data_set, "test", own).tokens(0)
    open_split(data_set, "train", own)
    capsys.readouterr()
    for split, wanted in labels.items():
        store = open_split(data_set, split, other)
        copy = pickle.loads(pickle.dumps(store))
        for each in (store, copy):
            assert [other.decode(each.tokens(index)) for index in range(len(each))] == wanted
    few = Vocabulary("b")
    tokens = [open_split(data_set, "test", few).tokens(index).tolist() for index in range(3)]
    assert tokens == [[UNKNOWN, UNKNOWN], [UNKNOWN], few.encode("b")]
    assert open_split(data_set, "train", own).tokens(1).tolist() == own.encode("ba")
    assert "building the store" not in capsys.readouterr().err


def test_the_vocabulary_of_a_run_begins_with_that_of_its_weights(data_set):
    data = Data(data_set, settings(data_set), 0, known=["d", "x", "b"])
    assert data.vocabulary.tokens == ("d", "x", "b", "a") and data.own_vocabulary.tokens == ("a", "b")
    ink = data.ink("test")
    assert [data.text(ink.label(index)) for index in range(len(ink))] == ["a <unknown>", "d", "b"]
