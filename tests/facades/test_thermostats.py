"""Thermostats: ASE's numbers step for step, and what a list adds."""

import ase.md
import ase.md.nvtberendsen
import ase.optimize
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLengths, FixCom, FixLinearTriatomic
from ase.md.velocitydistribution import Stationary

from nvdyn_ase.data import StructureError
from nvdyn_ase.md import Andersen, Bussi, Langevin, NVTBerendsen
from tests.facades.test_parity import PLAIN, argon_cells, slabs, trajectory
from tests.pace import paced
from tests.systems import ARGON, argon, copper_slab, with_velocities

COUNT = 3
TEMPERATURES = [200.0, 300.0, 350.0]


def generators(kind=np.random.default_rng):
    return [kind(seed) for seed in range(COUNT)]


class Case:
    """A thermostat, options that differ from system to system, and where noise comes from."""

    def __init__(self, theirs, ours, options, stochastic=True):
        self.theirs, self.ours, self.options = theirs, ours, options
        self.stochastic = stochastic

    def of_list(self, atoms, **more):
        options = dict(self.options)
        if self.stochastic and not {"rng", "seed"} & more.keys():
            more["rng"] = generators()
        return self.ours(atoms, **options | more)

    def one(self, cls, index, atoms, **more):
        options = {
            key: value[index] if isinstance(value, list) else value
            for key, value in self.options.items()
        }
        if self.stochastic and not {"rng", "seed"} & more.keys():
            more["rng"] = generators()[index]
        return cls(atoms, **options | more)


CASES = {
    "Langevin": Case(
        *(ase.md.Langevin, Langevin),
        {
            "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
            "temperature_K": TEMPERATURES,
            "friction": [0.01, 0.02, 0.05],
            "fixcm": False,
        },
    ),
    "Langevin, fixcm": Case(
        *(ase.md.Langevin, Langevin),
        {"timestep": units.fs, "temperature_K": TEMPERATURES, "friction": 0.02, "fixcm": True},
    ),
    "Andersen": Case(
        *(ase.md.Andersen, Andersen),
        {
            "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
            "temperature_K": TEMPERATURES,
            "andersen_prob": [0.01, 0.1, 0.03],
        },
    ),
    "Andersen, free": Case(
        *(ase.md.Andersen, Andersen),
        {
            "timestep": units.fs,
            "temperature_K": TEMPERATURES,
            "andersen_prob": 0.02,
            "fixcm": False,
        },
    ),
    "Bussi": Case(
        *(ase.md.Bussi, Bussi),
        {
            "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
            "temperature_K": TEMPERATURES,
            "taut": [20 * units.fs, 30 * units.fs, 100 * units.fs],
        },
    ),
    "NVTBerendsen": Case(
        *(ase.md.nvtberendsen.NVTBerendsen, NVTBerendsen),
        {
            "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
            "temperature_K": TEMPERATURES,
            "taut": [20 * units.fs, 30 * units.fs, 100 * units.fs],
        },
        stochastic=False,
    ),
    "NVTBerendsen, free": Case(
        *(ase.md.nvtberendsen.NVTBerendsen, NVTBerendsen),
        {"timestep": units.fs, "temperature_K": TEMPERATURES, "taut": 50.0, "fixcm": False},
        stochastic=False,
    ),
}
cases = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:.*fixcm.*:FutureWarning")


def prepared(make):
    structures, counting = make()
    structures = structures[:COUNT]
    for seed, atoms in enumerate(structures):
        with_velocities(atoms, seed)
        atoms.calc = counting()
    return structures


def uncounted(make):
    structures = prepared(make)
    for atoms in structures:
        atoms.calc = PLAIN[type(atoms.calc)]()
    return structures


# -------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", paced(CASES))
@pytest.mark.parametrize("make", [argon_cells, slabs])
def test_every_step_is_ases_with_the_same_generator(name, make):
    case = CASES[name]
    singles, batch = prepared(make), uncounted(make)
    dynamics = case.of_list(batch)
    frames = trajectory(dynamics, batch, 100)
    for index, atoms in enumerate(singles):
        expected = trajectory(case.one(case.theirs, index, atoms), [atoms], 100)
        for step in range(101):
            error = np.abs(frames[step][index] - expected[step][0]).max()
            assert error < 1e-10, (index, step, error)
        result = dynamics.results[index]
        assert result.evaluations == atoms.calc.calls == 101
        np.testing.assert_allclose(batch[index].get_momenta(), atoms.get_momenta(), atol=1e-10)
        assert result.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)


@cases
@pytest.mark.parametrize("rng", [None, np.random.RandomState, np.random.default_rng])
def test_one_atoms_by_the_engine_is_one_atoms_by_ase(name, rng):
    case = CASES[name]
    frames = []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True})):
        np.random.seed(5)
        atoms = uncounted(slabs)[1]
        source = {"rng": None if rng is None else rng(3)} if case.stochastic else {}
        if rng is None and case.stochastic:
            source = {}
            dynamics = case.one(cls, 1, atoms, rng=np.random, **engine)
        else:
            dynamics = case.one(cls, 1, atoms, **source, **engine)
        frames.append(trajectory(dynamics, [atoms], 30))
    np.testing.assert_allclose(frames[1], frames[0], atol=1e-10)


@cases
def test_one_atoms_runs_ases_own_code_to_the_last_digit(name):
    case = CASES[name]
    one, other = uncounted(slabs)[1], uncounted(slabs)[1]
    case.one(case.theirs, 1, one).run(20)
    dynamics = case.one(case.ours, 1, other)
    assert dynamics.engine is None
    dynamics.run(20)
    assert np.array_equal(one.positions, other.positions)
    assert np.array_equal(one.get_momenta(), other.get_momenta())


@cases
@pytest.mark.parametrize(
    "constraint",
    [FixCom, lambda: FixBondLengths([(0, 1)]), lambda: [FixAtoms([0]), FixCom()]],
    ids=["FixCom", "FixBondLengths", "FixAtoms and FixCom"],
)
def test_other_constraints_are_ases(name, constraint):
    case = CASES[name]

    def make():
        atoms = with_velocities(molecule("C2H6", calculator=EMT()), 4)
        atoms.set_constraint(constraint())
        return atoms

    structures, reference = [make(), make()], make()
    options = {"rng": generators()[:2]} if case.stochastic else {}
    dynamics = case.one(case.ours, 0, structures, **options)
    dynamics.run(25)
    case.one(case.theirs, 0, reference).run(25)
    np.testing.assert_allclose(structures[0].positions, reference.positions, atol=1e-10)
    np.testing.assert_allclose(structures[0].get_momenta(), reference.get_momenta(), atol=1e-10)


def test_noise_on_a_rigid_linear_molecule_is_ases():
    def make():
        atoms = molecule("CO2")
        atoms.set_constraint(FixLinearTriatomic([(1, 0, 2)]))
        return with_velocities(Atoms(atoms, calculator=EMT()), 3)

    structures, reference = [make(), make()], make()
    options = {"timestep": units.fs, "temperature_K": 300, "friction": 0.1, "fixcm": False}
    Langevin(structures, rng=generators()[:2], **options).run(20)
    ase.md.Langevin(reference, rng=generators()[0], **options).run(20)
    np.testing.assert_allclose(structures[0].positions, reference.positions, atol=1e-10)


# -------------------------------------------------------------------------------- noise of a list


@cases
@pytest.mark.parametrize(
    "source",
    [lambda: {"seed": 3}, lambda: {"rng": np.random.default_rng(3)}, lambda: {"rng": np.random}],
    ids=["seed", "generator", "numpy.random"],
)
def test_systems_of_a_list_do_not_know_each_other(name, source):
    case = CASES[name]
    if not case.stochastic:
        pytest.skip("no noise")
    together, alone = uncounted(slabs), uncounted(slabs)[:1]
    for structures in (together, alone):
        np.random.seed(4)
        case.one(case.ours, 0, structures, **source()).run(20)
    assert np.array_equal(together[0].positions, alone[0].positions)
    assert not np.array_equal(together[1].positions, together[2].positions)


@cases
@pytest.mark.parametrize("parts", [(12,), (5, 0, 7)])
def test_numpys_seed_decides_where_nothing_is_given(name, parts):
    case = CASES[name]
    ends = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        structures = [argon(0), argon(0)]
        for atoms in structures:
            with_velocities(atoms, 1, 50.0).calc = LennardJones(**ARGON)
        dynamics = case.one(case.ours, 0, structures, rng=None) if case.stochastic else None
        if dynamics is None:
            pytest.skip("no noise")
        for steps in parts:
            dynamics.run(steps)
        ends.append([atoms.positions.copy() for atoms in structures])
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])
    assert not np.array_equal(ends[0][0], ends[0][1])


def test_seed_and_generators_are_not_both_taken():
    options = {"timestep": 1.0, "temperature_K": 300, "friction": 0.1, "fixcm": False}
    structures = uncounted(slabs)
    with pytest.raises(TypeError, match="seed or rng"):
        Langevin(structures, seed=1, rng=np.random.default_rng(), **options)
    with pytest.raises(TypeError, match="needs the engine"):
        Langevin(structures[0], seed=1, **options)
    with pytest.raises(ValueError, match="2 generators for 3"):
        Langevin(structures, rng=generators()[:2], **options)
    with pytest.raises(ValueError, match="2 values for 3"):
        Langevin(structures, seed=[1, 2], **options)


# -------------------------------------------------------------------------------- parameters


def langevin_pair(change, **options):
    """Return positions after a change halfway, of the engine and of ASE's code."""
    options = {"timestep": 1.0, "temperature_K": 300, "friction": 0.02, "fixcm": False} | options
    ends = []
    for engine in (True, False):
        atoms = with_velocities(copper_slab(2), 1)
        atoms.calc = EMT()
        dynamics = Langevin(atoms, rng=np.random.default_rng(0), engine=engine, **options)
        dynamics.run(5)
        change(dynamics)
        dynamics.run(5)
        ends.append(atoms.positions.copy())
    return ends


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.set_temperature(temperature_K=500),
        lambda d: d.set_friction(0.2),
        lambda d: d.set_friction(np.linspace(0.0, 0.1, 17)[:, None]),
        lambda d: d.set_timestep(0.5),
        lambda d: setattr(d, "dt", 0.5) or d.updatevars(),
        lambda d: setattr(d, "temp", 0.05) or d.updatevars(),
    ],
    ids=["temperature", "friction", "friction per atom", "timestep", "dt", "temp"],
)
def test_setters_in_the_middle_of_a_run(change):
    ours, theirs = langevin_pair(change)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_one_value_per_atom():
    per_atom = np.linspace(0.0, 0.1, 17)[:, None]
    ours, theirs = langevin_pair(lambda d: None, friction=per_atom)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    ours, theirs = langevin_pair(lambda d: d.set_friction(0.3), temperature_K=3000 * per_atom)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    structures, singles = uncounted(slabs), uncounted(slabs)
    options = {"timestep": 1.0, "temperature_K": 300, "fixcm": False}
    friction = [np.linspace(0.0, 0.1, len(atoms))[:, None] for atoms in structures]
    Langevin(structures, friction=friction, rng=generators(), **options).run(5)
    for atoms, one, own, rng in zip(structures, singles, friction, generators(), strict=True):
        Langevin(one, friction=own, rng=rng, **options).run(5)
        np.testing.assert_allclose(atoms.positions, one.positions, atol=1e-10)


@pytest.mark.parametrize("values", [[0.1] * 2, [0.1] * 17, np.full((3, 3), 0.1), [[0.1] * 17] * 3])
def test_lengths_are_not_guessed(values):
    structures = uncounted(slabs)
    with pytest.raises(ValueError, match=r"friction|fr"):
        Langevin(structures, 1.0, temperature_K=300, friction=values, fixcm=False)


SETTERS = {
    "Andersen, temperature": ("Andersen", lambda d: d.set_temperature(500)),
    "Andersen, probability": ("Andersen", lambda d: d.set_andersen_prob(0.5)),
    "Andersen, time step": ("Andersen", lambda d: d.set_timestep(0.1)),
    "Berendsen, temperature": ("NVTBerendsen", lambda d: d.set_temperature(temperature_K=500)),
    "Berendsen, time constant": ("NVTBerendsen", lambda d: d.set_taut(0.7)),
    "Berendsen, time step": ("NVTBerendsen", lambda d: d.set_timestep(0.1)),
}


@pytest.mark.parametrize("which", SETTERS)
def test_setters_of_the_others(which):
    name, change = SETTERS[which]
    ends = []
    for engine in (True, False):
        atoms = uncounted(slabs)[1]
        dynamics = CASES[name].one(CASES[name].ours, 1, atoms, engine=engine)
        dynamics.run(5)
        change(dynamics)
        dynamics.run(5)
        ends.append(atoms.positions.copy())
    np.testing.assert_allclose(*ends, atol=1e-10)


@pytest.mark.parametrize("name", ["Andersen", "NVTBerendsen", "Langevin"])
def test_setters_take_one_value_per_system(name):
    structures, singles = uncounted(slabs), uncounted(slabs)
    case, temperatures = CASES[name], [50.0, 400.0, 1000.0]
    keyword = {} if name == "Andersen" else {"temperature_K": temperatures}
    dynamics = case.of_list(structures)
    dynamics.set_temperature(*([] if keyword else [temperatures]), **keyword)
    dynamics.run(5)
    for index, atoms in enumerate(singles):
        alone = case.one(case.theirs, index, atoms)
        value = temperatures[index]
        alone.set_temperature(
            *([] if keyword else [value]), **(keyword and {"temperature_K": value})
        )
        alone.run(5)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)


@cases
def test_todict_has_what_ases_has(name):
    case, structures = CASES[name], uncounted(slabs)
    alone = case.one(case.ours, 0, structures[0], engine=True)
    twin = uncounted(slabs)[0]
    assert alone.todict() == case.one(case.theirs, 0, twin).todict()
    assert case.of_list(structures).todict().keys() == alone.todict().keys()


def test_bussi_keeps_account_of_what_it_transfers():
    structures, singles = uncounted(slabs), uncounted(slabs)
    dynamics = CASES["Bussi"].of_list(structures)
    dynamics.run(10)
    for index, atoms in enumerate(singles):
        alone = CASES["Bussi"].one(ase.md.Bussi, index, atoms)
        alone.run(10)
        assert dynamics.transferred_energy[index] == pytest.approx(alone.transferred_energy)
        assert dynamics.ndof[index] == alone.ndof
        assert dynamics.temp[index] == alone.temp
        assert dynamics.target_kinetic_energy[index] == alone.target_kinetic_energy
    dynamics.transferred_energy = 0.0
    assert dynamics.transferred_energy.tolist() == [0.0] * COUNT


def test_bussi_refuses_a_structure_at_rest_and_names_it():
    structures = uncounted(slabs)
    structures[2].set_momenta(np.zeros((len(structures[2]), 3)))
    with pytest.raises(StructureError, match=r"structure 2.*kinetic energy is zero"):
        Bussi(structures, 1.0, 300, 10.0)


def test_bussi_takes_changes_up_in_the_middle_of_a_run():
    ends = []
    for taut in (100.0, 1.0):
        structures = uncounted(slabs)
        dynamics = Bussi(structures, 1.0, 300, 100.0, seed=1)
        dynamics.run(3)
        dynamics.taut = taut
        dynamics.run(3)
        ends.append(structures[0].positions.copy())
    assert np.abs(ends[0] - ends[1]).max() > 1e-6


def test_attributes_are_as_in_ase():
    options = {"timestep": 1.0, "temperature_K": 300, "friction": 0.02, "fixcm": False}
    structures = uncounted(slabs)
    alone = Langevin(structures[0], engine=True, rng=np.random.default_rng(0), **options)
    twin = uncounted(slabs)[0]
    theirs = ase.md.Langevin(twin, rng=np.random.default_rng(0), **options)
    assert alone.todict() == theirs.todict()
    for name in ("temp", "fr", "dt", "c1", "c2"):
        assert getattr(alone, name) == getattr(theirs, name)
    alone.run(2)
    theirs.run(2)
    for name in ("v", "rnd_pos", "rnd_vel", "c3", "c4", "c5"):
        assert getattr(alone, name).shape == getattr(theirs, name).shape
    several = Langevin(structures, seed=0, **options)
    several.run(2)
    assert [array.shape for array in several.rnd_vel] == [(len(a), 3) for a in structures]
    several.set_temperature(temperature_K=[100, 200, 300])
    np.testing.assert_allclose(several.todict()["temperature_K"], [100, 200, 300])
    several.engine.set_parameter("friction", [0.1, 0.2, 0.3])
    np.testing.assert_allclose(several.fr, [0.1, 0.2, 0.3])


def test_what_ase_says_about_arguments():
    atoms = uncounted(slabs)
    with pytest.raises(TypeError, match="friction"):
        Langevin(atoms, 1.0, temperature_K=300)
    with pytest.raises(TypeError, match="temperature"):
        Langevin(atoms, 1.0, friction=0.1)
    with pytest.warns(FutureWarning, match="temperature_K"):
        dynamics = Langevin(atoms, 1.0, [0.01, 0.02, 0.03], 0.1, False)
    np.testing.assert_allclose(dynamics.temp, [0.01, 0.02, 0.03])
    with pytest.warns(FutureWarning, match="FixCom"):
        Langevin(atoms, 1.0, temperature_K=300, friction=0.1)


def test_fixcm_keeps_the_centre_of_mass():
    structures = [bulk("CuAg", "rocksalt", a=4.0, cubic=True) for _ in range(2)]
    for atoms in structures:
        atoms.calc = EMT()
        Stationary(with_velocities(atoms, 0))
    before = [atoms.get_momenta().sum(0) for atoms in structures]
    options = {"timestep": 0.1, "temperature_K": 300, "friction": 0.1}
    Langevin(structures, seed=1, **options).run(10)
    for atoms, momentum in zip(structures, before, strict=True):
        np.testing.assert_allclose(atoms.get_momenta().sum(0), momentum, atol=1e-8)
    lonely = Atoms("Cu", calculator=EMT())
    with pytest.raises(StructureError, match=r"structure 1.*two atoms"):
        Langevin([structures[0], lonely], seed=1, **options)
