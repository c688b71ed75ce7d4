"""The speed run: what a configuration has learned after 15 minutes of one core, as a line of results/speedrun.tsv.

    python tests/benchmarks/speedrun.py --dataset CROHME_INK
    python tests/benchmarks/speedrun.py --dataset CROHME_INK --set training.ema=0.99 --note "shorter average"

Trains with adaptive batches on one thread, by CPU time, and reads the validation split alone: no test image chooses
anything. CPU time is slower beside other work (caches and memory are shared), so compare runs made side by side.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "results" / "speedrun.tsv"
COLUMNS = ("date", "commit", "dataset", "preset", "minutes", "seed", "settings", "note", "images", "exprate",
           "at_most_1", "wrong_tokens")  # fmt: skip


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="CROHME_INK", help="made from InkML (%(default)s)")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--config", default="config.yaml")
    parser.add_argument("--minutes", type=float, default=15, help="of CPU time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings that differ"
    )
    parser.add_argument("--note", default="", help="what is tried, for the table")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder in checkpoints/")
    options = parser.parse_args()

    commit = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    run = f"speedrun-{time.strftime('%H%M%S')}-{os.getpid()}"
    folder = ROOT / "checkpoints" / run
    command = [sys.executable, "train_stage_ABS.py", "--dataset", options.dataset, "--preset", options.preset,
               "--config", options.config, "--run", run, "--minutes", str(options.minutes), "--validation-only",
               "--set", "training.clock=cpu", "threads=1", f"seed={options.seed}", *options.set]  # fmt: skip
    code = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if code:
        return code

    scores = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["splits"]["validation"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    line = (
        time.strftime("%Y-%m-%d"),
        commit,
        options.dataset,
        options.preset,
        f"{options.minutes:g}",
        options.seed,
        " ".join(options.set),
        options.note,
        sum(epoch["images"] for epoch in log),
        f"{scores['exprate']:.1f}",
        f"{scores['at_most_1']:.1f}",
        f"{scores['token_error_rate']:.1f}",
    )
    TABLE.parent.mkdir(exist_ok=True)
    if not TABLE.exists():
        TABLE.write_text("\t".join(COLUMNS) + "\n", encoding="utf-8")
    with TABLE.open("a", encoding="utf-8") as table:
        table.write("\t".join(map(str, line)) + "\n")
    print("\n" + "\n".join(f"{name:12} {value}" for name, value in zip(COLUMNS, line, strict=True)))
    if not options.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
