"""Train a recogniser of handwritten mathematics in stages: standard images, alignment, handwriting.

python train_stage.py --dataset SAMPLE
python train_stage.py --dataset CROHME --preset small --set stages.2.epochs=20
python train_stage.py --dataset CROHME --resume
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from utils.config.schema import load_config
from utils.script import run_script, training_parser

CHECKPOINTS = Path("checkpoints")


def main(batching: str = "fixed", description: str = __doc__) -> int:
    """Run every stage of the config. batching: "fixed" counts of pictures, or "adaptive" to a budget of pixels."""
    options = training_parser(description).parse_args()
    started = time.monotonic()
    config = load_config(options.config, options.dataset, options.preset, options.set, options.device)

    # Heavy imports come once the words above are known to make sense.
    from dataset.loading.batch import blank_batch
    from dataset.loading.loaders import check_stages, make_loaders, open_data, reading_loader
    from models.losses import Objective
    from models.recognizer import Recognizer
    from utils.training.distributed import Ranks
    from utils.training.memory import MemoryModel
    from utils.training.report import print_stages, report
    from utils.training.run_folder import Run, choose_folder
    from utils.training.trainer import Loaders, choose_device, fit, measure_memory, seed_everything

    device = choose_device(config.device, config.threads)
    ranks = Ranks.from_environment(device)
    folder = ranks.first(lambda: choose_folder(CHECKPOINTS, config.dataset, options.run, options.resume))
    data = ranks.first_then_all(lambda: open_data(config.data, config.dataset, config.seed))
    check_stages(data, config)

    seed_everything(config.seed)
    model = Recognizer.from_config(config.model, len(data.vocabulary), config.domains(), config.uses_loss("symbols"))
    stride = model.handwritten_encoder.stride
    run = Run(folder, is_writer=ranks.is_first)
    about = {"architecture": model.architecture(), "vocabulary": data.vocabulary.tokens, "data": data.about()}
    begin = run.resume if options.resume else run.begin
    begin(config.as_dict() | {"batching": batching}, data.vocabulary.tokens, about)
    model.to(device)
    if config.training.compile:
        model.compile_repeated()
    if ranks.is_first:
        print_stages(config, data, model, run, device, batching)

    finished = []
    for number, stage in enumerate(config.stages):
        if not run.restore_finished(stage.name, model):  # an earlier run did it: its best weights are loaded
            if stage.starts_from_standard:
                model.start_handwritten_from_standard()
            losses = [name for name, weight in stage.losses.items() if weight]
            settings = config.training
            uncounted = data.vocabulary.inkless
            objective = Objective(model, losses, settings.label_smoothing, settings.input_noise, uncounted)
            memory = None
            if batching == "adaptive" and config.batch.max_pixels == "auto" and device.type == "cuda":
                make_batch = partial(blank_batch, kind=stage.pictures)
                probe = partial(measure_memory, objective, stage, make_batch, device, config.training.precision)
                memory = MemoryModel(**ranks.first_then_all(partial(run.keep, f"memory-{stage.name}", probe)))
            make = partial(make_loaders, data, stage, config, batching, stride, memory, ranks)
            train, validation = ranks.first_then_all(make)
            loaders = Loaders(train, validation, "standard" if stage.pictures == "standard" else "handwritten")
            title = f"stage {number + 1}/{len(config.stages)} {stage.name}"
            seed = config.seed + number
            fit(model, objective, loaders, stage, config.training, run, finished, device, seed, title, ranks, memory)
        finished.append(stage.name)

    if ranks.is_first:
        loaders = {split: reading_loader(data.ink(split), stride) for split in ("validation", *data.splits)}
        report(model, data, loaders, config, run, device, time.monotonic() - started)
    ranks.leave()
    return 0


if __name__ == "__main__":
    run_script(main)
