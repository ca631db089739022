"""Structures with elements that a model does not know."""

from collections.abc import Sequence

import ase
import numpy as np
from ase.data import chemical_symbols

from nvdyn_ase.data import StructureError
from nvdyn_ase.models.base import BaseModelMixin


def unsupported(
    systems: Sequence[ase.Atoms], model: BaseModelMixin, indices: Sequence[int] | None = None
) -> list[StructureError]:
    """Return an error for each structure that has an element which the model does not know.

    Who wants all structures or none raises the first; who can do without some leaves these out.

    Parameters
    ----------
    systems
        The structures.
    model
        What is to evaluate them.
    indices
        Their positions in the user's input, for the errors; 0, 1, 2, ... by default.
    """
    if not systems or model.model_card.supported_elements is None:
        return []
    present = np.unique(np.concatenate([atoms.numbers for atoms in systems]))
    unknown = np.array(model.elements_unknown(present.tolist()), int)
    if not len(unknown):
        return []
    errors = []
    positions = range(len(systems)) if indices is None else indices
    for index, atoms in zip(positions, systems, strict=True):
        found = unknown[np.isin(unknown, atoms.numbers)].tolist()
        if found:
            errors.append(StructureError(index, _problem(found, type(model).__name__)))
    return errors


def _problem(numbers: list[int], model: str) -> str:
    names = ", ".join(chemical_symbols[number] for number in numbers)
    return (
        f"{model} does not know {names}; leave the structure out, or give a model= that knows "
        f"{'it' if len(numbers) == 1 else 'them'}"
    )
