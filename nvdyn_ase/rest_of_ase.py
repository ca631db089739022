"""What ASE's modules have beyond what the modules of the same name here define."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def rest_of_module(name: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module, which finds there what only ASE's module has.

    Whatever ASE's modules define or import is then found at the same path here. Where a class or
    function found that way has an equal here, as ``BFGS`` in ``cellawarebfgs``, that is returned.

    Parameters
    ----------
    name
        ``__name__`` of the module, as ``nvdyn_ase.md.verlet`` for the rest of ``ase.md.verlet``.
    """
    theirs = _in_ase(name)

    def find(key: str) -> Any:
        value = (
            None if key.startswith("__") else getattr(importlib.import_module(theirs), key, None)
        )
        # A module of ASE's must not stand where Python looks for one to import here.
        if value is None or isinstance(value, ModuleType):
            raise AttributeError(f"module {name!r} has no attribute {key!r}")
        return _ours(key, value)

    return find


def rest_of_package(name: str) -> None:
    """Let submodules that only ASE's package has be imported at the same path here.

    Parameters
    ----------
    name
        ``__name__`` of the package, as ``nvdyn_ase.constraints`` for what is in
        ``ase.constraints``.
    """
    package, theirs = sys.modules[name], importlib.import_module(_in_ase(name))
    here = {info.name for info in pkgutil.iter_modules(getattr(package, "__path__", ()))}
    for info in pkgutil.iter_modules(theirs.__path__):
        if info.name not in here:
            module = importlib.import_module(f"{theirs.__name__}.{info.name}")
            sys.modules[f"{name}.{info.name}"] = module
            setattr(package, info.name, module)


def _in_ase(name: str) -> str:
    return name.replace("nvdyn_ase", "ase", 1)


def _ours(key: str, value: Any) -> Any:
    """Return what there is here under the name and path of something of ASE's; else that."""
    defined = getattr(value, "__module__", None)
    facades = ("ase.optimize.", "ase.md.", "ase.mep.")
    if not isinstance(defined, str) or not defined.startswith(facades):
        return value
    try:
        ours = importlib.import_module(f"nvdyn_{defined}")
    except ModuleNotFoundError:
        return value
    return vars(ours).get(getattr(value, "__name__", key), value)
