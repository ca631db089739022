"""From energies of atoms, and derivatives by the vectors of pairs, to what a model returns."""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.pair_geometry import sums_by_atom, volumes
from nvdyn_ase.neighbors import FlatPairs


def of_pulls(
    batch: Batch,
    flat: FlatPairs,
    vector: Float[Tensor, "P 3"],
    energies: Float[Tensor, " V"],
    pulls: Float[Tensor, "P 3"],
    asked: Collection[str],
) -> dict[str, Tensor]:
    """Return the outputs that are asked for, by name, by torch operations.

    A position or a cell that is not finite makes all of its system NaN.

    Parameters
    ----------
    batch, flat, vector
        The systems, their pairs, each once, and the vectors of these, Å.
    energies
        Of atoms, eV.
    pulls
        Derivatives of the energy by the vectors, eV/Å.
    asked
        Names of outputs.
    """
    positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
    energies = energies + (positions - positions).sum(1)
    energy = segment_sum(energies, batch.ptr) + (cell - cell).sum((1, 2))
    zero = (energy - energy)[batch.batch, None]
    forces = torch.sub(*sums_by_atom(flat, pulls, pulls)) + zero
    stress = torch.zeros_like(cell)
    if "stress" in asked:
        virial = segment_sum((pulls[:, :, None] * vector[:, None]).view(-1, 9), flat.ptr)
        virial = segment_sum(virial + zero, batch.ptr)
        stress = (virial / volumes(cell)).view(-1, 3, 3)
        stress = 0.5 * (stress + stress.mT)
    return asked_for(asked, energies, forces, energy, stress)


def asked_for(
    asked: Collection[str],
    energies: Float[Tensor, " V"],
    forces: Float[Tensor, "V 3"],
    energy: Float[Tensor, " B"],
    stress: Float[Tensor, "B 3 3"],
) -> dict[str, Tensor]:
    """Return the energy, and of the rest what is asked for, by name."""
    energy = energy.view(-1, 1)
    values = {
        "energy": energy,
        "free_energy": energy.clone(),  # a hook may add to the energy in place
        "atomic_energies": energies,
        "forces": forces,
        "stress": stress,
    }
    return {key: value for key, value in values.items() if key in asked or key == "energy"}
