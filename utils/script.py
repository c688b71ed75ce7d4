"""What the scripts share: their flags, and one line instead of a traceback for what a user can get wrong."""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.project import CHECKPOINTS, CONFIG
from utils.training.stopping import Stopped, exit_code_of, treat_sigterm_as_ctrl_c

if TYPE_CHECKING:
    from utils.config.schema import Config

# NumPy multiplies only small matrices here; threads that wait for each other would take the cores from torch's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What torch cannot do on Apple's GPU yet, the CPU does, instead of an error.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def parse_training_options(description: str) -> argparse.Namespace:
    """The options of train_stage.py and train_stage_ABS.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", metavar="NAME", help="a folder in datasets/, or SAMPLE; a named run knows its own")
    parser.add_argument("--config", metavar="FILE",
                        help="default: config.yaml beside this script; to resume: that of the run")  # fmt: skip
    parser.add_argument("--preset", metavar="NAME", help="overrides of the config, such as small; default: full")
    parser.add_argument("--init", metavar="PATH",
                        help="start from these weights: a .safetensors file, or the folder of a run; try it with "
                        "--preset finetune")  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="folder of this run in checkpoints/; default: a new one")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="FOLDER",
                        help="where the folders of runs are; default: checkpoints/ beside this script")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="continue the run, or the data set's newest one, exactly where it stopped; with more "
                        "epochs or minutes than before, it becomes longer")  # fmt: skip
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="change a key of the config, such as stages.2.epochs=10 or training.ema=0.99")  # fmt: skip
    parser.add_argument("--minutes", metavar="N", help="train by time: so many minutes for all stages together")
    parser.add_argument("--validation-only", action="store_true", help="do not read the test splits at the end")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps …; default: the config's (auto)")
    parser.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too, in the run's folder")
    options = parser.parse_args()
    if not options.dataset and not (options.resume and options.run):
        parser.error("the following arguments are required: --dataset (or --run with --resume)")
    return options


def open_config(options: argparse.Namespace) -> tuple[Config, Path | None]:
    """The configuration that the command line asks for, and the folder of the run that is to be resumed, if one is.

    A run that is resumed brings its own configuration; --config or --preset given now take the place of it, and the
    other flags are applied to it: Run.resume compares the result with what the run was begun with.
    """
    from utils.config.loading import load_config, overridden_keys

    path, resumed, weights = options.config or CONFIG, None, None
    if options.resume:
        from utils.training.run_folder import find_run

        resumed = find_run(options.checkpoints, options.dataset, options.run)
        if not options.config and not options.preset:
            path = resumed / "config.yaml"
    if options.init:
        from utils.training.initialization import settings_of_weights

        weights = settings_of_weights(options.init)
    flags = options.device, options.minutes, weights
    config = load_config(path, options.dataset, options.preset, options.set, *flags)
    if not resumed and int(os.environ.get("RANK", 0)) == 0:
        for name, keys in overridden_keys(path, config.dataset, options.preset, weights).items():
            print(f"{name} replaces of {path}: {', '.join(keys)}")
    return config, resumed


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default glibc takes large pieces from the system one by one and gives each back when it is freed. A network asks
    for the same pieces again at once, and the system clears every page of them again: a fifth of the time on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    max_mapped, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    mallopt(max_mapped, 0)
    mallopt(trim_threshold, 2**31 - 1)


def let_any_character_be_printed() -> None:
    """Names and labels may have characters that a stream cannot: those of a file or a pipe on Windows, above all."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if sys.platform == "win32" else None, errors="backslashreplace")


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from utils.training.memory import is_out_of_memory

    return is_out_of_memory(error)


def _is_lost_connection(error: Exception) -> bool:
    """Whether gloo, which processes under torchrun agree through, says that another one is gone."""
    if not any(f"Connection {how} by peer" in str(error) for how in ("closed", "reset")):
        return False
    from utils.training.distributed import is_one_of_several

    return is_one_of_several()


def run_script(main: Callable[[], int | None], go_on: str = "") -> None:
    """Call main; what a user can get wrong is one line on stderr and exit code 2. Ctrl-C: 130, SIGTERM: 143.

    go_on: how what was stopped goes on, for a person.
    """
    let_any_character_be_printed()
    keep_freed_memory()
    treat_sigterm_as_ctrl_c()
    try:
        sys.exit(main())
    except KeyboardInterrupt as stopped:
        print("\nstopped" + (f"; {go_on}" if go_on else ""), file=sys.stderr)
        sys.exit(exit_code_of(stopped))
    except Stopped as stopped:
        print(f"\n{stopped}; {go_on}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (RuntimeError, MemoryError) as error:  # where nothing smaller could be tried, such as loading a state
        if _is_lost_connection(error):
            print(f"{sys.argv[0]}: another process of this run has ended; it says why", file=sys.stderr)
        elif _is_out_of_memory(error):
            print(f"{sys.argv[0]}: out of memory: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            raise
        sys.exit(2)
    except (UserError, OSError) as error:  # OSError: a full disk, a file that is not there
        print(f"{sys.argv[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
