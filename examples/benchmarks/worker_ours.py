"""nvdyn_ase, with the time in its neighbour list and its model counted apart."""

from argon_structures import CUTOFF, EPSILON, MASS, SIGMA, TIME_STEP, Systems
from worker_loop import Relaxed, Stopwatch, serve


class Ours:
    """``NVE`` and ``FIRE`` of the engine on a batch made from Atoms, all settings as they come."""

    shifted = True

    def __init__(self):
        import torch

        torch.set_num_threads(1)

        import ase

        import nvdyn_ase
        from nvdyn_ase import dynamics
        from nvdyn_ase.atoms import batch_from_atoms
        from nvdyn_ase.models import LennardJones
        from nvdyn_ase.neighbors import NeighborList

        self.ase, self.dynamics, self.to_batch = ase, dynamics, batch_from_atoms
        self.version = nvdyn_ase.__version__
        self.model = LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
        self.watches = {"neighbours": Stopwatch(), "model": Stopwatch()}
        self.neighbor_list = None
        update = self.watches["neighbours"].around(NeighborList.update)

        def known_update(neighbor_list, batch):
            self.neighbor_list = neighbor_list
            return update(neighbor_list, batch)

        NeighborList.update = known_update
        self.model.forward = self.watches["model"].around(self.model.forward)

    def place(self, systems: Systems) -> str:
        """See ``worker_loop.Engine``."""
        self.systems = systems
        self.moving = self._batch()
        self.engine = self.dynamics.NVE(self.model, dt=TIME_STEP)
        self.engine.run(self.moving, n_steps=0)
        wanted = self.model.model_card.neighbor_config
        return f"{'half' if wanted.half_list else 'full'} list, skin {wanted.skin:.2f} Å"

    def _batch(self):
        structures = []
        for positions, velocities in zip(
            self.systems.positions, self.systems.velocities, strict=True
        ):
            symbols = f"Ar{self.systems.num_atoms}"
            cell = [self.systems.edge] * 3
            atoms = self.ase.Atoms(symbols, positions=positions, cell=cell, pbc=True)
            atoms.set_masses([MASS] * len(atoms))
            atoms.set_velocities(velocities)
            structures.append(atoms)
        return self.to_batch(structures)

    def rebuilds(self) -> float:
        """How often the pairs of a system have been found so far, mean over systems."""
        return 0.0 if self.neighbor_list is None else float(self.neighbor_list.rebuilds.mean())

    def run(self, steps: int) -> None:
        """See ``worker_loop.Engine``."""
        self.engine.run(self.moving, n_steps=steps)

    def state(self):
        """See ``worker_loop.Engine``."""
        batch, shape = self.moving, self.systems.positions.shape
        positions = batch["positions"].numpy().reshape(shape)
        velocities = batch["velocities"].numpy().reshape(shape)
        return positions, velocities, batch["energy"].numpy().reshape(-1)

    def restart(self) -> None:
        """See ``worker_loop.Engine``."""
        self.rattled = self._batch()

    def relax(self, fmax: float) -> Relaxed:
        """See ``worker_loop.Engine``."""
        batch, count = self.rattled, len(self.systems)
        computed = 0
        forward = self.model.forward

        def counting(batch):
            nonlocal computed
            computed += len(batch)
            return forward(batch)

        self.model.forward = counting
        criterion = self.dynamics.ConvergenceHook.from_fmax(fmax, strict=True)
        try:
            self.dynamics.FIRE(self.model, convergence_hook=criterion, n_steps=2000).run(batch)
        finally:
            self.model.forward = forward
        needed = float(batch["evaluations"].double().mean())
        converged = int((batch["outcome"] == self.dynamics.Outcome.CONVERGED).sum())
        return Relaxed(computed / count, needed, converged)


if __name__ == "__main__":
    serve(Ours)
