"""Which device a run takes, and that what is special about CUDA is asked of no other one."""

import pytest
import torch

from utils.errors import ConfigError
from utils.training import devices, memory
from utils.training.distributed import DistributedContext


@pytest.mark.parametrize(
    ("cuda", "mps", "processes", "expected"),
    [
        (False, False, "1", "cpu"),
        (False, True, "1", "mps"),
        (True, True, "1", "cuda:0"),
        (False, True, "2", "cpu"),  # gloo, which several processes speak, knows CPUs alone
    ],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, processes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert str(devices.choose_device("auto")) == expected


def test_a_device_that_is_not_there_is_named():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="--device mps: "):
        devices.choose_device("mps")


def test_on_mps_numbers_have_32_bits_and_memory_is_not_probed(monkeypatch):
    mps = torch.device("mps")
    assert not devices.autocast(mps)._enabled
    assert memory.measured_once(None, None, None, None, None, DistributedContext(device=mps)) is None
    emptied = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    memory.free_memory()
    assert emptied or torch.cuda.is_available()


def test_the_random_numbers_of_mps_are_kept_too(monkeypatch):
    state = torch.tensor([1, 2, 3], dtype=torch.uint8)
    kept = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.mps, "set_rng_state", kept.append)
    devices.restore_random_state(devices.random_state(torch.device("mps")), torch.device("mps"))
    assert kept == [state]
    devices.restore_random_state(devices.random_state(torch.device("cpu")), torch.device("mps"))
    assert len(kept) == 1
