"""Values of each system's own: never mistaken for those of atoms, steps or directions."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.models import EMT
from tests.dynamics.integrating import INTEGRATORS, integrator
from tests.pace import paced
from tests.systems import with_velocities

integrators = pytest.mark.parametrize("name", paced(INTEGRATORS))
KEYS = ("positions", "velocities", "cell")


def trios():
    """Return three systems of three atoms."""
    structures = [bulk(metal) * (3, 1, 1) for metal in ("Cu", "Au", "Pd")]
    for seed, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
        atoms.rattle(0.05, seed=seed)
        with_velocities(atoms, seed)
    return structures


def same(a, b):
    """Say whether two tensors are equal to the last bit, NaN and NaN too."""
    return torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a != a, b != b)


@integrators
def test_three_values_for_three_systems_of_three_atoms_in_three_steps(name):
    structures = trios()
    together = batch_from_atoms(structures)
    integrator(name, EMT()).run(together, n_steps=3)
    for row, atoms in enumerate(structures):
        alone = batch_from_atoms([atoms], indices=[row])
        integrator(name, EMT(), row).run(alone, n_steps=3)
        for key in KEYS:
            assert torch.equal(together[[row]][key], alone[key]), key


@integrators
@pytest.mark.parametrize("count", [2, 9])
def test_another_number_of_values_is_refused_by_name(name, count):
    batch = batch_from_atoms(trios())
    kind, values, common = INTEGRATORS[name]
    for parameter, own in values.items():
        wrong = [own[0]] * count
        with pytest.raises(ValueError, match=rf"{parameter}: {count} values for 3 systems"):
            kind(EMT(), **values | common | {parameter: wrong}).run(batch, n_steps=1)


@integrators
def test_setting_another_number_of_values_changes_nothing(name):
    batch, engine = batch_from_atoms(trios()), integrator(name, EMT())
    engine.run(batch, n_steps=1)
    before = {key: tensor.clone() for key, tensor in engine.state}
    for parameter, own in INTEGRATORS[name][1].items():
        with pytest.raises(ValueError, match=rf"{parameter}: 2 values for 3 systems"):
            engine.set_parameter(parameter, np.array(own[:2]))
    for key, tensor in before.items():
        assert same(engine.state[key], tensor), key
