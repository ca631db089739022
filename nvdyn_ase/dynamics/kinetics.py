"""Kinetic energy and centre of mass of every system."""

from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot, segment_sum


def kinetic_energy(batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "B 1"]:
    """Return the kinetic energy, eV."""
    momenta = batch["atomic_masses"].view(-1, 1) * velocities
    return 0.5 * segment_dot(momenta, velocities, batch.ptr3)


def centre_of_mass(batch: Batch, rows: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """Return for each atom the mean over its system's rows, weighted with the masses."""
    masses = batch["atomic_masses"].view(-1, 1)
    mean = segment_sum(masses * rows, batch.ptr) / segment_sum(masses, batch.ptr)
    return mean.index_select(0, batch.batch)
