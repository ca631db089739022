"""Budgets from the memory of a GPU; where there is none, another device stands for one."""

from types import SimpleNamespace

import pytest
import torch

from nvdyn_ase.dynamics import FIRE, SizeAwareSampler
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.workflows.capacity import ATOMS_AT_FIRST, ATOMS_PER_BATCH, Capacity
from tests.wells import Well, atoms_at

GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """Let a forward pass take 1000 bytes an atom, of a megabyte in all."""
    taken = {"peak": 0}
    whole = SimpleNamespace(total_memory=10**6)
    for name, answer in {
        "memory_allocated": lambda device: 500,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 500 + taken["peak"],
        "get_device_properties": lambda device: whole,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return taken


def test_what_a_forward_pass_takes_says_how_many_fit(gpu):
    meter = MemoryMeter()
    assert meter.atoms_that_fit(GPU, 0.8) is None
    with meter.watching(GPU, 10):
        gpu["peak"] = 10_000
    assert meter.atoms_that_fit(GPU, 0.8) == 800
    with meter.watching(GPU, 10):  # less the next time, and the most counts
        gpu["peak"] = 5_000
    assert meter.atoms_that_fit(GPU, 0.8) == 800


def test_nothing_is_measured_on_the_cpu():
    meter = MemoryMeter()
    with meter.watching(torch.device("cpu"), 10):
        pass
    assert meter.bytes_per_atom is None


def test_batches_grow_to_what_fits(gpu, monkeypatch):
    monkeypatch.setattr(Well, "device", GPU)
    capacity = Capacity("auto", Well())
    assert capacity.limit == ATOMS_AT_FIRST
    meter = MemoryMeter()
    capacity.adapt(meter, GPU)
    assert capacity.limit == ATOMS_AT_FIRST
    for peak, limit in ((1000, 8000), (1, ATOMS_PER_BATCH["cuda"])):
        meter = MemoryMeter()
        with meter.watching(GPU, 10):
            gpu["peak"] = peak
        capacity.adapt(meter, GPU)
        assert capacity.limit == limit
    given = Capacity(7, Well())
    given.adapt(meter, GPU)
    assert given.limit == 7


def test_a_sampler_without_budgets_gets_that_of_the_memory(gpu, monkeypatch):
    systems = [atoms_at(1.0 + 0.1 * k, size=5, seed=k) for k in range(12)]
    sampler = SizeAwareSampler(systems, max_gpu_memory_fraction=0.02)
    engine = FIRE(Well(), convergence_hook={"criteria": {"key": "fmax", "threshold": 0.01}})
    engine.sampler, gpu["peak"] = sampler, 5 * 1000
    here = torch.device("cpu")

    class Stand(str):
        """A device that calls itself a GPU, and is not."""

        type = "cuda"

    monkeypatch.setattr(type(engine), "device", property(lambda self: Stand("cpu")))
    first = engine.first_systems(None)
    assert sampler.max_atoms == 20  # 0.02 of a megabyte, 1000 bytes an atom
    assert first.device == here
    assert len(first) == 4
    assert len(sampler) == 8
