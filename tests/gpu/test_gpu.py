"""What only a GPU can show. Run with `pytest -m gpu`; without a GPU these tests skip themselves.

To try the tests themselves on a CPU, all but those about memory and waiting: GPU_TESTS_ON=cpu pytest -m gpu
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from dataset.images.sample import make_sample
from dataset.loading.batch import blank_batch
from dataset.loading.loaders import make_loaders, open_data
from models.losses import Objective
from models.recognizer import Recognizer
from tests.fake_gpu import DECODERS
from tests.made_up_ink import ROOT
from utils.config.loading import load_config
from utils.training.devices import seed_everything
from utils.training.distributed import DistributedContext
from utils.training.epoch_log import LossWatch
from utils.training.memory import MemoryModel, free_memory, measure_memory
from utils.training.run_folder import Run
from utils.training.trainer import Loaders, StagePlan, Trainer

ON_CPU = os.environ.get("GPU_TESTS_ON") == "cpu"
DEVICE = torch.device("cpu" if ON_CPU else "cuda:0")
GIB = 2**30
VOCABULARY = 113
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ON_CPU and not torch.cuda.is_available(), reason="needs a CUDA device; there is none"),
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none")

SMALLER = ["model.encoder.layers=[2, 2, 2]"] if ON_CPU else []
NO_DROPOUT = ["model.encoder.dropout=0", "model.transformer.dropout=0", "model.gru.dropout=0"]
ATTENDED = {"label": 1.0, "attention": 1.0, "symbols": 1.0}
STAGES = {
    "standard": {"images": "standard", "trains": ("standard_encoder", "decoder"), "losses": ATTENDED},
    "alignment": {
        "images": "pairs",
        "trains": ("handwritten_encoder",),
        "losses": {"label": 1.0, "context_cosine": 1.0, "distribution": 0.5},
    },
    "handwritten": {"images": "ink", "trains": ("handwritten_encoder", "decoder"), "losses": ATTENDED},
}


@pytest.fixture(autouse=True)
def begin_with_free_memory():
    yield
    free_memory()
    if not ON_CPU and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)


class NoLoader:
    """Stands where a Trainer has its loader, for steps on batches that are given by hand."""

    max_pixels, fetched_ahead = None, 0

    def __len__(self):
        return 100


def full_config(decoder="transformer", *assignments):
    assignments = [*DECODERS[decoder], *SMALLER, *assignments]
    return load_config(ROOT / "config.yaml", "CROHME", None, assignments)


def trainer_of(stage_name, decoder="transformer", *assignments):
    """A Trainer of the preset `full`, as it would take its first steps; its losses need no data set."""
    config = full_config(decoder, *assignments)
    stage = dataclasses.replace(config.stages[0], name=stage_name, **STAGES[stage_name])
    seed_everything(0)
    model = Recognizer.from_config(config.model, VOCABULARY, symbols=True).to(DEVICE)
    objective = Objective(model, stage.losses, input_noise=config.training.input_noise)
    run = Run("nowhere", is_writer=False)
    context = DistributedContext(device=DEVICE)
    trainer = Trainer(
        objective, Loaders(NoLoader(), None, "handwritten"), StagePlan(stage, 0, ""), config.training, run, context
    )
    trainer.watch = LossWatch(stage_name, 1, every=1000)
    return trainer


def batch_of(stage_name, count=4, height=64, width=160, tokens=12):
    """A batch of the same image again and again: so BatchNorm finds in its pieces what it finds in the whole."""
    batch = blank_batch(count, height, width, tokens, STAGES[stage_name]["images"])
    image = torch.randint(0, 256, (height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for images in (batch.ink, batch.standard):
        if images is not None:
            images.copy_(image)
    return batch if ON_CPU else batch.pin_memory()


def losses_of(trainer):
    return {name: float(value) for name, value in trainer.sums.losses.items()}


@contextmanager
def waiting_is_an_error():
    """In this block, an operation that makes the CPU wait for the GPU raises an error."""
    if ON_CPU:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("stage_name", STAGES)
def test_a_step_of_each_stage_learns_and_waits_for_nothing(stage_name, decoder):
    optimizer = "muon" if "map" in decoder else "adamw"
    trainer = trainer_of(stage_name, decoder, f"training.optimizer={optimizer}", "training.input_noise=0.1")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    # More than 3,072 tokens, where torch takes another kernel for the gradient of an embedding.
    batch = batch_of(stage_name, **({} if ON_CPU else {"count": 64, "tokens": 60}))
    trainer.train_step(batch)  # makes what an optimizer keeps
    with waiting_is_an_error():
        trainer.train_step(batch)
    assert all(math.isfinite(value) for value in losses_of(trainer).values())
    learnt = {name.split(".")[0] for name, value in trainer.model.named_parameters() if not value.equal(before[name])}
    expected = {"standard": "standard_encoder", "alignment": "handwritten_encoder"}.get(
        stage_name, "handwritten_encoder"
    )
    assert expected in learnt and ("decoder" in learnt) == (stage_name != "alignment")


@pytest.mark.parametrize("decoder", DECODERS)
def test_bf16_and_fp32_agree(decoder):
    """Of few layers: an untrained network makes the roundings of each layer larger in the next."""
    found, few = {}, "model.encoder.layers=[2, 2, 2]"
    for precision in ("fp32", "bf16"):
        trainer = trainer_of("handwritten", decoder, f"training.precision={precision}", *NO_DROPOUT, few)
        trainer.train_step(batch_of("handwritten"))
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        found[precision] = losses_of(trainer), gradient
    for name, value in found["fp32"][0].items():
        assert found["bf16"][0][name] == pytest.approx(value, rel=0.03, abs=1e-3), name
    assert torch.cosine_similarity(found["fp32"][1], found["bf16"][1], dim=0) > 0.9


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_gpu_reads_what_a_cpu_reads(decoder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = full_config(decoder)
    seed_everything(0)
    model = Recognizer.from_config(config.model, VOCABULARY, ("handwritten",)).eval()
    batch = batch_of("handwritten", count=2)
    images, padding = batch.images("handwritten"), batch.padding("handwritten")
    with torch.no_grad():
        on_cpu = model(images, padding, batch.labels, batch.lengths).logits
        beams = model.read(images, padding, beam=4)
        model.to(DEVICE)
        given = [tensor.to(DEVICE) for tensor in (images, padding, batch.labels, batch.lengths)]
        on_gpu = model(*given).logits
        assert len(model.read(*given[:2])) == 2
        assert len(model.read(*given[:2], beam=4)) == len(beams)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=2e-2, rtol=1e-2)


# ---- memory ----------------------------------------------------------------------------------------------------------


def cap_memory(gib):
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    if total < gib * GIB:
        pytest.skip(f"needs {gib} GiB of GPU memory")
    torch.cuda.set_per_process_memory_fraction(gib * GIB / total)


@needs_cuda
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_probed_budget_fits_and_is_used(decoder):
    """max_pixels: auto, where 8 GiB are all that may be taken."""
    trainer = trainer_of("handwritten", decoder)
    cap_memory(8)
    make = partial(blank_batch, kind="ink")
    model = MemoryModel(**measure_memory(trainer.objective, trainer.stage, make, DEVICE, "bf16"))
    count = int(model.max_pixels / (128 * 512 * (1 + model.token_cost * 30)))
    assert count > 10
    torch.cuda.reset_peak_memory_stats()
    trainer.train_step(batch_of("handwritten", count, 128, 512, 30))
    assert trainer.sums.splits == []
    peak = torch.cuda.max_memory_allocated()
    assert 0.5 * 8 * GIB < peak <= 8 * GIB
    assert peak == pytest.approx(model.predict(count * 128 * 512 * (1 + model.token_cost * 30)), rel=0.25)


@needs_cuda
@pytest.mark.parametrize("stage_name", ["standard", "handwritten"])
def test_a_batch_too_large_for_4_gib_is_learnt_in_pieces(stage_name):
    found = []
    for cap in (None, 4):
        trainer = trainer_of(stage_name, "transformer", *NO_DROPOUT, "training.precision=fp32")
        if cap:
            cap_memory(cap)
        trainer.train_step(batch_of(stage_name, 64, 128, 512, 12))  # 12 GB in fp32; all images are alike
        found.append(losses_of(trainer))
        assert bool(trainer.sums.splits) == bool(cap)
        trainer.train_step(batch_of(stage_name))  # and training goes on
        del trainer
        free_memory()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-2), name


# ---- a run -----------------------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


def train_sample(folder, root, workers, stop_after=None, resume=False):
    """Two epochs of SAMPLE's last stage, stopped after so many steps, or going on."""
    assignments = [
        f"data.root={root}",
        f"data.workers={workers}",
        "data.validation_share=0.2",
        "data.image_scale=0.5",
    ]
    assignments += ["batch.max_pixels=60000", "training.save_minutes=1e-9", "stages.handwritten.epochs=2"]
    config = load_config(ROOT / "config.yaml", "SAMPLE", None, assignments)
    data = open_data(config.data, "SAMPLE", 0)
    seed_everything(0)
    model = Recognizer.from_config(config.model, len(data.vocabulary)).to(DEVICE)
    stage = next(stage for stage in config.stages if stage.name == "handwritten")
    objective = Objective(model, [name for name, weight in stage.losses.items() if weight])
    context, steps = DistributedContext(device=DEVICE), []
    train, validation = make_loaders(data, stage, config, "adaptive", 8, None, context)
    about = {"architecture": model.architecture(), "vocabulary": data.vocabulary.tokens, "data": data.about()}
    run = Run(folder)
    (run.resume if resume else run.begin)(config.as_dict(), data.vocabulary.tokens, about)
    trainer = Trainer(
        objective, Loaders(train, validation, "handwritten"), StagePlan(stage, 0, "test"), config.training, run, context
    )
    take = trainer.train_step

    def step(batch):
        if len(steps) == stop_after:
            raise Cut
        steps.append(batch.names)
        take(batch)

    trainer.train_step = step
    trainer.fit()
    return run.lines(), steps, model.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_as_one_never_stopped(tmp_path, workers):
    make_sample(tmp_path / "data" / "SAMPLE", train_labels=24, test_labels=4, workers=1, progress=False)
    lines, steps, weights = train_sample(tmp_path / "whole", tmp_path / "data", workers)
    after = len(steps) // 2 + 2
    with pytest.raises(Cut):
        train_sample(tmp_path / "cut", tmp_path / "data", workers, stop_after=after)
    resumed_lines, rest, resumed = train_sample(tmp_path / "cut", tmp_path / "data", workers, resume=True)
    assert rest == steps[after:]  # the same batches, saved after each step
    assert [line["epoch"] for line in resumed_lines] == [1, 2]
    # Sums on a GPU are not made in the same order each time, and training makes small differences larger.
    last = [run[-1]["losses"]["total"] for run in (lines, resumed_lines)]
    assert last[1] == pytest.approx(last[0], rel=0.05)
    assert {name for name in weights} == {name for name in resumed}


def test_two_processes_that_share_a_gpu_train_one_model(tmp_path):
    make_sample(tmp_path / "data" / "SAMPLE", train_labels=24, test_labels=4, workers=1, progress=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--"]
    command += ["train_stage_ABS.py", "--dataset", "SAMPLE", "--device", str(DEVICE), "--run", "two"]
    command += ["--checkpoints", str(tmp_path), "--validation-only", "--set", f"data.root={tmp_path / 'data'}"]
    command += ["data.validation_share=0.2", "data.image_scale=0.5", "batch.max_pixels=60000"]
    command += [f"stages.{stage}.epochs=1" for stage in ("standard", "alignment", "handwritten")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    sizes = json.loads((tmp_path / "two" / "summary.json").read_text())["sizes"]
    assert [line["images"] for line in lines[1:]] == [sizes["train"]] * 2


# ---- last, because the first step takes its time ---------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["transformer", "gru with a map"])
def test_a_compiled_decoder_computes_the_same(decoder):
    found = []
    for is_compiled in (False, True):
        trainer = trainer_of("handwritten", decoder, *NO_DROPOUT)
        if is_compiled:
            trainer.model.compile_repeated()
        trainer.train_step(batch_of("handwritten"))
        trainer.train_step(batch_of("handwritten", count=3, width=96, tokens=7))  # another shape
        found.append(losses_of(trainer))
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=0.03), name
