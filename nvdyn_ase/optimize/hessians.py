"""Hessians of an engine's state as ASE's users see them: one matrix per system."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nvdyn_ase.data import Batch


def matrices_of(state: Batch, key: str) -> list[np.ndarray]:
    """Return a field of level ``block`` as one matrix per system; they are copies."""
    entries = state[key].detach().cpu().numpy()
    parts = np.split(entries.copy(), state.host_block_ptr[1:-1])
    return [part.reshape(3 * n, 3 * n) for part, n in zip(parts, state.num_nodes_list, strict=True)]


def put_matrices(
    state: Batch, key: str, matrices: Sequence[Any], where: Sequence[bool] | None = None
) -> None:
    """Replace a field of level ``block`` by one matrix per system; only of the systems ``where``.

    Raises
    ------
    ValueError
        Another number of matrices, or a matrix of the wrong size; it is named.
    """
    sizes = [3 * n for n in state.num_nodes_list]
    if len(matrices) != len(sizes):
        raise ValueError(f"{len(matrices)} Hessians for {len(sizes)} structures")
    arrays = [np.asarray(matrix, float) for matrix in matrices]
    for row, (array, size) in enumerate(zip(arrays, sizes, strict=True)):
        if array.shape != (size, size):
            raise ValueError(
                f"the Hessian of structure {row} is {size} x {size}, not {array.shape}"
            )
    if where is not None:
        rows = zip(arrays, matrices_of(state, key), where, strict=True)
        arrays = [new if chosen else old for new, old, chosen in rows]
    entries = np.concatenate([array.ravel() for array in arrays])
    state[key] = torch.from_numpy(entries).to(state[key])


class EngineHessian:
    """An attribute of a facade that is the Hessian before the first step.

    Reading it gives what was set last, or else what systems begin with; setting it changes the
    engine's, for the systems that have not moved.
    """

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None:
            return self
        driver = facade._driver
        if self.attribute not in facade.__dict__ and driver is not None:
            fresh = driver.engine._make_new_state(len(driver.batch), driver.batch)
            found = matrices_of(fresh, "hessian")
            return found[0] if facade._single else found
        try:
            return facade.__dict__[self.attribute]
        except KeyError:
            raise AttributeError(self.attribute) from None

    def __set__(self, facade: Any, value: Any) -> None:
        """Write it."""
        driver = facade._driver
        if driver is None:
            facade.__dict__[self.attribute] = value
            return
        driver.close()
        state = driver.state()
        still = (~state["moved"]).view(-1).tolist()
        put_matrices(state, "hessian", [value] if facade._single else value, where=still)
        facade.__dict__[self.attribute] = value
