"""The velocity that some optimizers have, as ASE shows it."""

from typing import Any

import numpy as np
import torch


class EngineVelocity:
    """An attribute of a facade that is the field ``velocity`` of the engine while there is one.

    Reading it gives the velocity of every coordinate, flat, or None before the first step, which
    the engine notes in its field ``moved``.
    """

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Remember the attribute's name."""
        self.attribute = attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None:
            return self
        if facade._driver is None:
            return facade.__dict__[self.attribute]
        state = facade._driver.state()
        return state["velocity"].cpu().numpy().ravel() if bool(state["moved"].any()) else None

    def __set__(self, facade: Any, value: np.ndarray | None) -> None:
        """Write it; with None every system starts as if it had not moved."""
        facade.__dict__[self.attribute] = value
        if facade._driver is None:
            return
        facade._driver.close()
        state = facade._driver.state()
        old = state["velocity"]
        rows = (
            np.zeros(old.shape) if value is None else np.reshape(np.asarray(value, float), (-1, 3))
        )
        state["velocity"] = torch.as_tensor(rows).to(old)
        state["moved"] = torch.full_like(state["moved"], value is not None)
