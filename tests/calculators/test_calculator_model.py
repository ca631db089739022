"""ASE calculators behind the contract of a model."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import CalculatorProxy, batch_from_atoms, write_back
from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.data import Batch
from tests.atoms.calculators import Biased, CountingEMT, OldStyle, Watchful, results_of
from tests.systems import mixed

ALL = {"energy", "forces", "stress"}


def forward(model, batch, outputs=ALL):
    with model.computing(outputs):
        return model(batch)


def check(outputs, batch, systems, make=EMT):
    expected = results_of(systems, make)
    energies = [r["energy"] for r in expected]
    np.testing.assert_allclose(outputs["energy"].view(-1).numpy(), energies, atol=1e-10)
    forces = np.concatenate([r["forces"] for r in expected])
    np.testing.assert_allclose(outputs["forces"].numpy(), forces, atol=1e-10)
    for row, atoms in enumerate(systems):
        stress = outputs["stress"][row]
        if atoms.cell.rank == 3:
            atoms.calc.get_stress(atoms)
            voigt = stress.flatten()[[0, 4, 8, 5, 2, 1]].numpy()
            np.testing.assert_allclose(voigt, expected[row]["stress"], atol=1e-10)
            assert (stress == stress.T).all()
        else:
            assert (stress == 0).all()


@pytest.mark.parametrize("kind", ["one", "own", "shared", "mapping"])
def test_it_gives_what_the_calculators_give(kind):
    systems = mixed(7)
    one = CountingEMT()
    for atoms in systems:
        atoms.calc = one if kind in ("one", "shared") else CountingEMT()
    calculators = [atoms.calc for atoms in systems]
    if kind == "one":
        calculators = one
    elif kind == "mapping":
        calculators = dict(enumerate(calculators))
    model, batch = CalculatorModel(calculators), batch_from_atoms(systems)
    outputs = forward(model, batch)
    assert not outputs.failures
    counts = {id(atoms.calc): atoms.calc.count for atoms in systems}
    assert sum(counts.values()) == 7
    check(outputs, batch, systems)
    shapes = {key: tuple(value.shape) for key, value in outputs.items()}
    assert shapes["energy"] == shapes["free_energy"] == (7, 1)
    assert shapes["forces"] == (batch.num_nodes, 3)
    assert shapes["stress"] == (7, 3, 3)
    assert repr(model) == "CalculatorModel(CountingEMT)"
    assert model.model_card.supports_stress


@pytest.mark.parametrize("shared", [True, False])
def test_one_calculation_for_each_new_geometry(shared):
    systems = mixed(4)
    one = CountingEMT()
    calculators = [one if shared else CountingEMT() for _ in systems]
    model, batch = CalculatorModel(calculators), batch_from_atoms(systems)

    def count():
        return one.count if shared else sum(c.count for c in calculators)

    outputs = forward(model, batch)
    for _ in range(3):
        again = forward(model, batch)
        assert all(torch.equal(again[key], outputs[key]) for key in outputs)
    assert count() == 4
    # Systems 1 and 3 are frozen: they cost nothing.
    for step in range(3):
        moving = torch.tensor([1.0, 0.0, 1.0, 0.0])[batch.batch].view(-1, 1)
        batch["positions"] = batch["positions"] + 0.01 * moving
        outputs = forward(model, batch)
        assert count() == 4 + 2 * (step + 1)
    write_back(batch, systems, momenta=False, results=False)
    for atoms in systems:
        atoms.calc = EMT()
    check(outputs, batch, systems)


@given(st.lists(st.integers(0, 4), max_size=6), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_who_is_whose_survives_every_order(order, shared, random):
    systems = [bulk("Cu", a=3.5 + 0.1 * i) * (1, 1, 1 + i % 2) for i in range(5)]
    for i, atoms in enumerate(systems):
        atoms.positions += 0.1 * i
    one = Watchful(k=2.0)
    calculators = [one if shared else Watchful(k=1.0 + i) for i in range(5)]
    model, whole = CalculatorModel(calculators), batch_from_atoms(systems)
    forward(model, whole)
    batch = whole.index_select(order)
    outputs = forward(model, batch)
    for row, i in enumerate(order):
        k = calculators[i].parameters["k"]
        atoms = systems[i]
        assert outputs["energy"][row].item() == pytest.approx(k * (atoms.positions**2).sum())
    assert sum(c.count for c in set(calculators)) == 5
    assert outputs["energy"].shape == (len(order), 1)


def test_the_atoms_it_asks_about_are_the_users():
    seen = []

    class Curious(Watchful):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            seen.append(atoms.copy())
            super().calculate(atoms, properties, system_changes)

    atoms = bulk("Cu", cubic=True)
    atoms.info = {"charge": 2, "deep": {"spin": [1]}}
    atoms.set_initial_charges([1, 0, 0, 0])
    atoms.set_initial_magnetic_moments([[0, 0, 1.0]] * 4)
    atoms.set_tags([1, 2, 3, 4])
    atoms.set_masses([1.0, 2, 3, 4])
    atoms.set_momenta(np.ones((4, 3)))
    atoms.set_array("words", np.array(["a", "b", "c", "d"]))
    atoms.set_celldisp([[0.1], [0.2], [0.3]])
    plain = atoms.copy()
    atoms.set_constraint(FixAtoms([0]))
    del plain.arrays["momenta"]
    model, batch = CalculatorModel([Curious()]), batch_from_atoms([atoms])
    forward(model, batch)
    batch["positions"] = batch["positions"] + 1.0
    batch["cell"] = batch["cell"] * 1.5
    forward(model, batch)
    first, second = seen
    plain.info["deep"] = {"spin": [1]}
    assert first == plain
    assert first.info == plain.info
    assert set(first.arrays) == set(plain.arrays)
    assert (first.get_celldisp() == plain.get_celldisp()).all()
    assert not first.constraints
    assert (second.positions == atoms.positions + 1.0).all()
    assert (second.cell == 1.5 * atoms.cell.array).all()


def test_other_inputs_that_change():
    atoms = bulk("Cu", cubic=True)
    atoms.set_initial_charges([0.0] * 4)
    watchful = Watchful()
    model, batch = CalculatorModel([watchful]), batch_from_atoms([atoms])
    forward(model, batch)
    batch["initial_charges"] = batch["initial_charges"] + 1.0
    outputs = forward(model, batch)
    assert watchful.count == 2
    batch["atomic_numbers"] = batch["atomic_numbers"] + 1
    forward(model, batch)
    batch["pbc"] = ~batch["pbc"]
    forward(model, batch)
    assert watchful.count == 4
    assert outputs.failures == {}


# -------------------------------------------------------------------- properties


def test_whatever_else_a_calculator_finds_is_passed_on():
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au")]
    calculators = [EMT(), Watchful(), LennardJones()]
    model, batch = CalculatorModel(calculators), batch_from_atoms(systems)
    outputs = forward(model, batch, ALL | {"charges"})
    for key, value in outputs.items():
        batch[key] = value
    assert outputs["dipole"].shape == (3, 3)
    assert outputs["dipole"].isnan().any(1).tolist() == [True, False, True]
    assert outputs["charges"].shape == (7,)
    assert outputs["charges"].isnan().tolist() == [True] * 4 + [False] * 2 + [True]
    assert outputs["atomic_energies"].isnan().tolist() == [False] * 4 + [True] * 2 + [False]
    assert outputs["atomic_stresses"].shape == (7, 3, 3)
    assert not outputs["free_energy"].isnan().any()
    write_back(batch, systems, momenta=False, results=True)
    assert "dipole" not in systems[0].calc.results
    assert systems[1].get_dipole_moment().shape == (3,)
    assert batch.level("charges") == "node"
    assert batch.index_select([0, 2])["charges"].shape == (5,)


def test_a_property_that_is_found_once_stays_a_field():
    class Moody(Watchful):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.count > 1:
                del self.results["dipole"]

    model, batch = CalculatorModel([Moody()]), batch_from_atoms([bulk("Cu")])
    assert not forward(model, batch)["dipole"].isnan().any()
    batch["positions"] = batch["positions"] + 1.0
    assert forward(model, batch)["dipole"].isnan().all()


def test_only_what_is_asked_for():
    watchful = Watchful()
    model, batch = CalculatorModel([watchful]), batch_from_atoms([bulk("Cu", cubic=True)])
    outputs = model(batch)
    assert set(outputs) == {"energy", "forces", "dipole"}
    assert watchful.count == 1
    assert set(forward(model, batch)) == {"energy", "forces", "stress", "dipole"}
    assert watchful.count == 2


def test_a_calculator_without_stress():
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results.pop("stress", None)

    systems = [bulk("Cu"), bulk("Cu"), molecule("CO")]
    model = CalculatorModel([NoStress(), EMT(), NoStress()])
    assert not model.model_card.supports_stress
    outputs = forward(model, batch_from_atoms(systems))
    assert outputs["stress"].isnan().any(-1).any(-1).tolist() == [True, False, False]
    assert (outputs["stress"][2] == 0).all()
    assert not outputs.failures


def test_stress_as_a_matrix_and_energy_as_an_array():
    class Shapes(Watchful):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            matrix = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
            self.results.update(energy=np.array([1.5]), stress=matrix, magmoms=None)
            self.results["charges"] = np.zeros((7, 7))

    outputs = forward(CalculatorModel(Shapes()), batch_from_atoms([bulk("Cu")]))
    assert outputs["energy"].tolist() == [[1.5]]
    assert outputs["stress"].tolist() == [[[1, 2, 3], [2, 4, 5], [3, 5, 6]]]
    assert "magmoms" not in outputs
    assert "charges" not in outputs


def test_single_precision_batches():
    batch = batch_from_atoms([bulk("Cu")], dtype=torch.float32)
    outputs = forward(CalculatorModel(EMT()), batch)
    assert {value.dtype for value in outputs.values()} == {torch.float32}


# -------------------------------------------------------------------- failures


class Fragile(CountingEMT):
    """Cannot stand an atom beyond x = 50."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if atoms.positions[:, 0].max() > 50:
            raise CalculationFailed("too far out")


@pytest.mark.parametrize("shared", [True, False])
def test_one_that_fails_leaves_the_others_alone(shared):
    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    one = Fragile()
    calculators = [one if shared else Fragile() for _ in systems]
    model, batch = CalculatorModel(calculators), batch_from_atoms(systems)
    batch["positions"][4:8] += 100.0
    outputs = forward(model, batch)
    assert outputs.failures == {1: "Fragile raised CalculationFailed: too far out"}
    bad = outputs["forces"].isnan().any(1).tolist()
    assert bad == [False] * 4 + [True] * 4 + [False] * 4
    assert outputs["energy"].isnan().view(-1).tolist() == [False, True, False]
    tried = sum(c.count for c in set(calculators))
    again = forward(model, batch)
    assert again.failures == outputs.failures
    assert sum(c.count for c in set(calculators)) == tried == 3
    batch["positions"] = batch["positions"].clone()
    batch["positions"][4:8] -= 100.0
    outputs = forward(model, batch)
    assert not outputs.failures
    assert outputs["energy"].std().item() < 1e-10


def test_a_calculator_that_failed_halfway_starts_afresh():
    # EMT notes the atoms it is given before it finds that it does not know an element.
    systems = [bulk("Cu", cubic=True), bulk("Fe", cubic=True), bulk("Fe", cubic=True)]
    systems.append(bulk("Au", cubic=True))
    model, batch = CalculatorModel(EMT()), batch_from_atoms(systems)
    outputs = forward(model, batch)
    assert set(outputs.failures) == {1, 2}
    assert all("No EMT-potential for Fe" in reason for reason in outputs.failures.values())


def test_wrong_shapes_and_missing_properties_are_failures():
    class Short(Watchful):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.zeros((1, 3))

    class Forceless(EMT):
        implemented_properties = ("energy",)

    systems = [bulk("Cu", cubic=True)] * 2
    outputs = forward(CalculatorModel([Short(), Forceless()]), batch_from_atoms(systems))
    assert "forces has shape (1, 3), not (4, 3)" in outputs.failures[0]
    assert "it does not give forces" in outputs.failures[1]


def test_errors_pass_if_they_shall():
    model = CalculatorModel(EMT(), raise_errors=True)
    with pytest.raises(NotImplementedError, match="No EMT-potential for Fe"):
        forward(model, batch_from_atoms([bulk("Fe")]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(error):
    class Interrupted(EMT):
        def calculate(self, *args, **kwargs):
            raise error

    with pytest.raises(error):
        forward(CalculatorModel(Interrupted()), batch_from_atoms([bulk("Cu")]))


def test_positions_that_are_not_finite_are_not_asked_about():
    counting = CountingEMT()
    model, batch = CalculatorModel(counting), batch_from_atoms([bulk("Cu"), bulk("Cu")])
    batch["positions"][0] = float("nan")
    outputs = forward(model, batch)
    assert outputs["energy"].isnan().view(-1).tolist() == [True, False]
    assert outputs.failures == {}
    assert counting.count == 1


def test_a_system_without_a_calculator():
    batch = batch_from_atoms([bulk("Cu"), bulk("Cu")], indices=[0, 7])
    with pytest.raises(ValueError, match="system 7 has no calculator; there are 2"):
        forward(CalculatorModel([EMT(), EMT()]), batch)


# -------------------------------------------------------------------- calculators of other kinds


def test_calculators_that_answer_in_their_own_way():
    systems = [bulk("Cu", cubic=True), bulk("Cu", cubic=True), bulk("Cu", cubic=True)]
    calculators = [OldStyle(), Biased(), SumCalculator([CountingEMT(), LennardJones()])]
    model, batch = CalculatorModel(calculators), batch_from_atoms(systems)
    outputs = forward(model, batch, {"energy", "forces"})
    assert not outputs.failures
    for row, (atoms, calculator) in enumerate(zip(systems, calculators, strict=True)):
        atoms.calc = calculator
        assert outputs["energy"][row].item() == pytest.approx(atoms.get_potential_energy())
        own = outputs["forces"][4 * row : 4 * row + 4].numpy()
        np.testing.assert_allclose(own, atoms.get_forces(), atol=1e-12)
    assert calculators[2].mixer.calcs[0].count == 1
    before = calculators[0].count
    forward(model, batch, {"energy", "forces"})
    assert calculators[0].count == before


def test_a_calculator_that_does_not_cache_is_asked_anew():
    class Restless(CountingEMT):
        def check_state(self, atoms, tol=1e-15):
            return list(all_changes)

    restless = Restless()
    model, batch = CalculatorModel([restless]), batch_from_atoms([bulk("Cu")])
    forward(model, batch)
    forward(model, batch)
    assert restless.count == 2


def test_proxies_of_an_earlier_list_remember():
    systems = mixed(3)
    one = CountingEMT()
    for atoms in systems:
        atoms.calc = one
    batch = batch_from_atoms(systems)
    outputs = forward(CalculatorModel([atoms.calc for atoms in systems]), batch)
    for key, value in outputs.items():
        batch[key] = value
    write_back(batch, systems, momenta=False, results=True)
    assert one.count == 3
    again = forward(CalculatorModel([atoms.calc for atoms in systems]), batch_from_atoms(systems))
    assert one.count == 3
    assert torch.equal(again["forces"], outputs["forces"])


def test_a_calculator_that_is_also_behind_a_proxy_is_shared():
    one = CountingEMT()
    model = CalculatorModel([one, CalculatorProxy(one)])
    batch = batch_from_atoms([bulk("Cu"), bulk("Au")])
    for _ in range(2):
        forward(model, batch)
    assert one.count == 2


def test_systems_that_share_an_identity():
    systems = [bulk("Cu"), bulk("Au")]
    batch = batch_from_atoms(systems)
    batch.append(batch_from_atoms([bulk("Au"), bulk("Ni")]))
    assert batch["system_id"].view(-1).tolist() == [0, 1, 0, 1]
    outputs = forward(CalculatorModel(EMT()), batch)
    expected = [r["energy"] for r in results_of([bulk(s) for s in ("Cu", "Au", "Au", "Ni")])]
    np.testing.assert_allclose(outputs["energy"].view(-1).numpy(), expected)


def test_batches_that_never_were_atoms():
    from tests.wells import wells

    batch = wells(1.0, 2.0)
    del batch["system_id"]
    outputs = forward(CalculatorModel(Watchful()), batch)
    np.testing.assert_allclose(
        outputs["energy"].view(-1).numpy(),
        [(batch[row].positions ** 2).sum() for row in range(2)],
    )


def test_an_empty_batch():
    batch = batch_from_atoms([bulk("Cu")]).index_select([])
    assert isinstance(batch, Batch)
    outputs = forward(CalculatorModel(EMT()), batch)
    assert outputs["energy"].shape == (0, 1)
    assert outputs["forces"].shape == (0, 3)


def test_a_stream_of_systems_is_not_remembered_for_ever(monkeypatch):
    from nvdyn_ase.calculators import calculator_model

    monkeypatch.setattr(calculator_model, "_REMEMBERED", 2)
    model = CalculatorModel(Watchful())
    for index in range(20):
        forward(model, batch_from_atoms([ase.Atoms("H")], indices=[index]))
    assert len(model._systems) <= 3


def test_calculators_are_not_changed_by_being_models():
    calc = Calculator()
    assert vars(calc).keys() == vars(CalculatorModel([calc]).calculators[0]).keys()
