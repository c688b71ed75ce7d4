"""Both decoders: inputs and targets, outputs, and that they learn."""

import copy
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn import functional as F

from models.counting import CountingHead, true_counts
from models.decoders.gru import GRUDecoder
from models.decoders.interface import teacher_forcing
from models.decoders.transformer import TransformerDecoder
from models.losses import counting_loss, label_loss
from models.recognizer import Recognizer
from tests.plain import PlainGRUDecoder, plain
from utils.special_tokens import END, PAD, START
from utils.training.run_folder import load_checkpoint, load_weights

VOCABULARY = 12
OPTIONS = {
    "gru": {"hidden": 32, "embedding": 24, "attention": 40, "coverage_kernel": 5, "dropout": 0.1},
    "gru-location": {
        "hidden": 32,
        "embedding": 24,
        "attention": 40,
        "coverage_kernel": 5,
        "location": 6,
        "dropout": 0.1,
    },
    "transformer": {"width": 32, "heads": 4, "layers": 3, "feed_forward": 64, "dropout": 0.1},
}
both_decoders = pytest.mark.parametrize("kind", list(OPTIONS))


def recognizer(kind: str, **changes) -> Recognizer:
    torch.manual_seed(0)
    arguments = {
        "encoder": {"layers": (2, 3), "growth": 8, "dropout": 0.0},
        "decoder": kind.partition("-")[0],
        "decoder_options": OPTIONS[kind],
        "counting": 0 if kind == "transformer" else 16,
    }
    return Recognizer(VOCABULARY, **{**arguments, **changes})


def decoder(kind: str):
    torch.manual_seed(0)
    made = TransformerDecoder if kind == "transformer" else GRUDecoder
    return made(VOCABULARY, 20, **OPTIONS[kind]).eval()


def some_features(size: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (B, 20, 4, 9), their padding (a different width for each image), and counts."""
    padding = torch.arange(9).expand(size, 4, 9) >= torch.tensor([9, 6, 4][:size])[:, None, None]
    return torch.randn(size, 20, 4, 9) * ~padding[:, None], padding, torch.rand(size, VOCABULARY)


def some_images() -> tuple[torch.Tensor, ...]:
    """Four made-up images, images, padding, and their labels, lengths."""
    torch.manual_seed(1)
    images = F.interpolate((torch.rand(4, 1, 6, 12) > 0.7).float(), scale_factor=4)
    padding = torch.zeros(4, 24, 48, dtype=torch.bool)
    padding[1, :, 30:] = True
    padding[3, 17:] = True
    labels = torch.tensor([[3, 4, 5, 3, 4, 4, 9], [6, 7, 0, 0, 0, 0, 0], [8, 8, 8, 8, 0, 0, 0], [9, 10, 5, 3, 5, 0, 0]])
    return images.masked_fill(padding[:, None], 0), padding, labels, torch.tensor([7, 2, 4, 5])


def test_labels_are_framed_for_each_direction():
    framed = teacher_forcing(torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([3, 1]), 2)
    assert framed.inputs.tolist() == [[START, 5, 6, 7], [END, 7, 6, 5], [START, 8, PAD, PAD], [END, 8, PAD, PAD]]
    assert framed.targets.tolist() == [[5, 6, 7, END], [7, 6, 5, START], [8, END, PAD, PAD], [8, START, PAD, PAD]]
    assert framed.label_indices.tolist() == [[0, 1, 2, -1], [2, 1, 0, -1], [0, -1, -1, -1], [0, -1, -1, -1]]


@both_decoders
@torch.no_grad()
def test_stepped_equals_one_pass(kind):
    network = decoder(kind)
    features, padding, counts = some_features()
    tokens = torch.randint(3, VOCABULARY, (6, 7))  # two rows for each image
    whole = network(features, padding, tokens, counts)
    state = network.start(features, padding, counts).select(torch.arange(3).repeat_interleave(2))
    for position in range(7):
        logits, state, attention = network.step(state, tokens[:, position])
        assert (logits - whole.logits[:, position]).abs().max() < 1e-4
        assert (attention - whole.attention[:, position]).abs().max() < 1e-5


@both_decoders
@torch.no_grad()
def test_rows_that_share_an_image_equal_rows_with_an_image_each(kind):
    network = decoder(kind)
    features, padding, counts = some_features()
    tokens = torch.randint(3, VOCABULARY, (6, 5))
    shared = network(features, padding, tokens, counts)
    own = network(*(x.repeat_interleave(2, 0) for x in (features, padding)), tokens, counts.repeat_interleave(2, 0))
    for one, other in zip(shared, own, strict=True):
        assert (one - other).abs().max() < 1e-5


@both_decoders
@torch.no_grad()
def test_a_state_can_be_reordered_within_an_image_and_images_can_leave(kind):
    network = decoder(kind)
    features, padding, counts = some_features()
    tokens = torch.randint(3, VOCABULARY, (6, 2))
    state = network.start(features, padding, counts).select(torch.arange(3).repeat_interleave(2))
    _, state, _ = network.step(state, tokens[:, 0])
    logits, _, _ = network.step(state, tokens[:, 1])
    swapped, _, _ = network.step(state.select(torch.tensor([1, 0, 3, 2, 5, 4])), tokens[[1, 0, 3, 2, 5, 4], 1])
    fewer, _, _ = network.step(state.select_images(torch.tensor([0, 2])), tokens[[0, 1, 4, 5], 1])
    assert torch.allclose(swapped[[1, 0, 3, 2, 5, 4]], logits, atol=1e-5)
    assert torch.allclose(fewer, logits[[0, 1, 4, 5]], atol=1e-5)


@both_decoders
@torch.no_grad()
def test_attention_stays_inside_the_image_and_sums_to_one(kind):
    features, padding, counts = some_features()
    attention = decoder(kind)(features, padding, torch.randint(3, VOCABULARY, (3, 5)), counts).attention
    assert torch.allclose(attention.sum((2, 3)), torch.ones(3, 5), atol=1e-5)
    assert (attention * padding[:, None] == 0).all() and attention.dtype == torch.float32


@both_decoders
@torch.no_grad()
def test_padding_neighbors_in_the_batch_and_longer_labels_do_not_change_the_logits(kind):
    network = recognizer(kind)
    images, padding, labels, lengths = some_images()
    network.train()
    network(images, padding, labels, lengths)  # BatchNorms that do something
    network.eval()
    together = network(images, padding, labels, lengths)
    rows = network.decoder.directions
    for i in range(4):
        height, width = (~padding[i]).any(1).sum(), (~padding[i]).any(0).sum()
        alone = network(
            images[i : i + 1, :, :height, :width],
            padding[i : i + 1, :height, :width],
            labels[i : i + 1, : lengths[i]],
            lengths[i : i + 1],
        )
        length = lengths[i] + 1
        assert (together.logits[i * rows : (i + 1) * rows, :length] - alone.logits).abs().max() < 1e-4
        assert (together.context[i * rows : (i + 1) * rows, :length] - alone.context).abs().max() < 1e-4


@torch.no_grad()
def test_coverage_at_a_position_is_the_attention_before_it():
    network = decoder("transformer")
    features, padding, _ = some_features()
    tokens = torch.randint(3, VOCABULARY, (3, 4))
    before = network(features, padding, tokens).attention
    network.refinement.conv.weight.mul_(-20)
    change = (network(features, padding, tokens).attention - before).abs().amax((0, 2, 3))
    assert change[0] < 1e-6 and (change[1:] > 1e-4).all()


@pytest.mark.parametrize("kind", ["gru", "gru-location"])
def test_the_fast_gru_decoder_equals_the_plain_loop(kind):
    network = decoder(kind)
    with torch.no_grad():  # so that where attention has been matters
        (network.attention.location if kind == "gru-location" else network.attention.coverage).weight.mul_(5)
    features, padding, counts = some_features()
    features.requires_grad_()
    tokens = torch.randint(0, VOCABULARY, (3, 9))
    results = []
    both = [decode(features, padding, tokens, counts).logits for decode in (network, PlainGRUDecoder(network))]
    for logits in both:
        network.zero_grad()
        features.grad = None
        logits.square().sum().backward()
        results.append([logits.detach(), features.grad] + [p.grad.clone() for p in network.parameters()])
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_padding_does_not_change_the_counts():
    torch.manual_seed(0)
    head = CountingHead(20, VOCABULARY, 16).eval()
    for module in head.counters:
        torch.nn.init.normal_(module.excite.weight)
        torch.nn.init.normal_(module.norm.running_mean)
    features, padding, _ = some_features()
    counts = head(features * 5, padding)
    for i, width in enumerate((9, 6, 4)):
        alone = head(features[i : i + 1, :, :, :width] * 5, padding[i : i + 1, :, :width])
        assert (counts[i] - alone[0]).abs().max() < 1e-5


def test_true_counts_leave_out_padding_and_what_has_no_ink():
    counts = true_counts(torch.tensor([[3, 4, 3, 5], [5, 0, 0, 0]]), 6, uncounted=[4])
    assert counts.tolist() == [[0, 0, 0, 2, 0, 1], [0, 0, 0, 0, 0, 1]]


@both_decoders
def test_padding_does_not_change_the_loss(kind):
    network = recognizer(kind).eval()
    images, padding, labels, lengths = some_images()
    longer = F.pad(labels, (0, 5))
    losses = [label_loss(network(images, padding, ids, lengths)).item() for ids in (labels, longer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@both_decoders
def test_overfits_four_images_in_autoregressive_decoding(kind):
    network = recognizer(kind)
    images, padding, labels, lengths = some_images()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(200):
        loss = label_loss(network(images, padding, labels, lengths))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if loss < 0.01:
            break
    network.eval()
    truths = [row[:length] for row, length in zip(labels.tolist(), lengths.tolist(), strict=True)]
    for beam in (1, 3):
        hypotheses = network.read(images, padding, beam=beam)
        assert [hypothesis.tokens for hypothesis in hypotheses] == truths
        assert not any(hypothesis.is_truncated for hypothesis in hypotheses)


@pytest.mark.slow
@both_decoders
def test_overfits_32_real_images_in_autoregressive_decoding(kind, shared_data):
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from decoding import SMALL, SMALL_ENCODER, batches, open_images

    split = shared_data / "CROHME" / "2014"
    lines = (split / "labels.txt").read_text(encoding="utf-8").splitlines()[:32]
    texts = dict(line.split("\t") for line in lines)
    tokens = sorted({token for text in texts.values() for token in text.split()})
    truths = {name: [tokens.index(token) + 3 for token in text.split()] for name, text in texts.items()}
    torch.manual_seed(0)
    network = Recognizer(
        len(tokens) + 3, SMALL_ENCODER | {"dropout": 0.0}, kind.partition("-")[0], SMALL[kind] | {"dropout": 0.0}
    )
    items, random = open_images(split, 32, 0.5), Random(0)

    def data(random: Random | None):
        for images, padding, lengths, names in batches(items, 8, random):
            labels = [torch.tensor(truths[name]) for name in names]
            yield images, padding, torch.nn.utils.rnn.pad_sequence(labels, True), lengths

    epochs = 200
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    # The rate ends near zero: the averages of BatchNorm, which reading goes by, must catch up with the weights.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        network.train()
        for batch in data(random):  # other neighbors each time, or BatchNorm tells one batch from another
            loss = label_loss(network(*batch))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
        schedule.step()
    network.eval()
    for beam in (1, 10):
        for images, padding, labels, lengths in data(None):
            wanted = [row[:length] for row, length in zip(labels.tolist(), lengths.tolist(), strict=True)]
            assert [hypothesis.tokens for hypothesis in network.read(images, padding, beam=beam)] == wanted


@both_decoders
def test_the_handwritten_encoder_starts_as_a_copy_and_the_standard_one_stays(kind):
    network = recognizer(kind)
    images, padding, labels, lengths = some_images()
    network(images, padding, labels, lengths, domain="standard")  # moves BatchNorm's averages
    network.start_handwritten_from_standard()
    before = {name: value.clone() for name, value in network.standard_encoder.state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in network.handwritten_encoder.state_dict().items())

    for modules in (network.parts()["standard_encoder"], network.parts()["decoder"]):
        for module in modules:
            module.requires_grad_(False).eval()
    decoder_before = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    label_loss(network(images, padding, labels, lengths)).backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0).step()
    after = network.handwritten_encoder.state_dict()
    assert not torch.equal(before["stem.weight"], after["stem.weight"])
    assert all(torch.equal(before[name], value) for name, value in network.standard_encoder.state_dict().items())
    assert all(torch.equal(decoder_before[name], value) for name, value in network.decoder.state_dict().items())


@both_decoders
def test_an_equal_network_can_be_built_from_its_architecture(kind):
    import json

    network = recognizer(kind, domains=("handwritten",)).eval()
    copy = Recognizer(**json.loads(json.dumps(network.architecture()))).eval()
    copy.load_state_dict(network.state_dict())
    images, padding, *_ = some_images()
    assert copy.read(images, padding) == network.read(images, padding)
    assert copy.standard_encoder is None


@pytest.mark.parametrize(
    ("kind", "former_names"),
    [
        ("gru", {"decoder.context.": "decoder.glimpse."}),
        (
            "transformer",
            {
                "decoder.features.": "decoder.cells.",
                "decoder.features_norm.": "decoder.cells_norm.",
                ".cross_query.": ".query.",
                ".cross_in.": ".cells_in.",
                ".cross_out.": ".cells_out.",
            },
        ),
    ],
)
def test_weights_whose_parameters_have_former_names_load(kind, former_names):
    network, other = recognizer(kind), recognizer(kind)
    weights = {}
    for name, weight in network.state_dict().items():
        for present, former in former_names.items():
            name = name.replace(present, former)
        weights[name] = torch.randn_like(weight) if weight.is_floating_point() else weight
    assert len(weights.keys() - network.state_dict().keys()) >= 2
    assert len(other.load_state_dict(weights).missing_keys) == 0
    assert [value.tolist() for value in other.state_dict().values()] == [value.tolist() for value in weights.values()]


@torch.no_grad()
def test_the_published_weights_read_what_they_read_when_they_were_made():
    checkpoint = load_checkpoint(Path(__file__).parents[1] / "checkpoints" / "crohme.safetensors")
    network = Recognizer(**checkpoint.about["architecture"]).eval()
    load_weights(network, checkpoint)
    image = torch.zeros(1, 1, 48, 112)
    for rows, columns in (
        ((22, 25), (6, 34)), ((8, 38), (19, 22)),  # +
        ((10, 40), (54, 57)),  # 1
        ((18, 21), (76, 104)), ((29, 32), (76, 104)),  # =
    ):  # fmt: skip
        image[..., slice(*rows), slice(*columns)] = 1
    (found,) = network.read(image, torch.zeros(1, 48, 112, dtype=torch.bool), beam=3)
    assert [checkpoint.about["vocabulary"][token - 3] for token in found.tokens] == "+ 1 =".split()
    assert found.score == pytest.approx(-0.117818, abs=1e-4)


def test_a_handwritten_encoder_that_was_left_out_is_made_from_the_standard_one():
    network = recognizer("gru", domains=("standard",))
    assert network.handwritten_encoder is None
    network.start_handwritten_from_standard()
    assert network.architecture()["domains"] == ["standard", "handwritten"]


@both_decoders
def test_bf16_losses_are_within_one_percent_of_fp32(kind):
    network = recognizer(kind).eval()
    batch = some_images()
    full = label_loss(network(*batch))
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*batch)
        half = label_loss(output)
        state = network.decoder.start(output.features, output.padding, output.counts)
        _, state, attention = network.decoder.step(state, torch.full((4,), START))
    sums = [value for name, value in state.past.items() if name.startswith("coverage")]
    assert half.item() == pytest.approx(full.item(), rel=0.01)
    assert {value.dtype for value in [output.attention, attention, *sums]} == {torch.float32}


def test_coverage_in_parts_learns_the_same_as_at_once(monkeypatch):
    network = decoder("transformer").train()
    for layer in network.layers:
        layer.dropout = 0.0
    features, padding, _ = some_features()
    tokens = torch.randint(3, VOCABULARY, (6, 7))

    def learnt() -> list[torch.Tensor]:
        network.zero_grad()
        logits = network(features, padding, tokens).logits
        logits.square().mean().backward()
        return [logits, *(parameter.grad for parameter in network.parameters())]

    at_once = learnt()
    monkeypatch.setattr("models.attention.MAX_MAPS", 5 * 32 * 4 * 9)  # 5 of 42 maps
    for one, other in zip(learnt(), at_once, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max() + 1e-7


@pytest.mark.slow
@both_decoders
def test_what_is_compiled_learns_the_same_from_images_of_any_size(kind):
    eager, compiled = recognizer(kind).eval(), recognizer(kind).eval()
    compiled.compile_repeated()
    images, padding, labels, lengths = some_images()
    for width in (48, 40, 32):
        gradients = []
        for network in (eager, compiled):
            network.zero_grad()
            label_loss(network(images[..., :width], padding[..., :width], labels, lengths)).backward()
            gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
        for one, other in zip(*gradients, strict=True):
            assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-7


@both_decoders
def test_fifty_steps_lose_the_same_as_on_the_plain_path(kind):
    """No shortcut changes a result: fast and plain networks, trained alike, lose alike (fp32, one seed)."""

    def losses(network) -> list[float]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        found = []
        for _ in range(50):
            output = network(*some_images())
            loss = label_loss(output)
            if output.counts is not None:
                loss = loss + counting_loss(output.counts, some_images()[2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    still = {**OPTIONS[kind], "dropout": 0.0}  # the two paths draw dropout in another order
    fast = recognizer(kind, decoder_options=still)
    slow = plain(copy.deepcopy(fast))
    one, other = losses(fast), losses(slow)
    assert one == pytest.approx(other, rel=1e-4)
    assert one[-1] < 0.9 * one[0]
