"""The map of symbols: what it is taught, that pieces of a batch add up, and that it can be left out. Wrong inputs."""

from pathlib import Path

import pytest
import torch

from models.decoders.interface import replace_at_random, teacher_forcing
from models.losses import Objective, symbol_map_loss
from models.recognizer import ModelOutput, Recognizer
from models.symbols import symbol_targets
from utils.special_tokens import END, PAD, START
from utils.training.publish import publish
from utils.training.run_folder import Checkpoint, load_checkpoint, load_weights, save_checkpoint

NAN = float("nan")
GRU = {"hidden": 16, "embedding": 8, "attention": 8, "coverage_kernel": 3, "dropout": 0.0}


def recognizer(symbols: bool = True) -> Recognizer:
    torch.manual_seed(0)
    encoder = {"growth": 4, "layers": [2, 2], "compression": 0.5, "dropout": 0.0}
    return Recognizer(8, encoder, "gru", GRU, symbols=symbols, domains=["handwritten"])


class Batch:
    """Two images: one of 16 x 32 pixels with two symbols and a brace, one of 16 x 24 with a symbol."""

    ink, standard = True, None

    def __init__(self, rows: slice = slice(0, 2)):
        self.rows = rows
        self.labels = torch.tensor([[3, 4, 5], [4, 0, 0]])[self.rows]
        self.lengths = torch.tensor([3, 1])[self.rows]
        self.tokens = int(self.lengths.sum()) + len(self)
        boxes = [[[1.0, 1, 15, 15], [18, 2, 30, 14], [NAN] * 4], [[9, 1, 22, 15], [NAN] * 4, [NAN] * 4]]
        self.boxes = torch.tensor(boxes)[self.rows]

    def __len__(self):
        return len(self.lengths)

    def images(self, domain):
        return torch.rand(2, 1, 16, 32, generator=torch.Generator().manual_seed(1))[self.rows]

    def padding(self, domain):
        padding = torch.zeros(2, 16, 32, dtype=torch.bool)
        padding[1, :, 24:] = True
        return padding[self.rows]


def targets(box: list[float], size: tuple[int, int] = (3, 6), padding: torch.Tensor | None = None) -> list[list[int]]:
    """Row and column of the positive positions of one token with this box, 8 pixels a position."""
    padding = torch.zeros(1, *size, dtype=torch.bool) if padding is None else padding
    found = symbol_targets(torch.tensor([[3]]), torch.tensor([[box]]), padding, 8, 5)
    assert found[:, [0, 1, 2, 4]].sum() == 0
    return found[0, 3].nonzero().tolist()


def test_positive_is_the_central_half_of_a_box_and_at_least_the_position_of_its_center():
    assert targets([2, 8, 46, 16]) == [[1, 2], [1, 3]]  # with centers at 20 and 28: the half is 13 to 35
    assert targets([0, 8, 44, 16]) == [[1, 1], [1, 2], [1, 3]]  # the half is 11 to 33
    assert targets([9, 1, 11, 3]) == [[0, 1]]  # smaller than a position
    assert targets([6, 6, 10, 10]) == [[1, 1]]  # its center is a corner of four positions: one of them
    assert targets([NAN] * 4) == []


def test_nothing_is_positive_outside_the_image():
    padding = torch.zeros(1, 3, 6, dtype=torch.bool)
    padding[:, :, 3:] = True
    assert targets([2, 8, 46, 16], padding=padding) == [[1, 2]]
    assert targets([-20, 0, -10, 8]) == [] and targets([60, 0, 70, 8]) == []


def test_symbols_that_overlap_are_both_taught():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8]]])
    found = symbol_targets(torch.tensor([[3, 4, 3]]), boxes, torch.zeros(1, 2, 2, dtype=torch.bool), 8, 5)
    assert found.nonzero().tolist() == [[0, 3, 0, 0], [0, 4, 0, 0]]


def outputs(logits: torch.Tensor, padding: torch.Tensor) -> ModelOutput:
    return ModelOutput(*[None] * 6, symbols=logits, features=None, padding=padding)


def test_the_loss_is_the_cross_entropy_over_the_number_of_positives():
    logits = torch.tensor([[[[2.0, -1.0]], [[0.0, 4.0]]], [[[0.5, 3.0]], [[1.0, 2.0]]]])  # 2 symbols, 1 x 2 positions
    padding = torch.zeros(2, 1, 2, dtype=torch.bool)
    positive = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 1.0]]]])
    first, last = logits[0, :, 0, 0].log_softmax(0), logits[1, :, 0, 1].log_softmax(0)
    wanted = -(first[0] + first[1] + last[1]) / 3
    assert symbol_map_loss(outputs(logits, padding), positive).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_an_image_whose_symbols_have_no_known_place_is_left_out():
    logits, padding = torch.randn(2, 3, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    positive = torch.zeros(2, 3, 2, 2)
    positive[0, 1, 0, 0] = 1
    both = symbol_map_loss(outputs(logits, padding), positive).item()
    assert both == pytest.approx(symbol_map_loss(outputs(logits[:1], padding[:1]), positive[:1]).item())
    assert symbol_map_loss(outputs(logits[1:], padding[1:]), positive[1:]) == 0


def test_pieces_of_a_batch_add_up_to_the_whole():
    objective = Objective(recognizer().eval(), ["symbols"])
    assert objective.units == {"symbols": "symbol_positions"}
    pieces = [Batch(slice(0, 1)), Batch(slice(1, 2))]
    whole = objective.count_units(Batch())["symbol_positions"]
    shares = [objective.count_units(piece)["symbol_positions"] / whole for piece in pieces]
    assert sum(shares) == 1 and shares[0] != 0.5
    parts = [objective(piece)["symbols"] * share for piece, share in zip(pieces, shares, strict=True)]
    assert sum(parts).item() == pytest.approx(objective(Batch())["symbols"].item(), rel=1e-5)
    assert objective.count_units(None)["symbol_positions"] == 0


def test_the_map_learns_where_the_symbols_are():
    model, batch = recognizer(), Batch()
    objective = Objective(model, ["symbols"])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = objective(batch)["symbols"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


def test_weights_load_with_the_map_and_without_it():
    images, padding = Batch().images(""), Batch().padding("")
    with_map, without = recognizer(), recognizer(symbols=False)
    assert Recognizer(**with_map.architecture()).symbol_map is not None
    assert Recognizer(**without.architecture()).symbol_map is None
    torch.nn.init.normal_(with_map.decoder.output.weight)
    without.load_state_dict(with_map.state_dict())  # the map's weights are ignored
    assert with_map.eval().read(images, padding) == without.eval().read(images, padding)

    again = recognizer()
    own = again.symbol_map.output.weight.clone()
    again.load_state_dict(without.state_dict())  # the map keeps its own
    assert torch.equal(again.symbol_map.output.weight, own)
    torch.nn.init.normal_(with_map.symbol_map.output.weight)
    again.load_state_dict(with_map.state_dict())
    assert torch.equal(again.symbol_map.output.weight, with_map.symbol_map.output.weight)
    with pytest.raises(RuntimeError, match="decoder.output.bias"):
        again.load_state_dict({name: w for name, w in with_map.state_dict().items() if name != "decoder.output.bias"})


def published_weights(model: Recognizer, folder: Path) -> Checkpoint:
    about = {"architecture": model.architecture(), "vocabulary": list("abcde"), "data": {}}
    save_checkpoint(folder / "best.safetensors", model.state_dict(), about)
    publish(folder / "best.safetensors", folder / "small.safetensors")
    return load_checkpoint(folder / "small.safetensors")


def test_published_weights_have_no_map(tmp_path):
    model = recognizer()
    checkpoint = published_weights(model, tmp_path)
    assert not any(name.startswith("symbol_map") for name in checkpoint.weights)
    published = Recognizer(**checkpoint.about["architecture"])
    assert published.symbol_map is None
    load_weights(published, checkpoint)


def test_a_share_of_the_inputs_is_replaced_by_other_ordinary_tokens():
    torch.manual_seed(0)
    tokens = torch.randint(3, 9, (50, 200))
    tokens[:, 0], tokens[:, 1], tokens[:, -20:] = START, END, PAD
    noisy = replace_at_random(tokens, 0.15, 9)
    is_special = tokens <= END
    assert torch.equal(noisy[is_special], tokens[is_special])
    assert (noisy[~is_special] > END).all() and (noisy < 9).all()
    assert (noisy != tokens)[~is_special].float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert set(noisy[noisy != tokens].tolist()) == {3, 4, 5, 6, 7, 8}
    assert torch.equal(replace_at_random(tokens, 1.0, 9) == tokens, is_special)
    assert torch.equal(replace_at_random(tokens.clamp(max=3), 1.0, 4), tokens.clamp(max=3))  # there is no other token


def test_wrong_inputs_are_shown_only_while_the_decoder_trains_and_come_from_the_seed():
    model, batch = recognizer(), Batch()
    right, shown = teacher_forcing(batch.labels, batch.lengths, 1).inputs, []
    model.decoder.register_forward_pre_hook(lambda module, arguments: shown.append(arguments[2]))
    objective = Objective(model, ["label"], input_noise=0.9)
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        objective(batch)
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0], right) and torch.equal(shown[0][:, 0], right[:, 0])
    model.decoder.eval()
    objective(batch)
    Objective(model.train(), ["label"])(batch)
    assert torch.equal(shown[3], right) and torch.equal(shown[4], right)


def recognizer_that_votes() -> Recognizer:
    """Its decoder adds the logits of the map, whose weights are not small."""
    torch.manual_seed(0)
    encoder = {"growth": 4, "layers": [2, 2], "compression": 0.5, "dropout": 0.0}
    model = Recognizer(8, encoder, "gru", GRU | {"symbols": True}, symbols=True, domains=["handwritten"])
    torch.nn.init.normal_(model.decoder.symbols.output.weight)
    return model


def test_a_decoder_with_the_map_adds_its_logits_where_it_attends():
    model, without, batch = recognizer_that_votes(), recognizer(symbols=False), Batch()
    own = "decoder.symbols."
    without.load_state_dict({name: weight for name, weight in model.state_dict().items() if not name.startswith(own)})
    given = batch.images(""), batch.padding(""), batch.labels, batch.lengths
    output, plain = model(*given), without(*given)
    of_map = torch.einsum("blhw,bvhw->blv", output.attention, output.symbols)
    assert model.symbol_map is None and of_map.abs().max() > 0.1
    assert torch.allclose(output.logits, plain.logits + of_map, atol=1e-5)


def test_published_weights_keep_the_map_that_the_decoder_reads_with(tmp_path):
    model = recognizer_that_votes()
    checkpoint = published_weights(model, tmp_path)
    published = Recognizer(**checkpoint.about["architecture"])
    load_weights(published, checkpoint)
    weight = model.decoder.symbols.output.weight
    assert torch.allclose(published.decoder.symbols.output.weight, weight, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("model", [recognizer(), recognizer_that_votes()], ids=["own head", "of the decoder"])
def test_the_decoder_is_left_out_where_no_loss_asks_for_it(model, monkeypatch):
    whole = Objective(model.eval(), ["label", "symbols"])
    alone = Objective(model, ["symbols"])
    wanted = whole(Batch())["symbols"]
    monkeypatch.setattr(model.decoder, "forward", None)
    assert (whole.decodes, alone.decodes) == (True, False)
    assert torch.equal(alone(Batch())["symbols"], wanted)
