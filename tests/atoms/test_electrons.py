"""Total charge and spin multiplicity, from ``info`` of Atoms to fields and back."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from nvdyn_ase.atoms import batch_from_atoms, batch_to_atoms, from_atoms, to_atoms
from nvdyn_ase.atoms.export import batch_to_inputs
from nvdyn_ase.atoms.reading import read_back
from nvdyn_ase.data import AtomicData, Batch, Level


def water(**info):
    atoms = molecule("H2O")
    atoms.info = info
    return atoms


def test_info_becomes_fields_and_stays_what_it_was():
    structures = [water(charge=1, spin=2), water(), water(charge=-0.5, note="x"), water(spin=3.0)]
    batch = batch_from_atoms(structures)
    assert batch.level("total_charge") is Level.SYSTEM
    assert batch["total_charge"].tolist() == [[1.0], [0.0], [-0.5], [0.0]]
    assert batch["spin_multiplicity"].tolist() == [[2], [1], [1], [3]]
    assert batch["total_charge"].dtype is torch.float64
    assert batch["spin_multiplicity"].dtype is torch.int64
    one_by_one = Batch.from_data_list([from_atoms(atoms) for atoms in structures])
    for key in ("total_charge", "spin_multiplicity"):
        assert torch.equal(one_by_one[key], batch[key])
    for made in (batch_to_atoms(batch), batch_to_inputs(batch), batch_to_atoms(one_by_one)):
        for atoms, found in zip(structures, made, strict=True):
            assert found.info == atoms.info
            assert [type(v) for v in found.info.values()] == [type(v) for v in atoms.info.values()]


def test_structures_without_them_have_no_such_fields():
    assert "total_charge" not in batch_from_atoms([water(), water()])
    assert from_atoms(water()).total_charge is None


@pytest.mark.parametrize(
    "value", ["one", None, True, float("nan"), np.array([1.0, 2.0]), 1j, np.complex128(1)]
)
def test_what_is_no_number_stays_in_info_alone(value):
    data = from_atoms(water(charge=value, spin=value))
    assert data.total_charge is None and data.spin_multiplicity is None
    assert to_atoms(data).info["charge"] is value
    assert from_atoms(water(spin=1.5)).spin_multiplicity is None


def test_numbers_of_numpy_are_numbers():
    data = from_atoms(water(charge=np.float32(1.0), spin=np.int64(2)))
    assert (float(data.total_charge), int(data.spin_multiplicity)) == (1.0, 2)


def test_fields_that_were_changed_or_made_here_go_back_to_info():
    batch = batch_from_atoms([water(charge=1), water()])
    batch["total_charge"] = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert [atoms.info for atoms in batch_to_atoms(batch)] == [{"charge": 2.0}, {"charge": -1.0}]
    data = AtomicData(positions=np.zeros((1, 3)), atomic_numbers=[1], spin_multiplicity=2)
    assert to_atoms(data).info == {"spin": 2}


def test_they_ride_through_what_happens_to_batches():
    batch = batch_from_atoms([water(charge=1, spin=2), water(charge=-1)])
    other = Batch.from_data_list([from_atoms(water(), index=2)])
    batch.append(other)
    assert batch["total_charge"].tolist() == [[1.0], [-1.0], [0.0]]
    assert batch["spin_multiplicity"].tolist() == [[2], [1], [1]]
    assert batch.index_select([2, 0])["total_charge"].tolist() == [[0.0], [1.0]]


def test_a_charge_is_taken_up_when_the_structure_changed():
    structures = [water(charge=1), water()]
    batch = batch_from_atoms(structures)
    structures[0].positions += 0.1
    structures[0].info["charge"] = 2
    assert list(read_back(structures, batch)) == [0]
    assert batch["total_charge"].tolist() == [[2.0], [0.0]]
    structures[0].positions += 0.1
    del structures[0].info["charge"]
    read_back(structures, batch)
    assert batch["total_charge"].tolist() == [[0.0], [0.0]]
