"""ASE's optimizers that have no engine: one Atoms as in ASE, and a list is refused."""

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import nvdyn_ase.optimize
from nvdyn_ase.optimize.optimize import OptimizerFacade

if TYPE_CHECKING:
    from typing import Any as _Behind
else:
    _Behind = object  # the class that stands behind in the order of inheritance is ASE's


class OneAtATime(_Behind):
    """Put before an ASE optimizer, says what to do about a list instead of failing on it."""

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        behind = cls.__mro__[cls.__mro__.index(OneAtATime) + 1]
        cls.__signature__ = inspect.signature(behind)

    def __init__(self, atoms: Any, *args: Any, **kwargs: Any) -> None:
        refuse_several(atoms, type(self).__name__)
        super().__init__(atoms, *args, **kwargs)


def refuse_several(atoms: Any, name: str) -> None:
    """Raise TypeError for a list of Atoms, naming the optimizers that take one."""
    if not isinstance(atoms, (list, tuple)):
        return
    known = [(item, getattr(nvdyn_ase.optimize, item)) for item in nvdyn_ase.optimize.__all__]
    several = [item for item, kind in known if issubclass(kind, OptimizerFacade)]
    raise TypeError(
        f"{name} takes one Atoms at a time; {', '.join(several)} of nvdyn_ase.optimize take a list"
    )
