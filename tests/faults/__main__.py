"""Run the campaign: python -m tests.faults --seed 0 --count 1000 [KIND …]; --number N runs one case by itself."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from tests.faults.campaign import run  # noqa: E402 (threads are counted when torch is imported)
from tests.faults.kinds import MODULES, kind_of  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {', '.join(MODULES)}; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="cases of each kind; default: its share in the suite")
    parser.add_argument("--number", type=int, help="this case alone, to look at a finding again")
    options = parser.parse_args()
    findings = 0
    for name in options.kinds or MODULES:
        if name not in MODULES:
            parser.error(f"no kind {name!r}; there are {', '.join(MODULES)}")
        kind = kind_of(name)
        only = options.number is not None
        numbers = range(options.number, options.number + 1) if only else range(options.count or kind.share)
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            result = run(kind, options.seed, numbers, Path(folder) / "run")
        print(result, flush=True)
        for finding in result.findings:
            print(
                f"  {name} --seed {options.seed} --number {finding.number}: {finding.what}  {finding.where}", flush=True
            )
        findings += len(result.findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
