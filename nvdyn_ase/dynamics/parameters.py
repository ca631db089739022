"""Parameters that may have one value per system."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, Level


class PerAtom(NamedTuple):
    """One value per atom instead of one per system: said, and never guessed from a length.

    Parameters
    ----------
    values
        For all atoms of the batch that an engine is given, (V, 1).
    """

    values: Float[Tensor, "V 1"]

    def __repr__(self) -> str:
        """Say how many."""
        return f"PerAtom({len(self.values)} values)"


def parameter_rows(name: str, value: Any, rows: np.ndarray, device: torch.device) -> Tensor:
    """Return (B, 1) values for systems.

    Parameters
    ----------
    name
        Of the parameter, for the error.
    value
        A number, or one number per system.
    rows
        Which of the values belong to the systems.
    device
        Where to put them.

    Raises
    ------
    ValueError
        The number of values is not the number of systems.
    """
    values = np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=float)
    if values.ndim == 0:
        values = np.full(len(rows), float(values))
    if values.size != len(rows) or values.ndim > 2:
        raise ValueError(
            f"{name}: {values.size} values for {len(rows)} systems; give one number or one each"
        )
    return torch.as_tensor(values.reshape(-1, 1)[rows]).to(device)


class PerSystemParameters:
    """The parameters of an engine, of which systems may have their own values.

    Parameters named in ``_per_system`` are attributes as they were given. Where systems differ, or
    the method wants it so, the values are fields of the engine's state, which come and go with
    their systems. Setting the attribute changes them.
    """

    _per_system: ClassVar[tuple[str, ...]] = ()
    state: Batch
    _batch: Batch | None

    def parameter(self, name: str) -> Any:
        """Return a parameter: the number itself, or (B, 1) where systems have their own."""
        return self.state[name] if name in self.state else getattr(self, name)

    def node_parameter(self, name: str) -> Any:
        """Return a parameter for the atoms: the number itself, or (V, 1)."""
        value = self.parameter(name)
        if not isinstance(value, Tensor) or self._batch is None:
            return value
        return value if self._is_per_atom(name) else value.index_select(0, self._batch.batch)

    def _is_per_atom(self, name: str) -> bool:
        return name in self.state and self.state.level(name) is Level.NODE

    def initial(self, name: str, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the value that a parameter was given for each system, (B, 1)."""
        return parameter_rows(name, getattr(self, name), np.arange(len(batch)), batch.device)

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch.

        Setting the attribute is the same.

        Raises
        ------
        ValueError
            The number of values is not the number of systems; nothing is changed.
        """
        setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a parameter that the present batch has in its state changes there."""
        batch = self.__dict__.get("_batch") if name in self._per_system else None
        if batch is not None:
            self._put_parameter(self.state, name, value, batch)
        object.__setattr__(self, name, value)
        if batch is not None:
            self._parameters_changed(batch)

    def _put_parameter(self, state: Batch, name: str, value: Any, batch: Batch) -> None:
        """Put the values of a parameter into the state, if systems need their own."""
        if isinstance(value, PerAtom):
            values, level = value.values.to(batch["positions"]), Level.NODE
        elif name in state or not isinstance(value, (int, float, type(None))):
            rows = np.arange(len(batch))
            values, level = parameter_rows(name, value, rows, batch.device), Level.SYSTEM
        else:
            return
        if name in state:
            del state[name]
        state.add_key(name, values, level)

    def _parameters_changed(self, batch: Batch) -> None:
        """Bring up to date what the method has made of its parameters."""
