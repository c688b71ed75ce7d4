"""Which settings train fastest on the device at hand, and where the time of a step goes.

    python tests/benchmarks/gpu_speed.py --dataset CROHME --preset gpu --out speed.json

Batches of few shapes, budgets of a batch, workers, bf16 against fp32 and torch.compile, each a few steps of the longest
stage that shows ink. The file is written again after each measurement, so nothing is lost when time runs out.
Its `chosen` are assignments for --set: the smallest budget within a tenth of the best rate (more steps for the same
images), bf16 or fp32 and few shapes by rate, the fewest workers that draw images a third faster than they are learnt
from, and compilation where it pays for itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

GPU_BUDGETS = (8_000_000, 16_000_000, 32_000_000)  # padded pixels of a batch
WARM_UP, TIMED, PROFILED = 3, 8, 3  # steps; a CPU takes fewer
DRAWING_SECONDS = 2.5
DRAWING_WORKERS = min(8, max(1, (os.cpu_count() or 1) - 2))  # that draw the batches to be timed
PAYS = 1.05  # rates nearer than this count as equal
FEW_SHAPES = 48  # of the batches of an epoch; see batch.shapes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--preset", default="gpu")
    parser.add_argument("--init", help="weights whose network is measured, untrained")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=60, help="no measurement begins later; default: %(default)s")
    parser.add_argument("--training-seconds", type=float, default=420, help="that compiling has to pay for itself in")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


class Speed:
    """Measures settings one after the other, and keeps the file of results whole."""

    def __init__(self, options: argparse.Namespace, deadline: float):
        from dataset.loading.loaders import make_loaders, open_data
        from tests.benchmarks.gpu import configuration
        from utils.training.devices import choose_device, set_threads
        from utils.training.distributed import DistributedContext

        self.options, self.deadline = options, deadline
        self.config = configuration(options, options.dataset)
        self.device = choose_device(options.device)
        set_threads(self.config.threads)
        self.context = DistributedContext(device=self.device)
        self.data = open_data(self.config.data, self.config.dataset, self.config.seed)
        inked = [stage for stage in self.config.stages if stage.images == "ink"]
        self.stage = max(inked, key=lambda stage: stage.share or stage.epochs)
        self.results: dict[str, Any] = {"stage": self.stage.name, "rows": [], "workers": [], "profile": ""}
        self.chosen: dict[str, Any] = {}
        self.is_gpu = self.device.type == "cuda"
        stride = 2 ** (len(self.config.model.encoder.layers) + 1)
        config = dataclasses.replace(self.config, data=dataclasses.replace(self.config.data, workers=0))
        self.loader, _ = make_loaders(self.data, self.stage, config, "adaptive", stride, None, self.context)
        self.loader.set_epoch(0)
        self.drawn: list = []

    def write(self) -> None:
        from utils.files import atomic_write

        assignments = [f"{key}={json.dumps(value)}" for key, value in self.chosen.items()]
        atomic_write(self.options.out, json.dumps(self.results | {"chosen": assignments}, indent=1) + "\n")

    def has_time(self) -> bool:
        return time.monotonic() < self.deadline

    # --- steps ---

    def batches(self, max_pixels: int) -> list:
        """Batches of such a budget in memory, as a loader would have them ready."""
        from dataset.loading.loaders import Loader

        if self.loader.max_pixels != max_pixels or not self.drawn:
            self.loader.set_max_pixels(max_pixels)
            loader = Loader(self.loader.items, self.loader.sampler, DRAWING_WORKERS if self.is_gpu else 0)
            drawn = list(itertools.islice(iter(loader), WARM_UP + TIMED if self.is_gpu else 2))
            del loader
            self.drawn = [batch.pin_memory() for batch in drawn] if self.is_gpu else drawn
            self.loader.sampler.load_state_dict(self.loader.state_dict(0))
        return self.drawn

    def trainer(self, precision: str, is_compiled: bool = False) -> Any:
        """A Trainer with untrained weights and the loader's present budget."""
        from models.losses import Objective
        from models.recognizer import Recognizer
        from utils.training.devices import seed_everything
        from utils.training.epoch_log import LossWatch
        from utils.training.run_folder import Run
        from utils.training.trainer import Loaders, StagePlan, Trainer

        config = self.config
        training = dataclasses.replace(config.training, precision=precision)
        seed_everything(0)
        model = Recognizer.of(config, len(self.data.vocabulary)).to(self.device)
        if is_compiled:
            model.compile_repeated()
        names = [name for name, weight in self.stage.losses.items() if weight]
        inkless = self.data.vocabulary.inkless
        objective = Objective(model, names, training.label_smoothing, training.input_noise, inkless)
        plan = StagePlan(self.stage, 0, self.stage.name)
        run = Run(tempfile.gettempdir(), is_writer=False)
        trainer = Trainer(objective, Loaders(self.loader, None, "handwritten"), plan, training, run, self.context)
        trainer.watch = LossWatch(self.stage.name, 1, every=10**9)
        return trainer

    def wait(self) -> None:
        if self.is_gpu:
            import torch

            torch.cuda.synchronize()

    def measure(
        self, max_pixels: int, precision: str, is_compiled: bool = False, has_met_all: bool = False
    ) -> dict[str, Any]:
        """Seconds a step, and images a second: those of an epoch, all of its padded pixels at the rate measured.

        has_met_all: whether a step was taken with every batch before the first is timed.
        """
        import torch

        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        batches, trainer = self.batches(max_pixels), self.trainer(precision, is_compiled)
        warm_up = WARM_UP if self.is_gpu else 1
        begun = time.perf_counter()
        for batch in batches if has_met_all else batches[:warm_up]:
            trainer.train_step(batch)
        self.wait()
        started = time.perf_counter()
        for batch in batches[warm_up:]:
            trainer.train_step(batch)
        self.wait()
        seconds = time.perf_counter() - started
        pixels = sum(batch.padded_pixels for batch in batches[warm_up:])
        epoch = self.loader.sampler.summary()
        row = {
            "max_pixels": max_pixels,
            "precision": precision,
            "compile": is_compiled,
            "shapes": epoch["shapes"],
            "has_met_all": has_met_all,
            "first_steps": round(started - begun, 2),
            "seconds_a_step": round(seconds / len(batches[warm_up:]), 4),
            "images_per_second": round(pixels / seconds / epoch["pixels"] * epoch["images"], 1),
            "steps_an_epoch": epoch["batches"],
            "padding": round(epoch["padding"], 3),
            "splits": len(trainer.sums.splits),
        }
        if self.is_gpu:
            row["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        self.results["rows"].append(row)
        print(json.dumps(row), flush=True)
        return row

    # --- what is compared ---

    def choose_budget(self) -> dict[str, Any]:
        full = self.config.batch.cpu_max_pixels
        budgets = GPU_BUDGETS if self.is_gpu else (full // 2, full)
        rows: list[dict[str, Any]] = []
        for budget in budgets:
            if rows and not self.has_time():
                break
            rows.append(
                self.measure(budget, "bf16" if self.is_gpu else "fp32", has_met_all="batch.shapes" in self.chosen)
            )
            best = max(row["images_per_second"] for row in rows)
            row = next(row for row in rows if row["images_per_second"] * 1.1 >= best)
            self.chosen |= {"batch.max_pixels": row["max_pixels"], "training.precision": row["precision"]}
            self.write()
        return row

    def choose_precision(self, row: dict[str, Any]) -> dict[str, Any]:
        other = self.measure(row["max_pixels"], "fp32" if self.is_gpu else "bf16")
        if other["images_per_second"] > PAYS * row["images_per_second"]:
            row = other
            self.chosen["training.precision"] = row["precision"]
        return row

    def choose_workers(self, row: dict[str, Any]) -> None:
        """How fast so many processes draw images."""
        from dataset.loading.loaders import Loader

        cores = os.cpu_count() or 1
        for workers in dict.fromkeys(min(count, max(1, cores - 2)) for count in (8, 14)):
            if not self.has_time():
                return
            train = Loader(self.loader.items, self.loader.sampler, workers, pin_memory=self.is_gpu)
            batches = iter(train)
            for _ in range(2 * workers):  # what is ready before anybody waits says nothing
                next(batches, None)
            drawn, started = 0, time.perf_counter()
            while time.perf_counter() - started < DRAWING_SECONDS and (batch := next(batches, None)):
                drawn += len(batch)
            rate = drawn / (time.perf_counter() - started)
            del batches, train
            self.loader.sampler.load_state_dict(self.loader.state_dict(0))
            self.results["workers"].append({"workers": workers, "images_per_second": round(rate, 1)})
            print(json.dumps(self.results["workers"][-1]), flush=True)
            self.chosen["data.workers"] = workers
            self.write()
            if rate > 1.33 * row["images_per_second"]:
                return

    def choose_compile(self, row: dict[str, Any]) -> None:
        try:
            compiled = self.measure(row["max_pixels"], row["precision"], is_compiled=True)
        except Exception as error:  # no compiler, say: training goes on without
            self.results["compile_error"] = f"{type(error).__name__}: {str(error)[:500]}"
            return
        speed_up = compiled["images_per_second"] / row["images_per_second"]
        saved = self.options.training_seconds * (1 - 1 / speed_up)
        self.chosen["training.compile"] = speed_up > PAYS and saved > 1.5 * compiled["first_steps"]

    def choose_shapes(self, row: dict[str, Any]) -> None:
        """Few shapes have more padding, but meet no new one after a while, for which cuDNN would make a plan in every
        convolution. So all batches are met once before any is timed; the rate counts an epoch's padding.
        """
        from dataset.loading.loaders import Loader
        from dataset.sampler import AdaptiveBatchSampler, BatchCost, EpochPlan

        usual, source = self.loader, self.loader.items.source
        plan = EpochPlan(seed=self.config.seed, stride=usual.sampler.stride, chosen=source.chosen)
        cost = BatchCost(partner_sizes=source.partner_sizes)
        sampler = AdaptiveBatchSampler(source.sizes, row["max_pixels"], cost=cost, plan=plan, shapes=FEW_SHAPES)
        self.loader, self.drawn = Loader(usual.items, sampler), []
        self.loader.set_epoch(0)
        few = self.measure(row["max_pixels"], row["precision"], has_met_all=True)
        if few["images_per_second"] > PAYS * row["images_per_second"]:
            self.chosen["batch.shapes"] = FEW_SHAPES
        else:
            self.loader, self.drawn = usual, []

    def profile(self, row: dict[str, Any]) -> None:
        """The ten operations that take longest on the device, and how many are started in a step."""
        import torch
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        batches, trainer = self.batches(row["max_pixels"]), self.trainer(row["precision"])
        steps = PROFILED if self.is_gpu else 1
        trainer.train_step(batches[0])
        self.wait()
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.is_gpu else [])
        with profile(activities=activities) as profiler:
            for batch in batches[1 : 1 + steps]:
                trainer.train_step(batch)
            self.wait()
        events = profiler.events()
        kernels = sum(event.device_type == DeviceType.CUDA for event in events)
        operators = sum(event.device_type == DeviceType.CPU and event.name.startswith("aten::") for event in events)
        order = "self_device_time_total" if self.is_gpu else "self_cpu_time_total"
        self.results |= {
            "kernels_a_step": round(kernels / steps),
            "operator_calls_a_step": round(operators / steps),
            "profile": profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60),
        }
        if self.is_gpu:
            torch.cuda.empty_cache()

    def run(self) -> None:
        """What costs most when it is chosen badly first."""
        if self.is_gpu:
            self.choose_shapes(self.measure(GPU_BUDGETS[0], "bf16"))
        row = self.choose_budget()
        if self.config.data.workers:
            self.choose_workers(row)
        if self.has_time():
            self.profile(row)
            self.write()
        if self.has_time():
            row = self.choose_precision(row)
            self.write()
        if self.is_gpu and self.has_time():
            self.choose_compile(row)
        self.write()


def main() -> None:
    started = time.monotonic()
    options = parse()
    Speed(options, started + options.seconds).run()


if __name__ == "__main__":
    main()
