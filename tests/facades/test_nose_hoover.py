"""Nosé-Hoover chains, MTK and Melchionna's NPT: ASE's numbers step for step, cells included."""

import warnings

import ase.md.melchionna
import ase.md.nose_hoover_chain
import ase.md.npt
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixCom
from ase.md.velocitydistribution import Stationary

import nvdyn_ase.md.melchionna
import nvdyn_ase.md.nose_hoover_chain
import nvdyn_ase.md.npt
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from tests.facades.test_lists import Silent
from tests.facades.test_parity import PLAIN, CountingEMT, CountingLJ
from tests.facades.test_thermostats import Case
from tests.pace import paced
from tests.systems import ARGON, argon, copper_slab, with_velocities

CHAIN = {
    "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
    "temperature_K": [200.0, 300.0, 350.0],
    "tdamp": [100 * units.fs, 50 * units.fs, 150 * units.fs],
}
BOTH = CHAIN | {
    "pressure_au": [0.0, 0.01, 0.05],
    "pdamp": [500 * units.fs, 300 * units.fs, 1000 * units.fs],
}
MELCHIONNA = {
    "timestep": CHAIN["timestep"],
    "temperature_K": CHAIN["temperature_K"],
    "externalstress": BOTH["pressure_au"],
    "ttime": [25 * units.fs, 50 * units.fs, 30 * units.fs],
    "pfactor": [400.0, 800.0, 1000.0],
}


def case(name, options, module="nose_hoover_chain"):
    theirs, ours = (getattr(package, module) for package in (ase.md, nvdyn_ase.md))
    return Case(getattr(theirs, name), getattr(ours, name), options, stochastic=False)


CASES = {
    "NoseHooverChainNVT": case("NoseHooverChainNVT", CHAIN),
    "NoseHooverChainNVT with long chains": case(
        "NoseHooverChainNVT", CHAIN | {"tchain": 5, "tloop": 2}
    ),
    "NoseHooverChainNVT, short": case("NoseHooverChainNVT", CHAIN | {"tchain": 1}),
    "IsotropicMTKNPT": case("IsotropicMTKNPT", BOTH),
    "IsotropicMTKNPT, chains": case(
        "IsotropicMTKNPT", BOTH | {"tchain": 2, "pchain": 1, "tloop": 1, "ploop": 2}
    ),
    "MTKNPT": case("MTKNPT", BOTH),
    "MTKNPT with chains": case("MTKNPT", BOTH | {"tchain": 1, "pchain": 4, "tloop": 2}),
    # ASE takes a tuple to let nothing move.
    "MaskedMTKNPT": case("MaskedMTKNPT", BOTH | {"mask": np.array([True, False, True])}),
    "MaskedMTKNPT, all": case("MaskedMTKNPT", BOTH | {"mask": (True, True, True)}),
    "MelchionnaNPT": case("MelchionnaNPT", MELCHIONNA, "melchionna"),
    "MelchionnaNPT, masked": case("MelchionnaNPT", MELCHIONNA | {"mask": (1, 0, 1)}, "melchionna"),
    "MelchionnaNPT, NVT": case("MelchionnaNPT", MELCHIONNA | {"pfactor": None}, "melchionna"),
    "MelchionnaNPT, NPH": case("MelchionnaNPT", MELCHIONNA | {"ttime": None}, "melchionna"),
    "NPT": case("NPT", MELCHIONNA, "npt"),
}
cases = pytest.mark.parametrize("name", CASES)
each = pytest.mark.parametrize(
    "name", ["NoseHooverChainNVT", "IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT", "MelchionnaNPT"]
)
barostats = pytest.mark.parametrize(
    "name", ["IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT", "MelchionnaNPT"]
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:NPT thermostat has been moved:FutureWarning"),
    pytest.mark.filterwarnings("ignore:as in ASE, this thermostat:UserWarning"),
]


def metals(counting=EMT):
    """Return cells of three shapes, upper and lower triangular."""
    structures = [
        bulk("Cu", "hcp", a=2.53, c=4.11) * (2, 2, 1),
        bulk("Au", cubic=True),
        bulk("Pt") * (2, 2, 1),
    ]
    for seed, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
        atoms.rattle(0.03 + 0.02 * seed, seed=seed)
        Stationary(with_velocities(atoms, seed))
        atoms.calc = counting()
    structures[2].set_cell(np.array(structures[2].cell.T), scale_atoms=True)
    return structures


def argons(counting=LennardJones):
    structures = [argon(seed, rattle=0.05 + 0.03 * seed) for seed in range(3)]
    for seed, atoms in enumerate(structures):
        Stationary(with_velocities(atoms, seed, 50.0))
        atoms.calc = counting(**ARGON)
    return structures


def conserved(dynamics):
    """Return the conserved energy under either of the names that ASE has for it."""
    ask = getattr(dynamics, "get_conserved_energy", None) or dynamics.get_gibbs_free_energy
    return ask()


def note(dynamics, structures, frames):
    def look():
        frames.append([np.vstack([a.positions, a.get_momenta(), a.cell]) for a in structures])

    dynamics.attach(look)


# -------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", paced(CASES))
@pytest.mark.parametrize("make", [metals, pytest.param(argons, marks=pytest.mark.slow)])
def test_every_step_is_ases(name, make):
    case, batch = CASES[name], make()
    singles = make({EMT: CountingEMT, LennardJones: CountingLJ}[type(batch[0].calc)])
    assert type(batch[0].calc) is type(PLAIN[type(singles[0].calc)]())
    dynamics, frames = case.of_list(batch), []
    note(dynamics, batch, frames)
    dynamics.run(100)
    energies = conserved(dynamics)
    assert energies.shape == (3,)
    for index, atoms in enumerate(singles):
        alone, expected = case.one(case.theirs, index, atoms), []
        note(alone, [atoms], expected)
        alone.run(100)
        for step in range(101):
            error = np.abs(frames[step][index] - expected[step][0]).max()
            assert error < 1e-10, (index, step, error)
        assert dynamics.results[index].evaluations == atoms.calc.calls == 101
        assert energies[index] == pytest.approx(conserved(alone), abs=1e-10)
        np.testing.assert_allclose(batch[index].get_stress(), atoms.get_stress(), atol=1e-10)


@cases
def test_one_atoms_by_the_engine_is_one_atoms_by_ase(name):
    case, ends, energies = CASES[name], [], []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True}), (case.ours, {})):
        atoms = metals()[2]
        dynamics = case.one(cls, 2, atoms, **engine)
        energies.append(conserved(dynamics))
        for steps in (3, 0, 4):
            dynamics.run(steps)
        for _ in range(2):
            assert dynamics.step() is None
        ends.append(np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell]))
        energies.append(conserved(dynamics))
        assert isinstance(energies[-1], float)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)
    assert np.array_equal(ends[2], ends[0])
    np.testing.assert_allclose(energies[2:], energies[:2] * 2, atol=1e-10)


@each
def test_they_are_ases_classes_with_ases_log_and_dictionary(name, tmp_path):
    case, structures = CASES[name], metals()
    dynamics = case.of_list(structures, logfile=str(tmp_path / "log"), loginterval=2)
    assert isinstance(dynamics, case.theirs)
    assert type(dynamics).__name__ == case.theirs.__name__
    dynamics.run(4)
    assert len((tmp_path / "log").read_text().splitlines()) == 4
    twin = metals()[0]
    alone = case.one(case.theirs, 0, twin)
    assert case.one(case.ours, 0, metals()[0], engine=True).todict() == alone.todict()
    assert dynamics.todict().keys() == alone.todict().keys()


def test_kinds_are_as_in_ase():
    both = (ase.md.nose_hoover_chain.MaskedMTKNPT, nvdyn_ase.md.nose_hoover_chain.MTKNPT)
    assert issubclass(nvdyn_ase.md.nose_hoover_chain.MaskedMTKNPT, both)
    both = (ase.md.npt.NPT, nvdyn_ase.md.melchionna.MelchionnaNPT)
    assert issubclass(nvdyn_ase.md.npt.NPT, both)
    with pytest.warns(FutureWarning, match="moved"):
        CASES["NPT"].of_list(metals())


# -------------------------------------------------------------------------------- the Atoms


@pytest.mark.parametrize("constraint", [lambda: FixAtoms([0, 2]), FixCom])
def test_constraints_are_not_known_to_ases_chain_and_not_to_this_one(constraint):
    def make():
        structures = metals()
        for atoms in structures[:2]:
            atoms.set_constraint(constraint())
        return structures

    case, structures = CASES["NoseHooverChainNVT"], make()
    with pytest.warns(UserWarning, match="constrained=True"):
        dynamics = case.of_list(structures)
    for steps in (30, 20):
        dynamics.run(steps)
    for index, atoms in enumerate(make()):
        alone = case.one(case.theirs, index, atoms)
        alone.run(50)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)
        np.testing.assert_allclose(structures[index].get_momenta(), atoms.get_momenta(), atol=1e-10)
        assert dynamics.get_conserved_energy()[index] == pytest.approx(alone.get_conserved_energy())


def test_the_engine_counts_what_is_free():
    structures = [with_velocities(copper_slab(seed), seed) for seed in range(3)]
    for atoms in structures:
        atoms.set_momenta(atoms.get_momenta())  # none for those that are held
        atoms.calc = EMT()
    held = structures[0].constraints[0].index
    before = structures[0].positions[held]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dynamics = CASES["NoseHooverChainNVT"].of_list(structures, constrained=True)
    energies = dynamics.get_conserved_energy()
    dynamics.run(50)
    np.testing.assert_allclose(dynamics.get_conserved_energy(), energies, atol=2e-3)
    assert np.array_equal(structures[0].positions[held], before)
    with pytest.raises(TypeError, match="needs the engine"):
        CASES["NoseHooverChainNVT"].one(
            nvdyn_ase.md.NoseHooverChainNVT, 0, structures[0], constrained=True
        )


@pytest.mark.parametrize("name", ["IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT"])
def test_barostats_refuse_constraints_as_in_ase(name):
    case, structures = CASES[name], metals()
    structures[1].set_constraint(FixAtoms([0]))
    with pytest.raises(NotImplementedError, match=r"structure 1.*constraints"):
        case.of_list(structures)
    with pytest.raises(NotImplementedError, match="constraints"):
        case.one(case.ours, 1, structures[1], engine=True)
    free = metals()
    dynamics = case.of_list(free)
    dynamics.run(2)
    free[2].set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match=r"structure 2.*constraints"):
        dynamics.run(2)


def test_melchionnas_equations_hold_atoms_as_in_ase():
    case, ends = CASES["MelchionnaNPT"], []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True})):
        atoms = metals()[1]
        atoms.set_constraint(FixAtoms([0]))
        case.one(cls, 1, atoms, **engine).run(20)
        ends.append(np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)


@pytest.mark.parametrize("name", ["NoseHooverChainNVT", "IsotropicMTKNPT", "MTKNPT"])
def test_changes_between_runs_are_taken_up(name):
    structures = metals()
    dynamics = CASES[name].of_list(structures)
    dynamics.run(3)
    before = dynamics.get_conserved_energy()
    structures[0].set_momenta(0.5 * structures[0].get_momenta())
    structures[1].set_cell(1.01 * structures[1].cell, scale_atoms=True)
    after = dynamics.get_conserved_energy()
    assert after[0] < before[0] - 1e-3 and abs(after[1] - before[1]) > 1e-3
    assert after[2] == before[2]
    dynamics.run(20)
    np.testing.assert_allclose(dynamics.get_conserved_energy(), after, atol=5e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_cell(1.01 * atoms.cell, scale_atoms=True),
        lambda atoms: atoms.rattle(0.1),
    ],
)
def test_melchionnas_equations_do_not_go_on_from_changes_as_in_ase(change, capsys):
    for cls, engine in (("theirs", {}), ("ours", {"engine": True})):
        case, atoms = CASES["MelchionnaNPT"], metals()[1]
        dynamics = case.one(getattr(case, cls), 1, atoms, **engine)
        dynamics.run(3)
        change(atoms)
        with pytest.raises(NotImplementedError, match="modified the atoms"):
            dynamics.run(3)
        assert "been modified" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@barostats
def test_a_structure_without_a_volume_is_named(name):
    structures = metals()
    structures[1].cell[2], structures[1].pbc = 0.0, False
    with pytest.raises(StructureError, match=r"structure 1.*no volume"):
        CASES[name].of_list(structures)


@barostats
def test_a_calculator_without_stress_is_refused(name):
    structures = metals()
    for atoms in structures:
        atoms.calc = Silent()
    with pytest.raises(ValueError, match=r"needs the stress.*Silent"):
        CASES[name].of_list(structures)
    if name == "MelchionnaNPT":
        CASES[name].of_list(structures, pfactor=None).run(2)


@each
def test_a_failure_changes_nothing_for_the_others(name):
    case, whole, broken = CASES[name], metals(), metals()
    broken[1].positions[0] = broken[1].positions[1]
    dynamics = case.of_list(broken)
    dynamics.run(6)
    case.of_list(whole).run(6)
    assert dynamics.results[1].outcome is Outcome.NAN
    assert np.isfinite(conserved(dynamics)[[0, 2]]).all()
    for index in (0, 2):
        assert np.array_equal(whole[index].positions, broken[index].positions)
        assert np.array_equal(whole[index].cell, broken[index].cell)


@each
def test_looking_at_what_is_conserved_changes_nothing(name):
    case, seen, ends = CASES[name], [], []
    for look in (False, True):
        structures = metals()
        structures[1].positions[0] = structures[1].positions[1]  # it leaves at once
        dynamics = case.of_list(structures)
        if look:
            dynamics.attach(lambda dynamics=dynamics: seen.append(conserved(dynamics)))
        dynamics.run(8)
        ends.append([np.vstack([atoms.positions, atoms.cell]) for atoms in structures])
        assert [result.evaluations for result in dynamics.results] == [9, 1, 9]
    assert len(seen) == 9 and np.shape(seen) == (9, 3)
    np.testing.assert_allclose(np.ptp(seen, axis=0)[[0, 2]], 0.0, atol=0.05)
    assert all(np.array_equal(*pair) for pair in zip(*ends, strict=True))


# -------------------------------------------------------------------------------- parameters


def test_a_mask_that_is_a_tuple_means_what_it_says():
    atoms, structures = metals()[1], metals()
    case = CASES["MaskedMTKNPT"]
    case.one(case.ours, 1, atoms, mask=(False, True, False)).run(10)
    case.of_list(structures, mask=(False, True, False)).run(10)
    for one in (atoms, structures[1]):
        np.testing.assert_allclose(one.cell.lengths()[[0, 2]], metals()[1].cell.lengths()[[0, 2]])
        assert abs(one.cell.lengths()[1] - metals()[1].cell.lengths()[1]) > 1e-4
    with pytest.raises(ValueError, match="three entries"):
        case.of_list(structures, mask=(True, False))


def set_strain_rate(dynamics):
    if not isinstance(dynamics, nvdyn_ase.md.melchionna.MelchionnaNPT):
        dynamics._triangular = dynamics._istriangular  # which ASE 3.29 does not have
    dynamics.set_strain_rate(np.diag([0.01, 0.0, -0.01]))


SETTERS = {
    "temperature": lambda d: d.set_temperature(temperature_K=700),
    "stress": lambda d: d.set_stress(0.1),
    "stresses": lambda d: d.set_stress([0.1, 0.2, 0.0, 0.01, 0.0, 0.0]),
    "mask": lambda d: d.set_mask((0, 1, 1)),
    "traceless": lambda d: d.set_fraction_traceless(0.3),
    "strain rate": set_strain_rate,
    "dt": lambda d: setattr(d, "dt", 0.1),
}


@pytest.mark.parametrize("name", SETTERS)
@pytest.mark.parametrize("start", [0, 4])
def test_melchionnas_setters(name, start):
    case, ends, data = CASES["MelchionnaNPT"], [], []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True})):
        atoms = metals()[1]
        dynamics = case.one(cls, 1, atoms, **engine)
        if start:
            dynamics.run(start)
        SETTERS[name](dynamics)
        dynamics.run(4)
        ends.append(np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell]))
        data.append(dynamics.get_data() | {"t": dynamics.get_time()})
        assert np.array_equal(dynamics.get_strain_rate(), dynamics.eta)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)
    for key in data[0]:
        np.testing.assert_allclose(data[1][key], data[0][key], atol=1e-10, err_msg=key)


def test_melchionnas_parameters_per_system():
    case = CASES["MelchionnaNPT"]
    stresses = [0.01, np.array([0.01, 0.0, 0.02, 0.0, 0.001, 0.0]), [0.01, 0.02, 0.03, 0, 0, 0]]
    matrices = [-0.01 * np.eye(3), np.diag([0.01, 0.0, 0.02]), np.diag(stresses[2][:3])]
    matrices[1][[0, 2], [2, 0]] = 0.001
    structures, others, ttimes = metals(), metals(), [None, 20.0, 30.0]
    case.of_list(structures, externalstress=matrices, ttime=ttimes).run(10)
    case.of_list(others, externalstress=stresses, ttime=ttimes).run(10)
    assert all(np.array_equal(a.cell, b.cell) for a, b in zip(structures, others, strict=True))
    for index, atoms in enumerate(metals()):
        alone = case.one(
            case.theirs, index, atoms, externalstress=stresses[index], ttime=ttimes[index]
        )
        alone.run(10)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)
    with pytest.raises(ValueError, match="2 values for 3"):
        case.of_list(structures, externalstress=[0.1, 0.2])
    with pytest.raises(ValueError, match="6 pressures"):
        case.ours(metals() + metals(), 1.0, temperature_K=300, externalstress=[0.1] * 6)


def test_melchionna_takes_the_total_momentum_away_and_says_so(capsys):
    structures = metals()
    for atoms in structures[1:]:
        atoms.set_momenta(atoms.get_momenta() + 1.0)
    dynamics = CASES["MelchionnaNPT"].of_list(structures)
    assert capsys.readouterr().err.count("Setting the center-of-mass momentum to zero") == 2
    np.testing.assert_allclose(dynamics.get_center_of_mass_momentum(), np.zeros((3, 3)), atol=1e-12)


def test_a_cell_that_is_no_triangle_is_named():
    structures = metals()
    structures[1].set_cell(
        structures[1].cell @ np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]])
    )
    with pytest.raises(StructureError, match=r"structure 1.*triangular"):
        CASES["MelchionnaNPT"].of_list(structures)
