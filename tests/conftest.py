"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# One thread, in the scripts that tests start as well: sums must not depend on how many cores there are, and for models
# of a few numbers more threads only wait for each other. Set before torch and NumPy are imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# The same examples each time, so that a change passes or fails for what it changes. To look for new ones:
# HYPOTHESIS=explore pytest tests/test_renderer.py
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS", "repeatable"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CROHME ink, where it is: beside the checkout, or where HMER_DATA says."""
    folder = Path(os.environ.get("HMER_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "CROHME").is_dir():
        pytest.skip(f"no CROHME data in {folder}; set HMER_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A working directory with a config of tiny sizes and a data set of its own."""
    from tests.tiny_training import make_home

    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def trained(home) -> Path:
    """The folder of a run that was never stopped."""
    from tests.tiny_training import TRAINING, run

    told = run("train_stage.py", *TRAINING, "--run", "whole", folder=home).stdout
    assert "all stages will take about" in told and "--preset small" not in told
    return home / "checkpoints" / "whole"


def pytest_collection_modifyitems(config, items):
    """Slow tests run when they are asked for."""
    if "slow" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run it with: pytest -m slow"))
