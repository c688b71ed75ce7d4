"""What would go wrong on a GPU, found without one: tensors left on the CPU, and steps that make the CPU wait."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import models.positions
from dataset.loading.batch import blank_batch
from dataset.vocabulary import Vocabulary
from models.losses import LOSSES, Objective
from models.recognizer import Recognizer
from models.search import beam_search, greedy
from tests.fake_gpu import DECODERS, GPU, StepwiseGRU, fake_gpu, move
from tests.made_up_ink import ROOT
from utils.config.loading import load_config
from utils.reading.reader import Reader, in_batches
from utils.training.averaging import EMA
from utils.training.devices import autocast
from utils.training.optimization import make_optimizer, train_only

VOCABULARY = 20
# The losses of each kind of images. context_contrast picks the tokens of a batch, whose number a CPU has to know.
ONE_IMAGE = [name for name, loss in LOSSES.items() if "pairs" not in loss.needs]
PAIRS = [name for name in LOSSES if name != "context_contrast"]
KINDS = [("standard", ONE_IMAGE), ("pairs", PAIRS), ("ink", ONE_IMAGE)]


@pytest.fixture
def gpu():
    """A GPU that is not there; see tests/fake_gpu.py."""
    try:
        with fake_gpu() as mode:
            yield mode
    except (OSError, ValueError, StopIteration) as error:
        pytest.skip(f"this build of torch cannot stand in for one with CUDA: {error}")


def full_model(decoder: str) -> Recognizer:
    """The network of the preset `full` with every head, but fewer layers, on the GPU that is not there."""
    smaller = ["model.encoder.layers=[2, 2, 2]", "model.counting=64"]
    config = load_config(ROOT / "config.yaml", "CROHME", None, [*DECODERS[decoder], *smaller])
    with torch.utils._python_dispatch._disable_current_modes():
        model = Recognizer.from_config(config.model, VOCABULARY, symbols=True)
        if hasattr(model.decoder, "gru"):
            model.decoder.gru = StepwiseGRU(model.decoder.gru)
    return move(model)


def fake_batch(kind: str):
    return blank_batch(3, 64, 96, 5, kind).to(GPU)


@pytest.mark.parametrize("decoder", DECODERS)
def test_all_losses_of_all_stages_stay_on_the_gpu_and_wait_for_nothing(gpu, decoder):
    model = full_model(decoder)
    for kind, names in KINDS:
        objective = Objective(model, names, label_smoothing=0.1, input_noise=0.1, uncounted=[3, 4]).train()
        batch = fake_batch(kind)
        with autocast(GPU):
            losses, units = objective(batch), objective.count_units(batch)
        assert set(losses) == set(names)
        assert {loss.device for loss in losses.values()} == {GPU}
        assert {unit.device for unit in units.values() if isinstance(unit, torch.Tensor)} <= {GPU}
        assert gpu.waits == [], kind


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adadelta"])  # fused SGD knows no fake tensors
def test_an_optimizer_and_the_averaged_weights_stay_on_the_gpu_and_wait_for_nothing(gpu, optimizer):
    assignments = [f"training.optimizer={optimizer}"]
    config = load_config(ROOT / "config.yaml", "CROHME", None, assignments)
    model = full_model("transformer")
    train_only(model, config.stages[0].trains)
    steps, averaged = make_optimizer(model, config.stages[0], config.training), EMA(model, 0.99)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    for _ in range(2):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        steps.step()
        averaged.update()
    kept = [value for state in steps.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    # Adadelta's count of steps stays on the CPU, where it is read.
    assert {value.device for value in kept if value.dim()} <= {GPU}
    assert gpu.waits == []


@pytest.mark.parametrize("decoder", DECODERS)
def test_search_and_reader_stay_on_the_gpu(gpu, decoder, monkeypatch):
    """As far as fake tensors go: for nine tokens, as no number is known, and without what turns numbers into boxes."""
    model = full_model(decoder)
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: nullcontext())  # which fake tensors do not know
    monkeypatch.setattr(model, "to", lambda device: model)
    vocabulary = Vocabulary(["x", "{", "}"])
    reader = Reader(model, vocabulary, {"image_scale": 1.0, "max_height": 64, "max_width": 96}, None, GPU)
    explanations = []

    def decode(batch):
        encoded = reader.model.encode(batch.images, batch.padding, "handwritten")
        assert len(greedy(model.decoder, *encoded, braces=model.braces)) == 10
        assert len(beam_search(model.decoder, *encoded, beam=3, braces=model.braces)) == 10
        explanations.extend(model.explain_encoded(encoded, 5 * [[3, 4], []]))
        return explanations

    in_batches([np.zeros(size, np.uint8) for size in 5 * [(40, 60), (64, 90)]], decode, reader.device)
    assert {explanation.attention.device for explanation in explanations} == {GPU}


def test_a_tensor_left_on_the_cpu_is_found(gpu, monkeypatch):
    model = full_model("transformer")
    sinusoids = models.positions.sinusoids
    monkeypatch.setattr(models.positions, "sinusoids", lambda positions, width: sinusoids(positions.cpu(), width))
    with pytest.raises(RuntimeError, match="same device.*cuda:0 and cpu"), autocast(GPU):
        Objective(model, ["label"])(fake_batch("ink"))


@pytest.mark.parametrize(
    "ask", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x[[0, 2]], lambda x: x.cpu(), lambda x: bool(x[0])]
)
def test_what_waits_for_the_gpu_is_found(gpu, ask):
    numbers = torch.zeros(3, device=GPU)
    numbers + 1
    assert gpu.waits == []
    ask(numbers)
    assert gpu.waits


def test_the_gru_as_a_loop_is_the_gru():
    gru = torch.nn.GRU(3, 4, batch_first=True)
    loop = StepwiseGRU(gru)
    loop.cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.state_dict().items()})
    inputs, hidden = torch.randn(2, 5, 3), torch.randn(1, 2, 4)
    torch.testing.assert_close(loop(inputs, hidden), gru(inputs, hidden))
