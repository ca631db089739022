"""Methods of ASE's that a user's subclass overrides and that an engine would not call."""

#: Modules of classes that all of ASE's optimizers or integrators share.
_SHARED = ("ase.optimize.optimize", "ase.md.md", "ase.utils", "ase.parallel")
_FAMILIES = ("nvdyn_ase.", "ase.")


def unheard(kind: type) -> list[str]:
    """Return the internals of ASE's class that a subclass of a facade overrides, in order.

    Nothing is unheard in a subclass with a ``step`` of its own, which is called and calls what it
    wants, nor is what the facade has a method of its own for.

    Parameters
    ----------
    kind
        The class of the user's object.
    """
    users = [base for base in kind.__mro__ if not base.__module__.startswith(_FAMILIES)]
    overridden = {name for base in users if base is not object for name in vars(base)}
    if "step" in overridden:
        return []
    internals, known = set(), set()
    for base in kind.__mro__:
        methods = {name for name, item in vars(base).items() if callable(item)}
        if base.__module__.startswith("nvdyn_ase."):
            known |= methods
        elif base.__module__.startswith("ase.") and not base.__module__.startswith(_SHARED):
            internals |= {m for m in methods if not m.startswith(("__", "get_", "set_"))}
    return sorted((overridden & internals) - known - {"todict"})
