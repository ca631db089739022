"""What holds for every many-body potential: derivatives, bits, and what happens to the unusual."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from ase import Atoms

from nvdyn_ase.models import EAM, StillingerWeber, Tersoff
from nvdyn_ase.models.base import ModelConfig
from tests.models import oracles
from tests.models.eam_files import write_eam
from tests.models.stillinger_weber_parameters import mixture
from tests.models.tersoff_parameters import SILICON_T2, silicon_carbide

#: The first seed in every run, the others where there is time.
seeds = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
OUTPUTS = ("energy", "free_energy", "forces", "stress", "atomic_energies")


class Kind:
    """A potential, elements that it knows, and how far apart they are."""

    def __init__(self, make, symbols, spacing):
        self.make, self.symbols, self.spacing = make, symbols, spacing

    def crystals(self, count, seed=0):
        return oracles.crystals(count, seed, self.spacing, self.symbols)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many_body")
    fs, adp = (write_eam(folder / f"x.{form}", form) for form in ("fs", "adp"))
    return {
        "eam": Kind(lambda **o: EAM(fs, **o), ("Al", "Cu"), 2.3),
        "adp": Kind(lambda **o: EAM(adp, **o), ("Al", "Cu"), 2.3),
        "tersoff": Kind(lambda **o: Tersoff(silicon_carbide(), **o), ("Si", "C"), 1.8),
        "sw": Kind(lambda **o: StillingerWeber(mixture(), **o), ("Si", "Ge"), 2.2),
        "tersoff T2": Kind(lambda **o: Tersoff(SILICON_T2, **o), ("Si",), 2.1),
    }


@pytest.fixture(params=["eam", "adp", "tersoff", "tersoff T2", "sw"])
def kind(kinds, request):
    return kinds[request.param]


def evaluated(model, structures, **changes):
    return oracles.evaluated(model, structures, OUTPUTS, **changes)


@seeds
def test_forces_and_stress_are_derivatives_of_the_energy(kind, seed):
    model = kind.make()
    for atoms in kind.crystals(8, seed)[:: 1 + 2 * (seed == 0)]:
        (values,) = evaluated(model, [atoms])
        scale = 1.0 + np.abs(values["atomic_energies"]).max()
        numerical = oracles.numerical_forces(model, atoms)
        assert np.abs(values["forces"] - numerical).max() < 1e-7 * scale
        if atoms.cell.rank == 3:
            numerical = oracles.numerical_stress(model, atoms)
            assert np.abs(values["stress"] - numerical).max() < 1e-7 * scale
        else:
            assert not values["stress"].any()


def test_shares_of_atoms_add_up(kind):
    for values in evaluated(kind.make(), kind.crystals(8, 4)):
        assert values["atomic_energies"].sum() == pytest.approx(values["energy"][0], rel=1e-12)
        assert values["free_energy"] == values["energy"]
        assert np.abs(values["forces"].sum(0)).max() < 1e-10 * (1 + np.abs(values["forces"]).max())
        assert np.array_equal(values["stress"], values["stress"].T)


# -------------------------------------------------------------------------------- bits


@seeds
def test_the_torch_operations_agree_with_the_loops(kind, seed):
    model, structures = kind.make(), kind.crystals(8, seed)
    for half in (True, False):
        batch = oracles.with_pairs(oracles.batch_of(structures), model, half_list=half)
        loops = oracles.per_system(oracles.outputs(model, batch, names=OUTPUTS), batch)
        for _ in range(2):
            other = oracles.per_system(oracles.outputs(model, batch, True, OUTPUTS), batch)
            for one, two in zip(other, loops, strict=True):
                oracles.assert_close(one, two, scale=10.0)


@seeds
def test_a_system_does_not_know_its_neighbours_in_the_batch(kind, seed):
    model, structures = kind.make(), kind.crystals(8, seed)
    together = evaluated(model, structures)
    backwards = evaluated(model, structures[::-1])[::-1]
    for atoms, one, other in zip(structures, together, backwards, strict=True):
        (alone,) = evaluated(model, [atoms])
        oracles.assert_same_bits(one, alone)
        oracles.assert_same_bits(other, alone)


def test_skin_and_kind_of_list_do_not_change_a_bit(kind):
    model, structures = kind.make(), kind.crystals(8)
    reference = evaluated(model, structures, skin=0.0)
    reach = model.model_card.neighbor_config.cutoff
    for changes in ({"skin": 0.4}, {"skin": 2.0, "half_list": False}, {"cutoff": reach + 1.0}):
        results = evaluated(model, structures, **changes)
        for one, other in zip(results, reference, strict=True):
            oracles.assert_same_bits(one, other)


# -------------------------------------------------------------------------------- the unusual


def test_a_system_that_is_not_a_number_leaves_the_others_alone(kind):
    structures = [*kind.crystals(5), Atoms(kind.symbols[0])]
    model = kind.make()
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    before = oracles.per_system(oracles.outputs(model, batch, names=OUTPUTS), batch)
    for system in range(len(structures)):
        for key, bad in (("positions", np.nan), ("positions", np.inf), ("cell", np.nan)):
            kept, broken = batch[key], batch[key].clone()
            broken[system if key == "cell" else batch.host_ptr[system], 1] = bad
            batch[key] = broken
            for path in (False, True):
                values = oracles.outputs(model, batch, path, OUTPUTS)
                after = oracles.per_system(values, batch)
                assert np.isnan(after[system]["energy"]).all()
                assert np.isnan(after[system]["forces"]).all()
                for other in set(range(len(structures))) - {system}:
                    if not path:
                        oracles.assert_same_bits(after[other], before[other])
                    assert np.isfinite(after[other]["forces"]).all()
            batch[key] = kept


def test_coincident_atoms_spoil_their_system_alone(kind):
    structures, model = kind.crystals(4), kind.make()
    reference = evaluated(model, structures)
    at = [[0, 0, 0], [0, 0, 0], [0, 0, kind.spacing]]
    structures.insert(2, Atoms([kind.symbols[0]] * 3, at))
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    for path in (False, True):
        results = oracles.per_system(oracles.outputs(model, batch, path, OUTPUTS), batch)
        assert not np.isfinite(results[2]["forces"][:2]).all()
        for one, other in zip(results[:2] + results[3:], reference, strict=True):
            oracles.assert_close(one, other, scale=10.0)


@pytest.mark.parametrize("torch_path", [False, True])
def test_an_unknown_element_fails_its_system_alone(kind, torch_path):
    structures, model = kind.crystals(4), kind.make()
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    before = oracles.per_system(oracles.outputs(model, batch, torch_path, OUTPUTS), batch)
    for number, called in ((26, "Fe"), (0, "X"), (500, "element 500")):
        numbers = batch["atomic_numbers"].clone()
        numbers[batch.host_ptr[2]] = number
        changed = batch.clone()
        changed["atomic_numbers"] = numbers
        changed.neighbors = batch.neighbors
        values = oracles.outputs(model, changed, torch_path, OUTPUTS)
        name = type(model).__name__
        assert list(values.failures) == [2]
        assert re.fullmatch(rf"{name} has no parameters for {called}", values.failures[2])
        for system, after in enumerate(oracles.per_system(values, changed)):
            if system == 2:
                assert all(np.isnan(value).all() for value in after.values())
            else:
                oracles.assert_same_bits(after, before[system])


def test_an_empty_batch_and_atoms_without_neighbours(kind):
    model, one = kind.make(), kind.symbols[0]
    far = [Atoms(one), Atoms([one] * 2, [[0, 0, 0], [50, 0, 0]]), Atoms(one, cell=[40] * 3, pbc=1)]
    batch = oracles.with_pairs(oracles.batch_of(far), model)
    for torch_path in (False, True):
        values = oracles.outputs(model, batch, torch_path, OUTPUTS)
        assert not values["forces"].any() and not values["stress"].any()
        energies = values["atomic_energies"]
        assert torch.equal(energies, energies[:1].expand(4))
    empty = oracles.with_pairs(batch.index_select([]), model)
    for torch_path in (False, True):
        values = oracles.outputs(model, empty, torch_path, OUTPUTS)
        shapes = {key: tuple(value.shape) for key, value in values.items()}
        assert shapes["energy"] == (0, 1) and shapes["forces"] == (0, 3)
        assert shapes["stress"] == (0, 3, 3)


def test_it_gives_what_is_asked(kind):
    model = kind.make()
    batch = oracles.with_pairs(oracles.batch_of(kind.crystals(3)), model)
    whole = oracles.outputs(model, batch, names=OUTPUTS)
    for outputs in ({"energy"}, {"stress"}, {"forces"}, {"atomic_energies", "free_energy"}):
        model.model_config = ModelConfig(outputs=frozenset(outputs))
        for evaluate in (model, model.forward_torch):
            given_ = evaluate(batch)
            assert set(given_) == outputs | {"energy"}
            for key, values in given_.items():
                torch.testing.assert_close(values, whole[key], rtol=0, atol=1e-11)


def test_single_precision_is_computed_in_double(kind):
    model = kind.make()
    single = oracles.batch_of(kind.crystals(3), torch.float32)
    double = oracles.with_pairs(single.to(dtype=torch.float64), model)
    single.neighbors = double.neighbors
    for path in (False, True):
        exact = oracles.outputs(model, double, path, OUTPUTS)
        for key, values in oracles.outputs(model, single, path, OUTPUTS).items():
            assert values.dtype is torch.float32
            assert torch.equal(values, exact[key].float())


def test_copies_and_pickles_are_the_same_model(kind):
    structures, model = kind.crystals(4), kind.make()
    reference = evaluated(model, structures)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.gives_same_as(model)
        for one, other in zip(evaluated(copied, structures), reference, strict=True):
            oracles.assert_same_bits(one, other)
