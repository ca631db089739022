"""Chains and cells: what is conserved, and the volume of an ideal gas."""

import numpy as np
import pytest
import torch
from ase.units import kB

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import AtomicData, Batch, StructureError
from nvdyn_ase.dynamics import (
    MTKNPT,
    NPH,
    NPT,
    IsotropicMTKNPT,
    LangevinBAOAB,
    MaskedMTKNPT,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NVTNoseHoover,
    StochasticCellRescaling,
)
from nvdyn_ase.dynamics.matrices import determinant
from nvdyn_ase.models import EMT, Harmonic
from nvdyn_ase.models.base import ModelOutputs
from tests.ensembles.record import record
from tests.facades.test_nose_hoover import metals
from tests.wells import Well, wells

ENGINES = {
    "nose-hoover": lambda dt, model=EMT: NoseHooverChainNVT(model(), dt, 300.0, 10.0),
    "nph": lambda dt, model=EMT: NPH(model(), dt, 300.0, 0.02, 40.0),
    "mtk-isotropic": lambda dt, model=EMT: IsotropicMTKNPT(model(), dt, 300.0, 0.02, 10.0, 40.0),
    "mtk": lambda dt, model=EMT: MTKNPT(model(), dt, 300.0, 0.02, 10.0, 40.0),
    "mtk-masked": lambda dt, model=EMT: MaskedMTKNPT(
        model(), dt, 300.0, 0.02, 10.0, 40.0, mask=(True, False, True)
    ),
    "melchionna": lambda dt, model=EMT: MelchionnaNPT(model(), dt, 300.0, 0.02, 10.0, 2000.0),
}
engines = pytest.mark.parametrize("name", ENGINES)
barostats = pytest.mark.parametrize("name", [name for name in ENGINES if name != "nose-hoover"])


# -------------------------------------------------------------------------------- conservation


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if i % 3 else ()) for i, n in enumerate(ENGINES)],
)
def test_what_is_conserved_is_conserved_to_its_order(name):
    errors = []
    for steps, dt in ((50, 0.2), (100, 0.1), (200, 0.05)):
        batch, engine, energies = batch_from_atoms(metals()), ENGINES[name](dt), []
        engine.run(batch, n_steps=1)
        for _ in range(25):
            energies.append(engine.conserved_energy(batch).view(-1).numpy())
            engine.run(batch, n_steps=steps // 25)
        errors.append(np.ptp(energies, axis=0))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert (errors[0] < 0.1).all()
    # ASE sums the friction up at the ends of steps, which is a method of the first order.
    order = 1 if name == "melchionna" else 2
    assert (np.abs(np.log2(ratios) - order) < 0.4).all(), ratios


@pytest.mark.parametrize("name", ["nose-hoover", "mtk-isotropic", "mtk", "mtk-masked", "nph"])
def test_time_can_be_turned_round(name):
    batch, engine = batch_from_atoms(metals()), ENGINES[name](0.1)
    start = {key: batch[key] for key in ("positions", "cell")}
    engine.run(batch, n_steps=40)
    for key in engine.state.keys():  # noqa: SIM118
        if key.endswith(("velocity", "rate")):
            engine.state[key] = -engine.state[key]
    batch["velocities"] = -batch["velocities"]
    engine.run(batch, n_steps=40)
    for key, tensor in start.items():
        torch.testing.assert_close(batch[key], tensor, rtol=0, atol=1e-9)


# -------------------------------------------------------------------------------- ensembles


class Gas(Harmonic):
    """Atoms that feel nothing, and press on nothing but by their momenta."""

    def __init__(self):
        super().__init__(k=0.0)
        self.model_card = self.model_card.model_copy(update={"supports_stress": True})

    def forward(self, batch):
        outputs = super().forward(batch)
        return ModelOutputs({**outputs, "stress": torch.zeros_like(batch["cell"])})


def gas(count, atoms, temperature, pressure):
    generator = torch.Generator().manual_seed(0)
    side = ((atoms + 1) * kB * temperature / pressure) ** (1 / 3)
    cell, systems = side * torch.eye(3, dtype=torch.float64), []
    for _ in range(count):
        places = side * torch.rand(atoms, 3, generator=generator, dtype=torch.float64)
        velocities = torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
        data = AtomicData(positions=places, atomic_numbers=[18] * atoms, cell=cell)
        spread = (kB * temperature / data.atomic_masses.view(-1, 1)).sqrt()
        systems.append(data.model_copy(update={"velocities": spread * velocities}))
    return Batch.from_data_list(systems)


WARM, LOW = 300.0, 1e-4
GASES = {
    "mtk-isotropic": lambda: IsotropicMTKNPT(Gas(), 1.0, WARM, LOW, 20.0, 60.0),
    "mtk": lambda: MTKNPT(Gas(), 1.0, WARM, LOW, 20.0, 60.0),
    "rescaling": lambda: StochasticCellRescaling(
        Gas(), 1.0, WARM, LOW, 20.0, 60.0, 1.0 / LOW, seed=5
    ),
    "rescaling, any shape": lambda: StochasticCellRescaling(
        Gas(), 1.0, WARM, LOW, 20.0, 60.0, 1.0 / LOW, isotropic=False, seed=5
    ),
    "baoab": lambda: LangevinBAOAB(
        Gas(), 1.0, WARM, -LOW, True, T_tau=20.0, P_tau=60.0, P_mass=2500.0, seed=5
    ),
    "baoab, any shape": lambda: LangevinBAOAB(
        Gas(), 1.0, WARM, -LOW, T_tau=20.0, P_tau=60.0, P_mass=2500.0, seed=5
    ),
}


def mean_of_replicas(rows):
    """Return the mean over time and replicas, and its standard error."""
    means = np.mean(rows, axis=0)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


@pytest.mark.slow
@pytest.mark.parametrize("name", GASES)
def test_an_ideal_gas_has_its_volume(name):
    """The mean volume at constant pressure is (N + 1) kT / P, its variance (N + 1) (kT / P)²."""
    atoms, replicas, kT = 8, 600, kB * WARM
    batch, engine = gas(replicas, atoms, WARM, LOW), GASES[name]()
    engine.run(batch, n_steps=3000)
    volumes, kinetic = [], []
    for _ in range(60):
        engine.run(batch, n_steps=60)
        volumes.append(determinant(batch["cell"]).view(-1).numpy())
        momenta = batch["atomic_masses"].view(-1, 1) * batch["velocities"]
        kinetic.append(0.5 * (momenta * batch["velocities"]).view(replicas, -1).sum(1).numpy())
    expected = (atoms + 1) * kT / LOW
    mean, error = mean_of_replicas(volumes)
    ratio = mean / expected
    passed = abs(ratio - 1.0) < 0.01
    record(f"ideal gas, {name}", "mean volume", 60 * replicas, f"{ratio:.4f} expected", passed)
    assert passed, ratio
    assert error < 0.0033 * expected
    mean, error = mean_of_replicas((np.array(volumes) - expected) ** 2)
    assert abs(mean - expected * kT / LOW) < 4 * error
    mean, error = mean_of_replicas(kinetic)
    assert abs(mean - 1.5 * atoms * kT) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "motions"),
    [
        (lambda: IsotropicMTKNPT(Gas(), 1.0, WARM, LOW, 20.0, 60.0), 1.0),
        (lambda: MTKNPT(Gas(), 1.0, WARM, LOW, 20.0, 60.0), 6.0),
        (lambda: MTKNPT(Gas(), 1.0, WARM, LOW, 20.0, 60.0, as_ase=True), 9.0),
    ],
    ids=["isotropic", "any shape", "any shape, as in ase"],
)
def test_the_motion_of_a_cell_has_the_temperature_and_in_ase_half_as_much_again(make, motions):
    batch, engine = gas(200, 8, WARM, LOW), make()
    engine.run(batch, n_steps=3000)
    twice_kinetic = []
    for _ in range(40):
        engine.run(batch, n_steps=60)
        twice_kinetic.append(engine._twice_kinetic_of_cell(batch).view(-1).numpy())
    mean, _ = mean_of_replicas(twice_kinetic)
    assert mean == pytest.approx(motions * kB * WARM, rel=0.1)


@pytest.mark.parametrize(
    "options", [{}, {"isotropic": False}, {"isotropic": False, "mask": (1, 0, 1)}]
)
def test_the_effective_energy_drifts_less_with_half_the_time_step(options):
    drifts = []
    for steps, dt in ((50, 0.4), (100, 0.2), (200, 0.1)):
        batch, energies = batch_from_atoms([atoms * 2 for atoms in metals()]), []
        engine = StochasticCellRescaling(EMT(), dt, 300.0, 0.02, 20.0, 50.0, 1.0, seed=3, **options)
        for _ in range(10):
            engine.run(batch, n_steps=steps // 10)
            energies.append(engine.conserved_energy(batch).view(-1).numpy())
        drifts.append(np.ptp(energies, axis=0).max())
    assert drifts[2] < drifts[1] / 1.5 < drifts[0] / 2.25


HEATED = {"temperature": 300.0, "T_tau": 20.0, "P_tau": 50.0, "seed": 3}
PUSHED = {"externalstress": -0.02, "P_mass": 3000.0}


@pytest.mark.parametrize(
    "options",
    [
        HEATED,
        PUSHED | {"seed": 3},
        HEATED | PUSHED | {"hydrostatic": True},
        pytest.param({"seed": 3}, marks=pytest.mark.slow),
        pytest.param(PUSHED | {"hydrostatic": True, "seed": 3}, marks=pytest.mark.slow),
        pytest.param(HEATED | PUSHED, marks=pytest.mark.slow),
    ],
)
def test_baoab_keeps_account_of_the_heat(options):
    drifts = []
    for steps, dt in ((50, 0.2), (100, 0.1)):
        batch, energies = batch_from_atoms(metals()), []
        engine = LangevinBAOAB(EMT(), dt, **options)
        for _ in range(10):
            engine.run(batch, n_steps=steps // 10)
            energies.append(engine.conserved_energy(batch).view(-1).numpy())
        drifts.append(np.ptp(energies, axis=0).max())
    assert drifts[1] < drifts[0] / 2.5 < 0.01


# -------------------------------------------------------------------------------- what is refused


def test_other_names():
    assert NPT is IsotropicMTKNPT
    assert NVTNoseHoover is NoseHooverChainNVT


@barostats
def test_a_model_without_stress_is_refused(name):
    with pytest.raises(ValueError, match=r"needs the stress.*Harmonic"):
        ENGINES[name](0.1, lambda: Harmonic(k=1.0))


def test_melchionnas_equations_without_a_barostat_need_no_stress():
    batch = wells(1.0, 2.0)
    MelchionnaNPT(Harmonic(k=1.0), 0.1, 300.0, ttime=10.0).run(batch, n_steps=2)
    assert "stress" not in batch


@barostats
def test_a_system_without_a_volume_is_named(name):
    batch = wells(1.0, 2.0)
    batch["cell"] = batch["cell"] * torch.tensor([1.0, 0.0]).view(2, 1, 1).double()
    with pytest.raises(StructureError, match=r"structure 1.*no volume"):
        ENGINES[name](0.1, Well).run(batch, n_steps=1)


@pytest.mark.parametrize("wrong", [{"tchain": 0}, {"tloop": 0}, {"pchain": 0}, {"ploop": -1}])
def test_chains_have_links(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        MTKNPT(Well(), 0.1, 300.0, 0.0, 10.0, 100.0, **wrong)


def test_parameters_change_for_one_system_alone():
    batch, other = wells(1.0, 2.0), wells(1.0, 2.0)
    one, two = (MTKNPT(Well(), 0.1, 300.0, 0.0, 10.0, 30.0) for _ in range(2))
    one.run(batch, n_steps=3)
    two.run(other, n_steps=3)
    one.set_parameter("pressure", [0.0, 0.1])
    one.run(batch, n_steps=3)
    two.run(other, n_steps=3)
    assert torch.equal(batch["cell"][0], other["cell"][0])
    assert not torch.equal(batch["cell"][1], other["cell"][1])
