"""Train a recognizer of handwritten mathematics in stages: standard images, alignment, handwriting.

python train_stage.py --dataset SAMPLE
python train_stage.py --dataset CROHME --preset small --set stages.2.epochs=20
python train_stage.py --dataset CROHME --minutes 60
python train_stage.py --dataset CROHME --resume
python train_stage.py --dataset MINE --init checkpoints/crohme.safetensors --preset finetune
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from utils.script import open_config, parse_training_options, run_script

if TYPE_CHECKING:
    import torch

    from dataset.loading.loaders import Data, Loader
    from dataset.vocabulary import Vocabulary
    from models.recognizer import Reads, Recognizer
    from utils.config.schema import Config
    from utils.training.initialization import Start


def main(batching: str = "fixed", description: str = __doc__) -> int:
    """Run every stage of the config. batching: "fixed" counts of images, or "adaptive" to a budget of pixels."""
    started = time.monotonic()
    options = parse_training_options(description)
    config, resumed = open_config(options)

    # Heavy imports come once the words above are known to make sense.
    from dataset.loading.batch import blank_batch
    from dataset.loading.loaders import check_augment, check_stages, make_loaders, open_data
    from models.losses import Objective
    from utils.training.devices import choose_device, set_threads
    from utils.training.distributed import DistributedContext
    from utils.training.initialization import Start
    from utils.training.memory import measured_once
    from utils.training.report import print_stages, report
    from utils.training.run_folder import new_folder, open_run
    from utils.training.trainer import Loaders, StagePlan, Trainer

    check_augment(config.augment)
    set_threads(config.threads)
    context = DistributedContext.join(choose_device(config.device))
    folder = resumed or context.first(lambda: new_folder(options.checkpoints, config.dataset, options.run))
    start = Start.of(config.init, resumed)
    data = context.first_then_all(lambda: open_data(config.data, config.dataset, config.seed, start.tokens))
    check_stages(data, config)

    model, stride = make_model(config, data.vocabulary, start, context.device)
    about = {"architecture": model.architecture(), "vocabulary": data.vocabulary.tokens, "data": data.about()}
    about |= {"held_out": data.held_out and data.held_out._asdict()}
    settings = config.as_dict() | {"batching": batching}
    run = open_run(folder, settings, about, context.is_first, resumed is not None, options.tensorboard)
    if context.is_first:
        print_stages(config, data, model, run, context.device, batching)
        for line in start.describe(data.own_vocabulary.tokens, config.stages):
            print(line, flush=True)
        if not resumed and context.device.type == "cpu" and context.world_size == 1:
            print_duration(config, data, model, batching, options.preset)

    for index, stage in enumerate(config.stages):
        if run.restore_finished(stage.name, model):  # an earlier start did it: its best weights are loaded
            continue
        images = data.of_stage(stage)
        run.about["data"] = images.about()
        if stage.starts_from_standard:
            model.start_handwritten_from_standard()
        if stage.starts_from_decoder:
            model.start_backwards_from_decoder()
        objective = Objective.of(model, stage, config.training, data.vocabulary.inkless)
        memory = None
        if batching == "adaptive" and config.batch.max_pixels == "auto":
            memory = measured_once(objective, stage, config.training, blank_batch, run, context)
        make = partial(make_loaders, images, stage, config, batching, stride, memory, context)
        loaders = Loaders(*context.first_then_all(make), stage.domain, memory, config.batch.reference_pixels)
        plan = StagePlan.of(config, index, run.stage_seconds)
        Trainer(objective, loaders, plan, config.training, run, context).fit()

    if context.is_first:
        splits = ("validation", *(() if options.validation_only else data.splits))
        reading, loaders = at_scales(model, data, config.data.scales, splits, stride)
        report(reading, data, loaders, config, run, context.device, time.monotonic() - started)
    context.leave()
    return 0


def make_model(config: Config, vocabulary: Vocabulary, start: Start, device: torch.device) -> tuple[Recognizer, int]:
    """The network that the configuration describes, with the weights that the run starts from, and its stride."""
    from models.recognizer import Recognizer
    from utils.training.devices import seed_everything

    seed_everything(config.seed)
    model = Recognizer.of(config, len(vocabulary))
    start.load_into(model)
    model.braces = vocabulary.braces
    model = model.to(device)
    if config.training.compile:
        model.compile_repeated()
    return model, model.handwritten_encoder.stride


def print_duration(config: Config, data: Data, model: Recognizer, batching: str, preset: str | None) -> None:
    """Say how long all stages will take on the CPU, before they begin; a run by time says so itself."""
    from dataset.loading.batch import blank_batch
    from models.losses import Objective
    from utils.training.duration import describe_duration, stage_time, usual_batch

    if config.training.minutes or config.training.compile:
        return
    seconds = []
    for stage in config.stages:
        objective = Objective.of(model, stage, config.training, data.vocabulary.inkless)
        epoch = data.epoch_size(stage)
        images = usual_batch(config, batching, epoch)
        seconds.append(stage_time(objective, stage, epoch, images, blank_batch, config.training.precision))
    for line in describe_duration(config.stages, seconds, preset):
        print(line, flush=True)


def at_scales(
    model: Recognizer, data: Data, scales: Sequence[float], splits: Iterable[str], stride: int
) -> tuple[Reads, dict[str, Loader]]:
    """What reads at the run's end, and what it reads: the network at these scales, and the loader of each split."""
    from dataset.loading.loaders import reading_loader
    from utils.reading.scaling import largest_and_ratios

    largest, ratios = largest_and_ratios(scales)
    images = data.resized(data.settings.image_scale * largest)
    return model.at_scales(ratios), {split: reading_loader(images.ink(split), stride) for split in splits}


if __name__ == "__main__":
    run_script(main, go_on="--resume continues")
