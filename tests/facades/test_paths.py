"""Everything that ASE's modules have is at the same path here."""

import importlib
import inspect
import pkgutil

import ase.constraints
import ase.filters
import ase.md
import ase.mep
import ase.optimize
import pytest

#: What is not here, and why.
EXCEPTIONS = {
    "ase.optimize.test": "ASE's benchmark of optimizers, a program of its own",
}


def modules():
    for root in (ase.optimize, ase.md, ase.mep, ase.filters, ase.constraints):
        yield root.__name__
        for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{root.__name__}."):
            if not any(f"{info.name}.".startswith(f"{name}.") for name in EXCEPTIONS):
                yield info.name


def public_names(module):
    """Return ``__all__`` and what else a module defines or takes from other modules of ASE."""
    for name, item in vars(module).items():
        defined = getattr(item, "__module__", module.__name__)
        ases = isinstance(defined, str) and defined.split(".")[0] == "ase"
        if not name.startswith("_") and not inspect.ismodule(item) and ases:
            yield name
    yield from getattr(module, "__all__", ())


@pytest.mark.parametrize("path", list(modules()))
def test_every_name_of_ase_can_be_imported_from_the_same_path(path):
    theirs, ours = importlib.import_module(path), importlib.import_module(f"nvdyn_{path}")
    for name in public_names(theirs):
        scope = {}
        exec(f"from nvdyn_{path} import {name} as found", scope)
        found, item = scope["found"], getattr(theirs, name)
        if found is item:
            continue
        # It is the one of this name from where it is defined, whoever passes it on.
        home = importlib.import_module(f"nvdyn_{item.__module__}")
        assert found is vars(home)[item.__name__]
        assert not inspect.isclass(item) or issubclass(found, item)
    assert set(getattr(theirs, "__all__", ())) <= set(getattr(ours, "__all__", vars(ours)))


@pytest.mark.parametrize("path", EXCEPTIONS)
def test_what_is_not_here_is_an_import_error(path):
    with pytest.raises(ImportError):
        importlib.import_module(f"nvdyn_{path}")


def test_a_class_that_a_module_passes_on_takes_lists_too():
    from nvdyn_ase.optimize import bfgs, cellawarebfgs

    assert cellawarebfgs.BFGS is bfgs.BFGS


def test_submodules_are_modules_of_this_package_where_there_are_any():
    from nvdyn_ase.md import analysis, verlet
    from nvdyn_ase.optimize import precon

    assert {module.__name__ for module in (analysis, verlet, precon)} == {
        "nvdyn_ase.md.analysis",
        "nvdyn_ase.md.verlet",
        "nvdyn_ase.optimize.precon",
    }


def test_names_that_nobody_has_are_errors_that_name_the_module():
    import nvdyn_ase.md.verlet

    with pytest.raises(AttributeError, match=r"'nvdyn_ase\.md\.verlet' has no attribute 'Verlot'"):
        _ = nvdyn_ase.md.verlet.Verlot
    with pytest.raises(ImportError, match="Verlot"):
        exec("from nvdyn_ase.md.verlet import Verlot")
