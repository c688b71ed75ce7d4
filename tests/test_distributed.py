"""Training in several processes, started by torchrun: every image once in all of them together, one that writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tests.script_process import QUICK

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = {
    "data": {"image_scale": 0.25, "validation_share": 0.2, "workers": 0},
    "batch": {"max_pixels": 20000},
    "model": {
        "encoder": {"growth": 4, "layers": [1, 1]},
        "decoder": "gru",
        "counting": 4,
        "gru": {"hidden": 8, "embedding": 8, "attention": 8, "coverage_kernel": 3},
    },
    "stages": {
        "standard": {"epochs": 1, "losses": {"counting": 1.0}, "expressions": {"synthetic": 0}},
        "alignment": {"epochs": 1},
        "handwritten": {"epochs": 1, "losses": {"counting": 1.0}},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    from dataset.images.sample import make_sample

    folder = tmp_path_factory.mktemp("ranks")
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["presets"]["tiny"] = OVERRIDES
    values["data"]["root"] = str(folder / "datasets")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    make_sample(folder / "datasets" / "TINY", train_labels=31, test_labels=4, workers=1, progress=False)
    return folder


def test_two_processes_train_one_model(home):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--"]
    command += [str(ROOT / "train_stage_ABS.py")]
    command += ["--dataset", "TINY", "--preset", "tiny", "--run", "two", "--device", "cpu"]
    command += ["--config", "config.yaml", "--checkpoints", "checkpoints"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    folder = home / "checkpoints" / "two"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    sizes = json.loads((folder / "summary.json").read_text())["sizes"]
    assert [line["stage"] for line in lines] == ["standard", "alignment", "handwritten"]
    assert [line["images"] for line in lines[1:]] == [sizes["train"]] * 2
    assert all(line["validation"]["items"] > 0 for line in lines)
    assert lines[2]["validation"]["items"] == sizes["validation"]
    assert json.loads((folder / "summary.json").read_text())["splits"]["test"]["items"] == 4


# ---- the same weights as in one process ------------------------------------------------------------------------------

STEPS = 20
STAGE = "{name: decoder, images: ink, trains: [decoder], losses: {label: 1}, epochs: 1, learning_rate: 0.02}"
SETTINGS = [f"stages=[{STAGE}]", "training.optimizer=sgd", "model.gru.dropout=0", "model.counting=0",
            "training.label_smoothing=0.1", "batch.max_pixels=9000", "training.clock=steps",
            f"training.minutes={STEPS / 60}"]  # fmt: skip


class WholeSteps:
    """What all processes see in a step, as one batch."""

    max_pixels, fetched_ahead = None, 0

    def __init__(self, loader):
        self.loader = loader

    def set_epoch(self, *arguments, **options):
        self.loader.set_epoch(*arguments, **options)

    def state_dict(self, step):
        return {}

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        from dataset.loading.batch import collate

        for step in range(len(self.loader)):
            indices = np.concatenate(self.loader.sampler.batches_of(step))
            yield collate([self.loader.items[self.loader.epoch, int(index)] for index in indices])


def train(home: Path, name: str, context) -> dict[str, torch.Tensor]:
    """Train a decoder on what two processes see, in one process or in both. BatchNorm stays out: its batch differs."""
    from dataset.loading.loaders import make_loaders, open_data
    from models.losses import Objective
    from models.recognizer import Recognizer
    from utils.config.loading import load_config
    from utils.training.run_folder import Run
    from utils.training.trainer import Loaders, StagePlan, Trainer

    torch.set_num_threads(1)
    config = load_config(home / "config.yaml", "TINY", "tiny", [*SETTINGS, f"data.root={home / 'datasets'}"])
    data, stage = open_data(config.data, "TINY", 0), config.stages[0]
    torch.manual_seed(0)
    model = Recognizer.from_config(config.model, len(data.vocabulary), config.domains())
    objective = Objective(model, stage.losses, config.training.label_smoothing)
    place = SimpleNamespace(rank=context.rank, world_size=2)
    train, validation = make_loaders(data, stage, config, "adaptive", 4, None, place)
    if context.world_size == 1:
        train = WholeSteps(train)
    run = Run(home / name, is_writer=context.is_first)
    run.begin({}, [], {"architecture": {}, "vocabulary": [], "data": {}})
    plan = StagePlan(stage, 0, "stage", float(STEPS))
    Trainer(objective, Loaders(train, validation, "handwritten"), plan, config.training, run, context).fit()
    return torch.load(home / name / "state.pt", weights_only=True)["model"] if context.is_first else {}


def train_in_one_of_two(rank: int, home: Path) -> None:
    from utils.training.distributed import DistributedContext

    torch.distributed.init_process_group("gloo", init_method=f"file://{home}/store", rank=rank, world_size=2)
    train(home, "both", DistributedContext(rank, 2))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo")
def test_two_processes_end_in_the_weights_of_one(home):
    from utils.training.distributed import SINGLE_PROCESS

    processes = [QUICK.Process(target=train_in_one_of_two, args=(rank, home), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    alone = train(home, "alone", SINGLE_PROCESS)
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    both = torch.load(home / "both" / "state.pt", weights_only=True)
    assert both["clock"]["steps"] == STEPS
    for name, weight in alone.items():
        torch.testing.assert_close(both["model"][name], weight, rtol=1e-5, atol=1e-5, msg=name)


# ---- what each process reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["fixed", "adaptive"])
def test_eight_processes_together_read_every_image_once(home, batching):
    from dataset.loading.loaders import make_loaders, open_data
    from utils.config.loading import load_config

    config = load_config(home / "config.yaml", "TINY", "tiny", [f"data.root={home / 'datasets'}"])
    data, stage = open_data(config.data, "TINY", 0), config.stages[2]
    places = [SimpleNamespace(rank=rank, world_size=8) for rank in range(8)]
    pairs = [make_loaders(data, stage, config, batching, 4, None, place) for place in places]
    for kind, split in ((0, "train"), (1, "validation")):
        loaders = [pair[kind] for pair in pairs]
        assert len({len(loader) for loader in loaders}) == 1
        for epoch in range(2):
            seen, sent = [], []
            for loader in loaders:
                loader.set_epoch(epoch)
                batches = list(loader)
                seen += [index for batch in batches if batch is not None for index in batch.indices]
                sent.append([(batch.tokens, len(batch)) if batch is not None else (0, 0) for batch in batches])
            assert sorted(seen) == list(range(data.counts()[split]))
            planned = np.array([loaders[0].counts(step) for step in range(len(loaders[0]))])
            assert (planned.transpose(1, 0, 2) == np.array(sent)).all()  # known in each process, without asking


class Noise(torch.nn.Module):
    """Draws random numbers in its forward pass, as dropout does."""

    units, indivisible = {"label": "tokens"}, ()

    def count_units(self, batch):
        return {"tokens": batch.tokens, "images": len(batch)}

    def __init__(self, context):
        super().__init__()
        self.model = torch.nn.BatchNorm1d(2)
        self.model.parts = lambda: {"decoder": [self.model]}
        self.drawn, self.context = [], context

    def forward(self, batch):
        noise = torch.rand(4, 2) + self.context.rank
        self.drawn.append(noise[0, 0].item() - self.context.rank)
        return {"label": self.model(noise).square().mean()}


def step_in_one_of_two(rank: int, home: Path, queue) -> None:
    """One training step; tells what was drawn, and the BatchNorm statistics before and after they are exchanged."""
    from utils.config.loading import load_config
    from utils.training.distributed import DistributedContext
    from utils.training.run_folder import Run
    from utils.training.trainer import Loaders, StagePlan, Trainer

    torch.distributed.init_process_group("gloo", init_method=f"file://{home}/step", rank=rank, world_size=2)
    context = DistributedContext(rank, 2)
    config = load_config(home / "config.yaml", "TINY", "tiny", [f"stages=[{STAGE}]"])
    options = {"max_pixels": None, "fetched_ahead": 0, "counts": lambda self, step: np.array([[1, 1], [1, 1]])}
    train = type("Train", (), {**options, "__len__": lambda self: 1})()
    objective = Noise(context)
    plan = StagePlan(config.stages[0], 0, "stage")
    trainer = Trainer(objective, Loaders(train, None, "handwritten"), plan, config.training, Run(home), context)
    trainer.watch = SimpleNamespace(see=lambda *_: False)
    batch = type("Batch", (), {"tokens": 1, "pixels": 1, "padded_pixels": 1, "names": ("a",), "__len__": lambda _: 1})()
    batch.to = lambda device: batch
    trainer.train_step(batch)
    queue.put((rank, objective.drawn, objective.model.running_mean.tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo")
def test_processes_share_batch_norm_and_draw_different_numbers(home):
    queue = QUICK.Queue()
    processes = [QUICK.Process(target=step_in_one_of_two, args=(rank, home, queue), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = {rank: rest for rank, *rest in (queue.get(timeout=90) for _ in processes)}
    assert found[0][0] != found[1][0]  # each has its own seed, or both would drop the same features
    assert found[0][1] == found[1][1]  # the mean of both: about 0.1 x (0.5 + 1.5) / 2
    assert found[0][1] == pytest.approx([0.1, 0.1], abs=0.04)


@pytest.mark.parametrize(
    ("devices", "made"), [(("cuda:0", "cuda:1"), ["nccl"]), (("cuda:0", "cuda:0"), []), (("cpu", "cpu"), [])]
)
def test_processes_with_gpus_of_their_own_exchange_tensors_by_nccl(monkeypatch, devices, made):
    """It refuses those that share one; gloo, which the default group has, does not."""
    from utils.training.distributed import DistributedContext

    groups = []
    monkeypatch.setattr(
        DistributedContext, "gather", lambda self, _: [("host", torch.device(d).index) for d in devices]
    )
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: groups.append(backend))
    DistributedContext(0, 2, devices[0])
    assert groups == made
