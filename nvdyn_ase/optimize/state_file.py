"""The restart file of a list of Atoms: the method's state of every system, as JSON."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io.jsonio import encode, read_json
from ase.optimize.optimize import RestartError
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.replacing import replacing

_FORMAT = "nvdyn_ase restart 1"


def write_state(path: str | Path, state: Batch, method: str, filters: dict[str, Any]) -> None:
    """Write the state of all systems; the file is complete or the one before.

    Parameters
    ----------
    path
        The file.
    state
        Fields of the method, per system and per atom.
    method
        Name of the method.
    filters
        What filters of cells go on from: arrays by name.
    """
    fields = {key: tensor.detach().cpu().numpy() for key, tensor in state}
    content = {
        "format": _FORMAT,
        "method": method,
        "num_atoms": np.asarray(state.num_nodes_list),
        "fields": fields,
        "filters": filters,
    }
    with replacing(path, durable=False) as file:  # it may be written at every step
        file.write(encode(content).encode())


def read_state(
    path: str | Path, state: Batch, method: str
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Read the state of the same systems.

    Parameters
    ----------
    path
        The file.
    state
        A state of these systems, for the types and the device.
    method
        Name of the method that is to go on.

    Raises
    ------
    RestartError
        The file is of something else: another format, method, or list of structures.
    """
    try:
        content = read_json(path)
        fields, sizes = content["fields"], np.asarray(content["num_atoms"])
        written_by, form = content["method"], content["format"]
    except Exception as error:
        raise RestartError(
            f"{path} is not a restart file of a list of Atoms; delete it to start afresh"
        ) from error
    if form != _FORMAT or written_by != method:
        raise RestartError(f"{path} was written by {written_by} ({form}), not by {method}")
    if sizes.tolist() != state.num_nodes_list:
        raise RestartError(
            f"{path} is of {len(sizes)} structures with {sizes.sum()} atoms, not of these "
            f"{len(state)} with {sum(state.num_nodes_list)}"
        )
    found = {
        key: torch.as_tensor(np.asarray(fields[key])).to(tensor)
        for key, tensor in state
        if key in fields
    }
    kinds = (tensors.get("cell_filter") for tensors in (found, dict(state)))
    if not all(torch.equal(a, b) for a, b in [tuple(kinds)] if a is not None and b is not None):
        raise RestartError(f"{path} is of other filters than these; delete it to start afresh")
    return found, {key: np.asarray(rows) for key, rows in content.get("filters", {}).items()}
