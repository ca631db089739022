"""ASE's optimizers that have no engine."""

import importlib
import inspect
import pkgutil

import ase.optimize.minimahopping
import numpy as np
import pytest

import nvdyn_ase.optimize
from nvdyn_ase.optimize.optimize import OptimizerFacade
from tests.facades.test_lists import metals


def modules():
    packages = pkgutil.walk_packages(ase.optimize.__path__, "ase.optimize.")
    names = (info.name.removeprefix("ase.optimize.") for info in packages)
    return [name for name in names if not name.startswith("test")]


def optimizers(name):
    """Return the classes of a module of ASE that are given Atoms."""
    module = importlib.import_module(f"ase.optimize.{name}")
    kinds = (ase.optimize.optimize.Dynamics, ase.optimize.minimahopping.MinimaHopping)
    for key, item in vars(module).items():
        if inspect.isclass(item) and issubclass(item, kinds) and item.__module__ == module.__name__:
            yield key, item


def test_everything_in_ase_optimize_is_there():
    assert all(hasattr(nvdyn_ase.optimize, name) for name in ase.optimize.__all__)


@pytest.mark.parametrize("name", modules())
def test_every_optimizer_is_at_ases_path_with_ases_signature(name):
    ours = importlib.import_module(f"nvdyn_ase.optimize.{name}")
    for key, theirs in optimizers(name):
        item = getattr(ours, key)
        assert issubclass(item, theirs)
        assert item.__name__ == theirs.__name__
        if issubclass(item, OptimizerFacade):
            names = [p for p in inspect.signature(theirs).parameters if p != "kwargs"]
            assert list(inspect.signature(item).parameters)[: len(names)] == names
        else:
            assert inspect.signature(item) == inspect.signature(theirs)


ONE = [
    getattr(nvdyn_ase.optimize, name)
    for name in ase.optimize.__all__
    if name not in ("RestartError", "QuasiNewton")
    and not issubclass(getattr(nvdyn_ase.optimize, name), OptimizerFacade)
]


@pytest.mark.parametrize("kind", ONE)
def test_a_list_is_refused_with_who_takes_one(kind):
    with pytest.raises(TypeError, match=rf"{kind.__name__} .*BFGS, .*FIRE, FIRE2, .*MDMin.* of"):
        kind(metals(2))


@pytest.mark.parametrize("kind", ONE)
def test_one_atoms_is_relaxed_as_in_ase(kind):
    ours, theirs = metals(2)[1], metals(2)[1]
    kind(ours, logfile=None).run(fmax=0.1, steps=5)
    getattr(ase.optimize, kind.__name__)(theirs, logfile=None).run(fmax=0.1, steps=5)
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-10)
