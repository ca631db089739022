"""ASE's classes that have no engine: one Atoms as in ASE, and a list is refused."""

import importlib
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from nvdyn_ase.optimize.facade import EngineFacade

if TYPE_CHECKING:
    from typing import Any as _Behind
else:
    _Behind = object  # the class that stands behind in the order of inheritance is ASE's


class OneAtATime(_Behind):
    """Put before a class of ASE's, says what to do about a list instead of failing on it."""

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        behind = cls.__mro__[cls.__mro__.index(OneAtATime) + 1]
        cls.__signature__ = inspect.signature(behind)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # What is moved comes first, whatever ASE calls it: atoms, dimeratoms, neb.
        first = next(iter(self.__signature__.parameters))
        moves = type(self).__module__.startswith("nvdyn_ase.md.")
        known = "nvdyn_ase.md" if moves else "nvdyn_ase.optimize"
        refuse_several(args[0] if args else kwargs.get(first), type(self).__name__, known)
        super().__init__(*args, **kwargs)


def refuse_several(atoms: Any, name: str, package: str = "nvdyn_ase.optimize") -> None:
    """Raise TypeError for a list of Atoms, naming the classes of a package that take one."""
    if not isinstance(atoms, (list, tuple)):
        return
    module = importlib.import_module(package)
    known = [(item, getattr(module, item)) for item in module.__all__]
    several = [item for item, kind in known if _takes_several(kind)]
    raise TypeError(
        f"{name} takes one Atoms at a time; {', '.join(several)} of {package} take a list"
    )


def _takes_several(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, EngineFacade)
