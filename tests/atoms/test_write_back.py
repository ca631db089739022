"""A batch is written into the user's own Atoms, and results into their calculators."""

import itertools

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import Trajectory, iread, write
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import CalculatorProxy, batch_from_atoms, unwrapped, write_back
from nvdyn_ase.data import StructureError
from tests.atoms.calculators import Biased, CountingEMT, OldStyle, Watchful, evaluate, results_of
from tests.atoms.structures import assert_same, structures
from tests.systems import mixed


def moved(systems, shift=0.03, seed=0):
    """Return a batch of the systems with every atom moved, and their results."""
    batch = batch_from_atoms(systems)
    noise = np.random.default_rng(seed).normal(size=(batch.num_nodes, 3))
    batch["positions"] = batch["positions"] + shift * torch.as_tensor(noise)
    evaluate(batch, systems)
    return batch


def check_results(systems, make=EMT, tolerance=1e-10):
    """Check what the Atoms answer against fresh calculators."""
    for atoms, expected in zip(systems, results_of(systems, make), strict=True):
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=tolerance)
        forces = atoms.get_forces(apply_constraint=False)
        np.testing.assert_allclose(forces, expected["forces"], atol=tolerance)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(atoms.get_stress(), expected["stress"], atol=tolerance)


# -------------------------------------------------------------------- geometry


@given(st.lists(structures(), min_size=1, max_size=3), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_did_not_move_stays_as_it_is(systems, momenta, results):
    before = [atoms.copy() for atoms in systems]
    held = [(atoms.positions, atoms.cell, atoms.info) for atoms in systems]
    for dtype in (torch.float64, torch.float32):
        batch = batch_from_atoms(systems, dtype=dtype)
        write_back(batch, systems, momenta=momenta, results=results)
    for atoms, old, (positions, cell, info) in zip(systems, before, held, strict=True):
        old.info = atoms.info
        assert_same(atoms, old)
        assert atoms.positions is positions
        assert atoms.cell is cell
        assert atoms.info is info


def test_positions_cell_and_momenta_are_written_in_place():
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au", cubic=True)]
    systems[0].set_constraint(FixAtoms([0, 1, 2, 3]))
    systems[2].set_momenta(np.ones((4, 3)))
    batch = batch_from_atoms(systems)
    batch["positions"] = batch["positions"] + 1.0
    batch["cell"] = batch["cell"] * torch.tensor([1.0, 1.0, 1.1]).view(3, 1, 1)
    batch["velocities"] = batch["velocities"] + 0.5
    old = [(atoms.arrays["positions"], atoms.cell, atoms.copy()) for atoms in systems]
    write_back(batch, systems, momenta=True, results=False)
    for atoms, (positions, cell, before) in zip(systems, old, strict=True):
        assert atoms.positions is positions
        assert atoms.cell is cell
        np.testing.assert_allclose(positions, before.positions + 1.0, atol=1e-14)
        p = before.get_momenta() + 0.5 * before.get_masses()[:, None]
        np.testing.assert_allclose(atoms.get_momenta(), p, rtol=1e-14)
    np.testing.assert_allclose(systems[2].cell, 1.1 * old[2][2].cell)


def test_momenta_are_written_only_if_asked_for():
    atoms = molecule("CO")
    batch = batch_from_atoms([atoms])
    batch["velocities"] = batch["velocities"] + 1.0
    write_back(batch, [atoms], momenta=False, results=False)
    assert not atoms.has("momenta")
    write_back(batch, [atoms], momenta=True, results=False)
    assert (atoms.get_velocities() == 1.0).all()
    batch["velocities"] = batch["velocities"] * 0.0
    write_back(batch, [atoms], momenta=True, results=False)
    assert (atoms.arrays["momenta"] == 0.0).all()


def test_arrays_of_unusual_types_are_not_rounded_to():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2])
    atoms.arrays |= {"positions": np.eye(3, dtype=int)[:2], "momenta": np.ones((2, 3), int)}
    batch = batch_from_atoms([atoms])
    batch["positions"], batch["velocities"] = batch["positions"] + 0.25, batch["velocities"] * 1.5
    write_back(batch, [atoms], momenta=True, results=False)
    assert (atoms.positions == np.eye(3)[:2] + 0.25).all()
    np.testing.assert_allclose(atoms.get_momenta(), 1.5, rtol=1e-14)


def test_lists_that_do_not_fit():
    systems = [bulk("Cu"), bulk("Au", cubic=True)]
    batch = batch_from_atoms(systems)
    with pytest.raises(ValueError, match="1 Atoms for 2 systems"):
        write_back(batch, systems[:1], momenta=False, results=False)
    del systems[1][0]
    with pytest.raises(StructureError, match=r"^structure 1: it has 3 atoms, and had 4"):
        write_back(batch, systems, momenta=False, results=False)


# -------------------------------------------------------------------- calculators of their own


def test_a_calculator_of_its_own_is_filled_in_place():
    systems = mixed(7)
    calculators = [CountingEMT() for _ in systems]
    for atoms, calculator in zip(systems, calculators, strict=True):
        atoms.calc = calculator
    batch = moved(systems)
    write_back(batch, systems, momenta=False, results=True)
    check_results(systems)
    for atoms, calculator in zip(systems, calculators, strict=True):
        assert atoms.calc is calculator
        assert calculator.count == 0
        assert calculator.atoms is not atoms
        assert calculator.atoms == atoms
        assert ("stress" in calculator.results) == (atoms.cell.rank == 3)


def test_a_filled_calculator_goes_on():
    systems = mixed(7)
    for atoms in systems:
        atoms.calc = CountingEMT()
    write_back(moved(systems), systems, momenta=False, results=True)
    for step in range(3):
        for atoms in systems:
            atoms.rattle(0.02, seed=step)
        check_results(systems)
        assert {atoms.calc.count for atoms in systems} == {step + 1}
    assert all("calculate" not in vars(atoms.calc) for atoms in systems)


def test_what_was_not_put_in_is_calculated():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = CountingEMT()
    write_back(moved([atoms]), [atoms], momenta=False, results=True)
    energies = atoms.get_potential_energies()
    assert atoms.calc.count == 1
    assert (energies == results_of([atoms])[0]["energies"]).all()


CHANGES = {
    "move": lambda a, rng: a.rattle(0.05, seed=int(rng.integers(1000))),
    "strain": lambda a, rng: a.set_cell(a.cell * rng.uniform(0.97, 1.03), scale_atoms=True),
    "mutate": lambda a, rng: a.set_atomic_numbers(rng.choice([29, 47, 79], len(a))),
    "open": lambda a, rng: a.set_pbc(rng.random(3) < 0.5),
    "charge": lambda a, rng: a.set_initial_charges(rng.normal(size=len(a))),
    "magnetise": lambda a, rng: a.set_initial_magnetic_moments(rng.normal(size=len(a))),
    "stay": lambda a, rng: None,
}
STEPS = st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(["fill", "ask", "stress"]))


@given(st.lists(STEPS, min_size=1, max_size=8), st.booleans(), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_filling_and_asking_in_any_order(steps, shared, seed):
    rng = np.random.default_rng(seed)
    systems = [bulk("Cu"), bulk("Au")]
    watchers, real = [Watchful(), Watchful()], [EMT(), EMT()]
    if shared:
        watchers, real = watchers[:1] * 2, real[:1] * 2
    watched = [atoms.copy() for atoms in systems]
    for group, calculators in ((systems, real), (watched, watchers)):
        for atoms, calculator in zip(group, calculators, strict=True):
            atoms.calc = calculator
    for change, action in steps:
        state = rng.bit_generator.state
        for group, make in ((systems, EMT), (watched, Watchful)):
            rng.bit_generator.state = state
            for atoms in group:
                CHANGES[change](atoms, rng)
            if action == "fill":
                batch = batch_from_atoms(group)
                evaluate(batch, group, make)
                before = watchers[0].count, watchers[1 - shared].count
                write_back(batch, group, momenta=False, results=True)
                check_results(group, make)
                assert before == (watchers[0].count, watchers[1 - shared].count)
            else:
                atoms = group[int(rng.integers(2))]
                check_results([atoms], make)


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"stay", "move"}))
def test_a_calculator_is_told_what_changed_before_it_was_filled(change):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Watchful()
    atoms.get_forces()
    CHANGES[change](atoms, np.random.default_rng(1))
    for shift in (0.1, 0.2):
        batch = batch_from_atoms([atoms])
        batch["positions"] = batch["positions"] + shift
        evaluate(batch, [atoms], Watchful)
        write_back(batch, [atoms], momenta=False, results=True)
    atoms.rattle(0.1, seed=0)
    check_results([atoms], Watchful)  # it checks what it is told
    assert atoms.calc.count == 4  # it computes what it is asked for, one by one


@pytest.mark.parametrize("twin", ["deepcopy", "pickle"])
@pytest.mark.parametrize("shared", [False, True])
def test_copies_of_filled_calculators(twin, shared):
    import copy
    import pickle

    systems = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
    one = CountingEMT()
    for atoms in systems:
        atoms.calc = one if shared else CountingEMT()
    write_back(moved(systems), systems, momenta=False, results=True)
    copies = copy.deepcopy(systems) if twin == "deepcopy" else pickle.loads(pickle.dumps(systems))
    check_results(copies)
    assert all(atoms.calc.count == 0 for atoms in copies)
    for atoms in copies:
        atoms.rattle(0.1, seed=1)
    check_results(copies)
    assert all(atoms.calc.count > 0 for atoms in copies)
    assert all(atoms.calc.count == 0 for atoms in systems)
    check_results(systems)


def test_a_calculate_of_its_own_is_called_and_kept():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator = EMT()
    calls = []

    def calculate(*args, **kwargs):
        calls.append(args)
        EMT.calculate(calculator, *args, **kwargs)

    calculator.calculate = calculate
    write_back(moved([atoms]), [atoms], momenta=False, results=True)
    atoms.rattle(0.1, seed=0)
    check_results([atoms])
    assert len(calls) == 1
    assert calculator.calculate is calculate


def test_a_failing_calculation_leaves_no_half_results():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    write_back(moved([atoms]), [atoms], momenta=False, results=True)
    atoms.numbers[0] = 3
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="No EMT-potential for Li"):
            atoms.get_potential_energy()
    atoms.numbers[0] = 29
    check_results([atoms])


def test_what_a_calculator_found_itself_is_not_lost():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Watchful()
    atoms.get_forces()
    atoms.get_stress()
    batch = batch_from_atoms([atoms])
    evaluate(batch, [atoms], Watchful)
    for _ in range(2):
        write_back(batch, [atoms], momenta=False, results=True)
    assert atoms.calc.results["band gap"] == 1.5
    assert atoms.get_dipole_moment().shape == (3,)
    assert "calculate" not in vars(atoms.calc)
    # Of another geometry it is worth nothing.
    batch["positions"] = batch["positions"] + 0.1
    evaluate(batch, [atoms], Watchful)
    write_back(batch, [atoms], momenta=False, results=True)
    assert set(atoms.calc.results) == {"energy", "forces", "stress"}


def test_results_of_another_model_replace_those_of_the_calculator():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Watchful()
    atoms.get_forces()
    batch = batch_from_atoms([atoms])
    evaluate(batch, [atoms], EMT)
    write_back(batch, [atoms], momenta=False, results=True)
    check_results([atoms], EMT)
    assert "band gap" not in atoms.calc.results


def test_without_results_calculators_are_left_alone():
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au")]
    systems[0].calc = own = CountingEMT()
    systems[1].calc = None
    systems[2].calc = stored = SinglePointCalculator(systems[2], energy=1.0)
    energy = systems[0].get_potential_energy()
    batch = moved(systems)
    write_back(batch, systems, momenta=False, results=False)
    assert [atoms.calc for atoms in systems] == [own, None, stored]
    assert own.results["energy"] == energy
    check_results(systems[:1])
    assert own.count == 2


# -------------------------------------------------------------------- shared calculators


def test_a_shared_calculator_is_seen_through_proxies():
    systems = mixed(7)
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    check_results(systems)
    assert shared.count == 0
    assert len({id(atoms.calc) for atoms in systems}) == len(systems)
    for atoms in systems:
        assert type(atoms.calc) is CalculatorProxy
        assert isinstance(atoms.calc, CountingEMT)
        assert unwrapped(atoms.calc) is shared
        assert atoms.calc.name == shared.name
        assert atoms.calc.todict() == shared.todict()
        assert atoms.calc.parameters is shared.parameters
        assert atoms.calc.implemented_properties == shared.implemented_properties
    systems[0].calc.count = 5
    assert shared.count == systems[1].calc.count == 5
    with pytest.raises(AttributeError):
        systems[0].calc.nonsense  # noqa: B018


def test_one_that_moved_is_calculated_and_the_others_are_not():
    systems = mixed(4)
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    systems[2].rattle(0.1, seed=3)
    for _ in range(2):
        check_results(systems)
    # EMT computes all there is at once.
    assert shared.count == 1
    systems[2].get_potential_energies()
    assert shared.count == 1
    systems[1].get_potential_energies()
    assert shared.count == 2


def test_a_second_list_keeps_the_proxies():
    systems = mixed(4)
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    proxies = [atoms.calc for atoms in systems]
    write_back(moved(systems), systems, momenta=False, results=True)
    assert all(atoms.calc is proxy for atoms, proxy in zip(systems, proxies, strict=True))
    # One of them with the bare calculator again, another with the proxy of a third.
    systems[0].calc, systems[1].calc = shared, proxies[2]
    write_back(moved(systems), systems, momenta=False, results=True)
    check_results(systems)
    assert len({id(atoms.calc) for atoms in systems}) == 4
    assert all(unwrapped(atoms.calc) is shared for atoms in systems)
    write_back(moved(systems[3:]), systems[3:], momenta=False, results=True)
    assert systems[3].calc is proxies[3]
    check_results(systems)
    assert shared.count == 0


def test_results_are_dropped_with_the_parameters_they_were_computed_with():
    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    shared = Watchful(k=1.0)
    for atoms in systems:
        atoms.calc = shared
    batch = batch_from_atoms(systems)
    evaluate(batch, systems, Watchful)
    write_back(batch, systems, momenta=False, results=True)
    systems[0].calc.set(k=2.0)
    for atoms in systems:
        assert atoms.get_potential_energy() == 2.0 * (atoms.positions**2).sum()
    systems[0].calc.reset()
    assert systems[0].calc.results == {}
    assert systems[0].get_potential_energy() == 2.0 * (systems[0].positions ** 2).sum()


def test_a_proxy_answers_like_a_calculator():
    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    proxy, atoms = systems[0].calc, systems[0]
    assert proxy.get_property("energy") == proxy.get_potential_energy(atoms)
    assert proxy.get_property("energies", atoms, allow_calculation=False) is None
    assert not proxy.calculation_required(atoms, ["energy", "forces"])
    assert proxy.calculation_required(atoms, ["energies"])
    assert proxy.check_state(atoms) == []
    forces = proxy.get_forces(atoms)
    forces += 1.0
    assert not (forces == proxy.get_forces(atoms)).any()
    with pytest.raises(NotImplementedError):
        proxy.get_property("polarization", atoms)
    assert atoms.get_properties(["energy"])["energy"] == results_of([atoms])[0]["energy"]
    proxy.calculate(atoms, ["energy"])
    assert proxy.results["energies"].shape == (4,)
    assert "Shared" not in type(proxy).__name__
    assert "count" in dir(proxy)


def test_ignored_changes_are_the_shared_calculators():
    class Blind(CountingEMT):
        ignored_changes = {"initial_magmoms"}  # noqa: RUF012

    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    shared = Blind()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    systems[0].set_initial_magnetic_moments([1.0] * 4)
    systems[0].get_forces()
    assert shared.count == 0


# -------------------------------------------------------------------- calculators of other kinds


@pytest.mark.parametrize("shared", [False, True])
def test_old_style_calculators(shared):
    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    old = OldStyle()
    for atoms in systems:
        atoms.calc = old if shared else OldStyle()
    batch = batch_from_atoms(systems)
    batch["energy"] = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    batch["forces"] = torch.ones(8, 3, dtype=torch.float64)
    write_back(batch, systems, momenta=False, results=True)
    assert [atoms.get_potential_energy() for atoms in systems] == [1.0, 2.0]
    assert (systems[0].get_forces() == 1.0).all()
    assert isinstance(systems[0].calc, OldStyle)
    assert systems[0].calc.count == 0
    systems[0].positions += 0.1
    assert systems[0].get_potential_energy() == (systems[0].positions ** 2).sum()
    assert (systems[0].get_forces() == -2 * systems[0].positions).all()
    with pytest.raises(NotImplementedError):
        systems[0].get_stress()


def test_calculators_that_answer_in_their_own_way_are_left_to_do_so():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Biased()
    batch = moved([atoms])
    write_back(batch, [atoms], momenta=False, results=True)
    assert (atoms.get_forces() == batch["forces"].numpy()).all()
    atoms.rattle(0.1, seed=0)
    assert (atoms.get_forces() == results_of([atoms])[0]["forces"] + 1.0).all()


def test_properties_that_the_calculator_does_not_have():
    class OnlyEnergy(EMT):
        implemented_properties = ("energy",)

    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator = OnlyEnergy()
    write_back(moved([atoms]), [atoms], momenta=False, results=True)
    check_results([atoms])
    assert unwrapped(atoms.calc) is calculator


def test_no_calculator_and_stored_results():
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au", cubic=True)]
    systems[2].calc = SinglePointCalculator(systems[2], energy=1.0)
    batch = moved(systems)
    write_back(batch, systems, momenta=False, results=True)
    check_results(systems)
    assert all(type(atoms.calc) is SinglePointCalculator for atoms in systems)
    assert "stress" not in systems[1].calc.results
    before = [atoms.calc for atoms in systems]
    write_back(batch, systems, momenta=False, results=True)
    assert all(atoms.calc is old for atoms, old in zip(systems, before, strict=True))


def test_a_system_that_failed_has_no_results():
    systems = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
    for atoms in systems:
        atoms.calc = CountingEMT()
    batch = moved(systems)
    batch.host[1]["failure"] = "it would not"
    write_back(batch, systems, momenta=False, results=True)
    assert systems[1].calc.results == {}
    check_results(systems)
    assert [atoms.calc.count for atoms in systems] == [0, 1]


# -------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["own", "shared", "none"])
@pytest.mark.parametrize("suffix", ["traj", "extxyz", "json", "db"])
def test_files_get_the_results_without_a_calculation(kind, suffix, tmp_path):
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au", cubic=True)]
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = {"own": CountingEMT(), "shared": shared, "none": None}[kind]
    batch = moved(systems)
    write_back(batch, systems, momenta=False, results=True)
    path = tmp_path / f"all.{suffix}"
    write(path, systems)
    for atoms, found in zip(systems, iread(path, ":"), strict=True):
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
        assert found.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(found.get_forces(), atoms.get_forces(), atol=1e-7)
        if atoms.cell.rank == 3:
            np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), atol=1e-7)
    assert kind == "none" or all(atoms.calc.count == 0 for atoms in systems)


def test_a_trajectory_has_the_name_and_parameters_of_the_calculator(tmp_path):
    systems = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
    shared = EMT(asap_cutoff=True)
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    with Trajectory(tmp_path / "a.traj", "w") as file:
        file.write(systems[0])
    with Trajectory(tmp_path / "a.traj") as file:
        found = file[-1]
    assert found.calc.name == "emt"
    assert found.calc.parameters == {"asap_cutoff": True}
    assert found.get_potential_energy() == systems[0].get_potential_energy()


def test_an_ase_optimizer_goes_on_from_what_was_written():
    from ase.optimize import BFGS

    systems = mixed(3)
    shared = CountingEMT()
    for atoms in systems:
        atoms.calc = shared
    write_back(moved(systems), systems, momenta=False, results=True)
    for atoms in systems:
        atoms.set_constraint()
        twin = atoms.copy()
        twin.calc = EMT()
        for one in (atoms, twin):
            BFGS(one, logfile=None).run(fmax=0.01, steps=5)
        np.testing.assert_allclose(atoms.positions, twin.positions, atol=1e-12)


def test_atoms_that_are_more_than_atoms_stay_so():
    class Labelled(ase.Atoms):
        label = "mine"

    atoms = Labelled(bulk("Cu", cubic=True))
    atoms.calc = EMT()
    write_back(moved([atoms]), [atoms], momenta=False, results=True)
    assert type(atoms) is Labelled
    check_results([atoms])


def test_a_calculator_that_only_stores_results_is_as_ase_makes_it():
    """Whatever it has, to its attributes that nobody looks at."""
    systems = mixed(4)
    batch = moved(systems)
    write_back(batch, systems, momenta=False, results=True)
    for atoms, other in itertools.permutations(systems, 2):
        found, expected = atoms.calc, SinglePointCalculator(atoms, **atoms.calc.results)
        assert type(found) is SinglePointCalculator
        assert vars(found).keys() == vars(expected).keys()
        assert found.atoms is not atoms and found.atoms == atoms
        assert found.get_spin_polarized.__self__ is found
        assert type(found.parameters) is type(expected.parameters)
        assert found.parameters == expected.parameters
        assert found.parameters is not other.calc.parameters
        for name in ("_directory", "prefix", "use_cache"):
            assert vars(found)[name] == vars(expected)[name]
        for name, value in expected.results.items():
            assert type(found.results[name]) is type(value)
            assert not np.shares_memory(found.results[name], other.calc.results.get(name))
        assert str(found) == str(expected)
