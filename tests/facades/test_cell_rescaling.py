"""Stochastic cell rescaling as an integrator of ASE's kind."""

import ase.md.md
import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms

from nvdyn_ase.data import StructureError
from nvdyn_ase.md.cell_rescaling import StochasticCellRescaling
from tests.facades.test_nose_hoover import metals

OPTIONS = {
    "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
    "temperature_K": [200.0, 300.0, 350.0],
    "pressure_au": [0.0, 0.01, 0.02],
    "taut": [20.0, 30.0, 40.0],
    "taup": [100.0, 200.0, 150.0],
    "compressibility_au": [1.0, 0.5, 0.8],
}
shapes = pytest.mark.parametrize("isotropic", [True, False])


def one(index):
    return {key: value[index] for key, value in OPTIONS.items()}


@shapes
def test_each_system_has_its_own_parameters_and_generator(isotropic):
    together = metals()
    generators = [np.random.default_rng(seed) for seed in range(3)]
    dynamics = StochasticCellRescaling(together, isotropic=isotropic, rng=generators, **OPTIONS)
    assert isinstance(dynamics, ase.md.md.MolecularDynamics)
    dynamics.run(10)
    energies = dynamics.get_conserved_energy()
    for index, atoms in enumerate(metals()):
        rng = np.random.default_rng(index)
        alone = StochasticCellRescaling(atoms, isotropic=isotropic, rng=rng, **one(index))
        for steps in (4, 0, 5):
            alone.run(steps)
        assert alone.step() is None
        assert np.array_equal(atoms.positions, together[index].positions)
        assert np.array_equal(atoms.cell, together[index].cell)
        assert alone.get_conserved_energy() == pytest.approx(energies[index], abs=1e-12)
        assert dynamics.results[index].evaluations == alone.results[0].evaluations == 11


@shapes
def test_shape_and_handedness_are_kept(isotropic):
    structures = metals()
    structures[0].set_cell(structures[0].cell[[1, 0, 2]], scale_atoms=False)
    before = [atoms.cell.cellpar() for atoms in structures]
    options = {} if isotropic else {"mask": (0, 0, 1)}
    StochasticCellRescaling(structures, isotropic=isotropic, seed=1, **options, **OPTIONS).run(10)
    assert structures[0].cell.handedness == -1
    for atoms, old in zip(structures, before, strict=True):
        ratio = atoms.cell.cellpar() / old
        if isotropic:
            np.testing.assert_allclose(ratio[3:], 1.0)
            np.testing.assert_allclose(ratio[:3], ratio[0])
        assert np.abs(ratio - 1.0).max() > 1e-5
    if not isotropic:
        np.testing.assert_allclose(structures[1].cell.lengths()[:2], before[1][:2])


def test_setters_and_what_is_refused():
    structures = metals()
    dynamics = StochasticCellRescaling(structures, seed=1, **OPTIONS)
    dynamics.set_temperature([1.0, 2.0, 3.0])
    dynamics.set_pressure(0.5)
    assert dynamics.temperature.tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(dynamics.pressure, 0.5)
    with pytest.raises(ValueError, match="isotropic=False"):
        StochasticCellRescaling(structures, mask=(1, 0, 1), **OPTIONS)
    structures[2].set_constraint(FixAtoms([0]))
    with pytest.raises(StructureError, match=r"structure 2.*constraints"):
        dynamics.run(1)
