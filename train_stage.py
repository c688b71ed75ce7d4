"""Train a recognizer of handwritten mathematics in stages: standard images, alignment, handwriting.

python train_stage.py --dataset SAMPLE
python train_stage.py --dataset CROHME --preset small --set stages.2.epochs=20
python train_stage.py --dataset CROHME --minutes 60
python train_stage.py --dataset CROHME --resume
"""

from __future__ import annotations

import time
from pathlib import Path

from utils.script import parse_training_options, run_script

CHECKPOINTS = Path("checkpoints")


def main(batching: str = "fixed", description: str = __doc__) -> int:
    """Run every stage of the config. batching: "fixed" counts of images, or "adaptive" to a budget of pixels."""
    started = time.monotonic()
    options = parse_training_options(description)
    config, resumed = open_config(options, batching)

    # Heavy imports come once the words above are known to make sense.
    from dataset.loading.loaders import check_stages, make_loaders, open_data, reading_loader
    from models.objective import Objective
    from models.recognizer import Recognizer
    from utils.training.clock import stage_seconds
    from utils.training.devices import choose_device, seed_everything, set_threads
    from utils.training.distributed import DistributedContext
    from utils.training.report import print_stages, report
    from utils.training.run_folder import Run, new_folder
    from utils.training.trainer import Loaders, StagePlan, Trainer

    set_threads(config.threads)
    device = choose_device(config.device)
    context = DistributedContext.join(device)
    folder = resumed or context.first(lambda: new_folder(CHECKPOINTS, config.dataset, options.run))
    data = context.first_then_all(lambda: open_data(config.data, config.dataset, config.seed))
    check_stages(data, config)

    seed_everything(config.seed)
    model = Recognizer.from_config(config.model, len(data.vocabulary), config.domains())
    stride = model.handwritten_encoder.stride
    run = Run(folder, is_writer=context.is_first)
    about = {"architecture": model.architecture(), "vocabulary": data.vocabulary.tokens, "data": data.about()}
    begin = run.resume if resumed else run.begin
    begin(config.as_dict() | {"batching": batching}, data.vocabulary.tokens, about)
    model.to(device)
    if config.training.compile:
        model.compile_repeated()
    if context.is_first:
        print_stages(config, data, model, run, device, batching)

    for index, stage in enumerate(config.stages):
        if run.restore_finished(stage.name, model):  # an earlier start did it: its best weights are loaded
            continue
        if stage.starts_from_standard:
            model.start_handwritten_from_standard()
        losses = [name for name, weight in stage.losses.items() if weight]
        objective = Objective(model, losses, config.training.label_smoothing)
        memory = measured_memory(objective, stage, config, batching, run, context)
        train, validation = context.first_then_all(
            lambda stage=stage, memory=memory: make_loaders(data, stage, config, batching, stride, memory, context)
        )
        domain = "standard" if stage.pictures == "standard" else "handwritten"
        seconds = stage_seconds(config.training.minutes, config.stages, index, run.stage_seconds)
        title = f"stage {index + 1}/{len(config.stages)} {stage.name}"
        plan = StagePlan(stage, config.seed + index, title, seconds)
        Trainer(objective, Loaders(train, validation, domain, memory), plan, config.training, run, context).fit()

    if context.is_first:
        loaders = {split: reading_loader(data.ink(split), stride) for split in ("validation", *data.splits)}
        report(model, data, loaders, config, run, device, time.monotonic() - started)
    context.leave()
    return 0


def open_config(options, batching):
    """The configuration that the command line asks for, and the folder of the run that it resumes, if it does."""
    from utils.config.schema import load_config
    from utils.training.run_folder import find_run

    resumed = find_run(CHECKPOINTS, options.dataset, options.run) if options.resume else None
    path, dataset, preset = options.config, options.dataset, options.preset
    return load_config(path or "config.yaml", dataset, preset, options.set, options.device), resumed


def measured_memory(objective, stage, config, batching, run, context):
    """What a step of the stage needs, probed once a run, where adaptive batches are to fill a GPU; else None."""
    from dataset.loading.batch import blank_batch
    from utils.training.memory import MemoryModel, measure_memory

    if batching != "adaptive" or config.batch.max_pixels != "auto" or context.device.type != "cuda":
        return None

    def make_batch(count: int, height: int, width: int, tokens: int):
        return blank_batch(count, height, width, tokens, stage.pictures)

    def probe() -> dict:
        return measure_memory(objective, stage, make_batch, context.device, config.training.precision)

    return MemoryModel(**context.first_then_all(lambda: run.keep(f"memory-{stage.name}", probe)))


if __name__ == "__main__":
    run_script(main)
