"""Parameters that may have one value per system."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


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
