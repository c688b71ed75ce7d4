"""How long an epoch takes with fixed and with adaptive batches: the same model, the same images, in turn.

    python tests/benchmarks/batching.py --dataset CROHME --images 2000

Prints seconds, images a second and the share of padding for batches of 8 at random, batches of 8 of like size,
and the Adaptive Batch Sampler; then how many times faster than the first each one is.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=str(ROOT / "datasets"))
    parser.add_argument("--dataset", default="CROHME")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--images", type=int, default=2000, help="so many of the training images, at random")
    parser.add_argument("--max-pixels", type=int, default=1_350_000, help="budget, scaled with the images' area")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    import numpy as np
    import torch

    from dataset.loading.loaders import Items, Loader, open_data
    from dataset.sampler import AdaptiveBatchSampler, EpochPlan, FixedBatchSampler
    from models.losses import Objective
    from models.recognizer import Recognizer
    from utils.config.loading import load_config
    from utils.training.devices import autocast, choose_device
    from utils.training.optimization import train_only

    device = choose_device(options.device)
    config = load_config(ROOT / "config.yaml", options.dataset, options.preset, [f"data.root={options.root}"])
    data = open_data(config.data, config.dataset, config.seed)
    ink = data.ink("train")
    chosen = np.zeros(len(ink), bool)
    chosen[np.random.default_rng(0).permutation(len(ink))[: options.images]] = True
    ink = ink.part(chosen)

    torch.manual_seed(0)
    model = Recognizer.from_config(config.model, len(data.vocabulary), ("handwritten",)).to(device)
    train_only(model, ("handwritten_encoder", "decoder"))
    objective, stride = Objective(model, config.stages[-1].losses), model.handwritten_encoder.stride
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    max_pixels = int(options.max_pixels * config.data.image_scale**2)
    samplers = {
        "8 at random": FixedBatchSampler(ink.sizes, 8, plan=EpochPlan(stride=stride)),
        "8 of like size": FixedBatchSampler(ink.sizes, 8, pool=64, plan=EpochPlan(stride=stride)),
        f"adaptive, {max_pixels:,} px": AdaptiveBatchSampler(ink.sizes, max_pixels, plan=EpochPlan(stride=stride)),
    }

    def epoch(sampler, number: int) -> float:
        loader = Loader(Items(ink, "ink", 0), sampler, config.data.workers)
        loader.set_epoch(number)
        started = time.perf_counter()
        for batch in loader:
            with autocast(device):
                losses = objective(batch.to(device))
                total = sum(losses.values())
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for _ in zip(range(3), Loader(Items(ink, "ink", 0), samplers["8 at random"]), strict=False):
        pass  # the first batches pay for what libraries set up
    seconds = {name: [] for name in samplers}
    for number in range(options.rounds):
        for name, sampler in samplers.items():
            seconds[name].append(epoch(sampler, number))
    slowest = min(seconds["8 at random"])
    print(f"{len(ink)} images of {config.dataset}, {options.preset}, {device}, {torch.get_num_threads()} threads")
    print(f"{'batches':28} {'seconds':>8} {'images/s':>10} {'padding':>8} {'batches':>8} {'faster':>7}")
    for name, sampler in samplers.items():
        best, facts = min(seconds[name]), sampler.summary()
        print(
            f"{name:28} {best:8.1f} {len(ink) / best:10.1f} {facts['padding']:8.1%} {facts['batches']:8} "
            f"{slowest / best:6.2f}x"
        )


if __name__ == "__main__":
    main()
