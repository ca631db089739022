"""What is in ASE's ``ase.md`` and has no engine."""

import importlib
import inspect
import pkgutil

import ase.md
import ase.md.contour_exploration
import numpy as np
import pytest
from ase.md.md import MolecularDynamics

from nvdyn_ase.md.contour_exploration import ContourExploration
from nvdyn_ase.md.fix import FixRotation
from nvdyn_ase.md.switch_langevin import SwitchLangevin
from tests.facades.test_lists import metals

MODULES = [info.name for info in pkgutil.iter_modules(ase.md.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_every_class_is_at_ases_path(name):
    theirs = importlib.import_module(f"ase.md.{name}")
    ours = importlib.import_module(f"nvdyn_ase.md.{name}")
    for key, item in vars(theirs).items():
        if inspect.isclass(item) and item.__module__ == theirs.__name__ and key[0] != "_":
            assert issubclass(getattr(ours, key), item)
            if item is not MolecularDynamics:
                assert getattr(ours, key).__name__ == key


@pytest.mark.parametrize("kind", [ContourExploration, SwitchLangevin, FixRotation])
def test_a_list_is_refused_with_who_takes_one(kind):
    with pytest.raises(TypeError, match=rf"{kind.__name__} .*Langevin.* of nvdyn_ase.md"):
        kind(metals(2))


def test_one_atoms_is_moved_as_in_ase():
    atoms, other = metals(2)[1], metals(2)[1]
    ContourExploration(atoms, rng=np.random.default_rng(1)).run(3)
    theirs = ase.md.contour_exploration.ContourExploration
    theirs(other, rng=np.random.default_rng(1)).run(3)
    assert (atoms.positions == other.positions).all()
