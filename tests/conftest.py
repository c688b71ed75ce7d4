"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True, scope="session")
def two_threads():
    """Timings and sums must not depend on how many cores the machine has."""
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CROHME ink, where it is: beside the checkout, or where HMER_DATA says."""
    folder = Path(os.environ.get("HMER_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "CROHME").is_dir():
        pytest.skip(f"no CROHME data in {folder}; set HMER_DATA to a folder that has it")
    return folder
