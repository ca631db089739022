"""The same on a CUDA device; skipped where there is none."""

import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms, from_atoms
from nvdyn_ase.dynamics import (
    FIRE,
    MTKNPT,
    NVE,
    BiasedPotentialHook,
    BlowUpHook,
    Bussi,
    ConvergenceHook,
    EnergyDriftMonitorHook,
    FreezeAtomsHook,
    GPUBuffer,
    HostMemory,
    IsotropicMTKNPT,
    Langevin,
    MaxForceClampHook,
    MelchionnaNPT,
    NoseHooverChainNVT,
    ProfilerHook,
    Ramp,
    SizeAwareSampler,
    WrapPeriodicHook,
)
from nvdyn_ase.models import EMT, LennardJones
from tests.dynamics.test_cost import Still
from tests.systems import ARGON, argon, mixed, with_velocities
from tests.wells import wells

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CASES = {
    "argon, nve": (lambda: [argon(s) for s in range(8)], lambda: LennardJones(**ARGON), NVE),
    "argon, fire": (lambda: [argon(s) for s in range(8)], lambda: LennardJones(**ARGON), FIRE),
    "mixed, nve": (lambda: mixed(21), EMT, NVE),
    "mixed, fire": (lambda: mixed(21), EMT, FIRE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_device_does_what_the_cpu_does(case):
    structures, model, method = CASES[case]
    options = {"dt": 0.2} if method is NVE else {}
    systems = [with_velocities(atoms, seed) for seed, atoms in enumerate(structures())]
    here, there = batch_from_atoms(systems), batch_from_atoms(systems, device="cuda")
    hook = None if method is NVE else ConvergenceHook.from_fmax(0.05, strict=True)
    method(model(), convergence_hook=hook, **options).run(here, n_steps=60)
    method(model().to("cuda"), convergence_hook=hook, **options).run(there, n_steps=60)
    for key in ("positions", "velocities", "energy", "forces"):
        torch.testing.assert_close(there[key].cpu(), here[key], rtol=1e-9, atol=1e-9)
    assert torch.equal(there["steps"].cpu(), here["steps"])
    assert torch.equal(there["outcome"].cpu(), here["outcome"])


RAMP = Ramp(300.0, 400.0, 1.0)
ENGINES = {
    "fire": FIRE,
    "nve": lambda model: NVE(model, 0.1),
    "nose-hoover": lambda model: NoseHooverChainNVT(model, 0.1, 300.0, 10.0),
    "mtk-isotropic": lambda model: IsotropicMTKNPT(model, 0.1, 300.0, 0.0, 10.0, 100.0),
    "mtk": lambda model: MTKNPT(model, 0.1, 300.0, 0.0, 10.0, 100.0),
    "melchionna": lambda model: MelchionnaNPT(model, 0.1, 300.0, 0.0, 10.0, 1000.0),
    "langevin, ramped": lambda model: Langevin(model, 0.1, RAMP, 0.01, seed=0),
    "bussi, ramped": lambda model: Bussi(model, 0.1, RAMP, 10.0, seed=0),
    "nve, watched": lambda model: NVE(
        model, 0.1, hooks=[BlowUpHook(1e9, 1e9), EnergyDriftMonitorHook(1e9), ProfilerHook()]
    ),
    "nve, acted upon": lambda model: NVE(
        model,
        0.1,
        hooks=[
            MaxForceClampHook(1e9),
            BiasedPotentialHook(lambda batch: (batch["energy"], batch["forces"])),
            FreezeAtomsHook({0: [0]}),
            WrapPeriodicHook(),
        ],
    ),
}


def test_stages_and_systems_that_come_and_go_do_what_they_do_on_the_cpu():
    def run(device):
        model = EMT().to(device)
        relax = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05))
        heat = Langevin(model, 0.2, 300.0, 0.01, seed=1, n_steps=20)
        engine = relax + heat + FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05))
        systems = [from_atoms(atoms) for atoms in mixed(21)]
        engine.sampler = SizeAwareSampler(systems, max_batch_size=6)
        engine.sinks = [HostMemory(99)]
        assert engine.run() is None
        found = engine.sinks[0].read()
        return found[torch.argsort(found["system_id"].view(-1))]

    here, there = run("cpu"), run("cuda")
    for key in ("positions", "energy", "forces"):
        torch.testing.assert_close(there[key], here[key], rtol=1e-7, atol=1e-7)
    for key in ("outcome", "stage_steps"):
        assert torch.equal(there[key], here[key])


def test_the_host_does_not_wait_in_a_steady_run_of_stages():
    batch = wells(*[3.0] * 8).to("cuda")
    batch["status"] = torch.tensor([0, 1] * 4, device="cuda")
    model = Still(batch)
    relax = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-9))
    engine = relax + Langevin(model, 0.1, 300.0, 0.01, seed=0, n_steps=10**9)
    engine.run(batch, n_steps=5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            engine.advance(batch)
            engine.graduate(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ENGINES)
def test_the_host_does_not_wait_in_a_steady_run(name):
    batch = wells(*[3.0] * 8).to("cuda")
    engine = ENGINES[name](Still(batch))
    engine.run(batch, n_steps=5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with engine:
            for _ in range(20):
                engine.advance(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_buffer_on_the_device_gives_back_what_it_took():
    batch = batch_from_atoms(mixed(5), device="cuda")
    buffer = GPUBuffer(10, 1000, 1000)
    for row in range(len(batch)):
        buffer.write(batch, torch.arange(len(batch), device="cuda") == row)
    whole = buffer.drain()
    assert whole.device == batch.device
    for key, tensor in batch:
        assert torch.equal(whole[key], tensor)


def test_the_profiler_has_times_of_the_device():
    batch = wells(*[3.0] * 8).to("cuda")
    profiler = ProfilerHook()
    NVE(Still(batch), 0.1, hooks=[profiler]).run(batch, n_steps=5)
    assert all(each.device > 0.0 for each in profiler.times.values())
    assert "device ms" in profiler.table()


def test_a_drift_is_told_though_late():
    batch = wells(*[3.0] * 8).to("cuda")
    hook = EnergyDriftMonitorHook(1e-9, "raise")
    with pytest.raises(RuntimeError, match="system 0: its energy drifted"):
        NVE(Still(batch), 0.1, hooks=[hook]).run(batch, n_steps=5)
