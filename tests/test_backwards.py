"""A second decoder that reads from right to left: how it learns, and how it scores what a beam has found."""

import json

import pytest
import torch
from torch.nn import functional as F

from models.losses import label_loss
from models.recognizer import Ensemble, Recognizer
from recognize import Reader
from tests.test_decoders import recognizer, some_images
from tests.tiny_training import TRAINING, run
from utils.config.loading import load_config
from utils.errors import ConfigError
from utils.hypotheses import BACKWARDS_SHARE
from utils.special_tokens import END, START
from utils.training.optimization import train_only
from utils.training.publish import publish
from utils.training.run_folder import load_checkpoint


def two_ways(seed: int = 0) -> Recognizer:
    """A network whose decoders differ, and know something else each."""
    network = recognizer("gru-location", backwards=True)
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return network.eval()


def score_backwards(network: Recognizer, image: int, tokens: list[int]) -> float:
    """The mean log-probability of the tokens from the last to the first, and of the start behind them."""
    features, padding, counts = network.encode(*some_images()[:2], "handwritten").select(torch.tensor([image]))
    inputs, targets = torch.tensor([[END, *tokens[::-1]]]), torch.tensor([[*tokens[::-1], START]])
    logits = network.backwards(features, padding, inputs, counts).logits
    return -F.cross_entropy(logits[0], targets[0]).item()


@torch.no_grad()
def test_a_beam_is_scored_in_both_directions_and_ordered_by_the_mean():
    network, (images, padding, *_) = two_ways(), some_images()
    forwards = network.read(images, padding, beam=6, directions=1)
    both = network.read(images, padding, beam=6)
    assert network.directions == 2 and network.read(images, padding, beam=6, directions=2) == both
    for image, (one, other) in enumerate(zip(forwards, both, strict=True)):
        before = {tuple(each.tokens): each for each in (one, *one.alternatives)}
        after = (other, *other.alternatives)
        assert {tuple(each.tokens) for each in after} == before.keys()
        for each in after:
            known = before[tuple(each.tokens)]
            mean = (1 - BACKWARDS_SHARE) * known.score + BACKWARDS_SHARE * score_backwards(network, image, each.tokens)
            assert each.score == pytest.approx(mean, rel=1e-4) and each.is_truncated == known.is_truncated
        ranks = [(not each.is_truncated, each.score) for each in after]
        assert ranks == sorted(ranks, reverse=True)
    assert [one.tokens for one in forwards] != [other.tokens for other in both]


@torch.no_grad()
def test_greedy_decoding_goes_without_it():
    network, (images, padding, *_) = two_ways(), some_images()
    found = network.read(images, padding)
    network.backwards = None
    assert found == network.read(images, padding)


@torch.no_grad()
def test_at_several_scales_it_sees_all_of_them():
    network, (images, padding, *_) = two_ways(), some_images()
    together = network.at_scales((0.75,)).eval()
    assert together.directions == 2
    found = together.read(images, padding, beam=4)
    assert found == Ensemble([network], (0.75,)).eval().read(images, padding, beam=4)
    alone = network.read(images, padding, beam=4)
    assert [one.score for one in found] != [one.score for one in alone]


def test_only_the_decoder_that_reads_backwards_learns_in_its_stage_and_from_the_last_token():
    network = recognizer("gru-location", backwards=True)
    images, padding, labels, lengths = some_images()
    train_only(network, ["handwritten_encoder", "decoder"])
    forwards = network(images, padding, labels, lengths)
    assert forwards.targets[0].tolist() == [*labels[0].tolist(), END]
    train_only(network, ["backwards"])
    frozen = {name: x.clone() for name, x in network.state_dict().items() if not name.startswith("backwards.")}
    optimizer = torch.optim.AdamW([x for x in network.parameters() if x.requires_grad], lr=1e-2)
    for _ in range(150):
        output = network(images, padding, labels, lengths)
        assert output.targets[0].tolist() == [*labels[0].tolist()[::-1], START]
        assert output.label_indices[1].tolist()[:3] == [1, 0, -1]
        optimizer.zero_grad()
        loss = label_loss(output)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert all(torch.equal(network.state_dict()[name], x) for name, x in frozen.items())
    network.eval()
    for image, length in enumerate(lengths.tolist()):
        assert score_backwards(network, image, labels[image, :length].tolist()) > -0.2


def learned(network: Recognizer, parts: list[str]) -> tuple[float, dict]:
    """Loss and gradients of the decoders in a stage that trains these parts, without what differs by chance."""
    images, padding, labels, lengths = some_images()
    train_only(network, parts)
    network.counting.eval()
    network.decoder.dropout = network.backwards.dropout = 0.0
    network.zero_grad()
    output = network(images, padding, labels, lengths)
    loss = label_loss(output)
    loss.backward()
    gradients = {name: x.grad for name, x in network.named_parameters() if x.grad is not None}
    assert len(output.targets) == len(images) * len(parts)
    return loss.item(), {name: x for name, x in gradients.items() if name.startswith(("decoder.", "backwards."))}


def test_decoders_that_learn_together_learn_what_each_learns_alone():
    network = two_ways()
    forwards, of_forwards = learned(network, ["decoder"])
    backwards, of_backwards = learned(network, ["backwards"])
    together, of_both = learned(network, ["decoder", "backwards"])
    assert together == pytest.approx((forwards + backwards) / 2, rel=1e-5) and forwards != pytest.approx(backwards)
    assert of_both.keys() == {*of_forwards, *of_backwards}
    for name, gradient in {**of_forwards, **of_backwards}.items():
        torch.testing.assert_close(of_both[name], gradient / 2, rtol=1e-4, atol=1e-6)


def test_a_network_starts_from_one_that_does_not_read_backwards_and_the_other_way_round():
    plain, network = recognizer("gru-location"), two_ways()
    network.start_from(plain.state_dict(), plain.vocabulary_size)
    assert all(torch.equal(x, network.backwards.state_dict()[name]) for name, x in plain.decoder.state_dict().items())
    kept = two_ways().state_dict()
    plain.start_from(kept, plain.vocabulary_size)
    assert plain.backwards is None and torch.equal(plain.decoder.output.weight, kept["decoder.output.weight"])
    network.start_from(kept, plain.vocabulary_size)
    assert torch.equal(network.backwards.output.weight, kept["backwards.output.weight"])
    network.start_backwards_from_decoder()
    assert torch.equal(network.backwards.output.weight, kept["decoder.output.weight"])
    assert network.backwards.output.weight is not network.decoder.output.weight
    assert Recognizer(**json.loads(json.dumps(network.architecture()))).backwards is not None


ENCODER_TOO = "decoder, handwritten_encoder"
STAGE = "{name: b, images: %s, trains: [%s], losses: {label: 1}, epochs: 1, learning_rate: 1e-3}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"stages=[{STAGE % ('ink', 'handwritten_encoder, backwards')}]"], "expected decoder, too"),
        (["stages.handwritten.starts_from_decoder=true"], "expected backwards among them"),
        ([f"stages=[{STAGE % ('ink', 'backwards')}]", "model.decoder=transformer"], "by itself; backwards is for gru"),
        ([f"stages=[{STAGE % ('ink', 'backwards')}, {STAGE.replace('name: b', 'name: a') % ('ink', ENCODER_TOO)}]"],
         "would change after it: let it learn in a, too"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("config.yaml", "SAMPLE", None, settings)


def test_a_run_trains_it_alone_and_what_is_published_reads_with_it(home, trained, tmp_path):
    start = trained / "handwritten-best.safetensors"
    stage = f"stages=[{STAGE % ('ink', 'backwards')}]"
    run("train_stage.py", *TRAINING, "--run", "backwards", "--init", str(start), "--set", stage, folder=home)
    found, before = (load_checkpoint(path).weights for path in
                     (home / "checkpoints" / "backwards" / "b-best.safetensors", start))  # fmt: skip
    for name, weight in before.items():
        if name.startswith(("handwritten_encoder.", "decoder.")):
            assert torch.equal(found[name], weight), name
    assert not torch.equal(found["backwards.output.weight"], found["decoder.output.weight"])
    publish(home / "checkpoints" / "backwards" / "b-best.safetensors", tmp_path / "small.safetensors")
    reader = Reader.load(tmp_path / "small.safetensors")
    assert reader.network.directions == 2
    copied = stage.replace("1e-3", "1e-12, starts_from_decoder: true").replace("name: b", "name: c")
    start = home / "checkpoints" / "backwards" / "b-best.safetensors"
    done = run("train_stage.py", *TRAINING, "--run", "copied", "--init", str(start), "--set", copied, folder=home)
    assert "stage c replaces the decoder that reads backwards by a copy of the other one" in done.stdout
    found = load_checkpoint(home / "checkpoints" / "copied" / "c-best.safetensors").weights
    torch.testing.assert_close(found["backwards.output.weight"], found["decoder.output.weight"])
