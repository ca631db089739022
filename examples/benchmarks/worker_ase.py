"""ASE, one structure after the other."""

import numpy as np
from argon_structures import CUTOFF, EPSILON, MASS, SIGMA, TIME_STEP, Systems
from worker_loop import Relaxed, serve


class Ase:
    """``VelocityVerlet`` and ``FIRE`` with ASE's ``LennardJones``."""

    shifted = True

    def __init__(self):
        import ase
        from ase.calculators.lj import LennardJones
        from ase.md import VelocityVerlet
        from ase.optimize import FIRE

        self.make_calculator, self.make_dynamics, self.make_optimizer = (
            LennardJones,
            VelocityVerlet,
            FIRE,
        )
        self.ase, self.version = ase, ase.__version__

    def place(self, systems: Systems) -> str:
        """See ``worker_loop.Engine``."""
        self.systems = systems
        self.moving = self._structures()
        self.dynamics = [self.make_dynamics(atoms, timestep=TIME_STEP) for atoms in self.moving]
        return "one by one"

    def _structures(self):
        structures = []
        for positions, velocities in zip(
            self.systems.positions, self.systems.velocities, strict=True
        ):
            atoms = self.ase.Atoms(
                f"Ar{self.systems.num_atoms}",
                positions=positions,
                cell=[self.systems.edge] * 3,
                pbc=True,
            )
            atoms.set_masses([MASS] * len(atoms))
            atoms.set_velocities(velocities)
            atoms.calc = self.make_calculator(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
            structures.append(atoms)
        return structures

    def run(self, steps: int) -> None:
        """See ``worker_loop.Engine``."""
        for dynamics in self.dynamics:
            dynamics.run(steps)

    def state(self):
        """See ``worker_loop.Engine``."""
        positions = np.array([atoms.positions for atoms in self.moving])
        velocities = np.array([atoms.get_velocities() for atoms in self.moving])
        energies = np.array([atoms.get_potential_energy() for atoms in self.moving])
        return positions, velocities, energies

    def restart(self) -> None:
        """See ``worker_loop.Engine``."""
        self.rattled = self._structures()

    def relax(self, fmax: float) -> Relaxed:
        """See ``worker_loop.Engine``."""
        evaluations = converged = 0
        for atoms in self.rattled:
            optimizer = self.make_optimizer(atoms, logfile=None)
            converged += bool(optimizer.run(fmax=fmax, steps=2000))
            evaluations += optimizer.nsteps + 1
        count = len(self.systems)
        return Relaxed(evaluations / count, evaluations / count, converged)


if __name__ == "__main__":
    serve(Ase)
