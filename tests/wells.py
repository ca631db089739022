"""A model whose answers are known: every atom in a harmonic well around the origin."""

import torch

from nvdyn_ase.data import AtomicData, Batch, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs

SIDE = 20.0


class Well(BaseModelMixin):
    """E = k r² / 2 for each atom; counts its forward passes and what it is given."""

    model_card = ModelCard(supports_stress=True)

    def __init__(self, k: float = 1.0, fail=()):
        self.k = k
        self.fail = set(fail)
        self.forwards = 0
        self.systems = 0
        self.before = None

    def forward(self, batch):
        if self.before is not None:
            self.before(self)
        self.forwards += 1
        self.systems += len(batch)
        r = batch["positions"]
        squares = (r * r)[:, 0] + (r * r)[:, 1] + (r * r)[:, 2]
        energy = 0.5 * self.k * segment_sum(squares, batch.ptr).view(-1, 1)
        forces = -self.k * r
        ids = batch["system_id"].view(-1).tolist()
        failures = {row: "the well is dry" for row, i in enumerate(ids) if i in self.fail}
        for row in failures:
            energy[row] = float("nan")
            forces[batch.host_ptr[row] : batch.host_ptr[row + 1]] = float("nan")
        outputs = {"energy": energy, "forces": forces}
        if "stress" in self.model_config.outputs:
            outer = segment_sum(r.unsqueeze(2) * r.unsqueeze(1), batch.ptr)
            outputs["stress"] = self.k * outer / SIDE**3
        return ModelOutputs(outputs, failures)


def atoms_at(distance: float, size: int = 2, seed: int = 0) -> AtomicData:
    """Return atoms at a distance from the origin, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    positions = distance * directions / directions.norm(dim=1, keepdim=True)
    velocities = 1e-3 * torch.randn(size, 3, generator=generator, dtype=torch.float64)
    cell = SIDE * torch.eye(3, dtype=torch.float64)
    numbers = [18] * size
    return AtomicData(
        positions=positions, velocities=velocities, atomic_numbers=numbers, cell=cell, pbc=True
    )


def wells(*distances: float, sizes=None) -> Batch:
    """Return a batch with one system for each distance."""
    sizes = [2 + i % 3 for i in range(len(distances))] if sizes is None else sizes
    pairs = zip(distances, sizes, strict=False)
    systems = [atoms_at(d, n, seed=i) for i, (d, n) in enumerate(pairs)]
    batch = Batch.from_data_list(systems)
    batch["system_id"] = torch.arange(len(batch)).view(-1, 1)
    return batch
