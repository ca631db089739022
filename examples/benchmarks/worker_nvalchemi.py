"""nvalchemi-toolkit, with a half or a full list, whichever is faster for the systems at hand."""

import argparse

from argon_structures import (
    ATOMIC_NUMBER,
    CUTOFF,
    EPSILON,
    FEMTOSECOND,
    MASS,
    SIGMA,
    TIME_STEP,
    Systems,
)
from worker_loop import Relaxed, fastest, serve


class Nvalchemi:
    """``NVE`` and ``FIRE`` with their neighbour-list hook.

    Parameters
    ----------
    skin
        Å; 0 finds the pairs anew at every step.
    """

    shifted = False

    def __init__(self, skin: float):
        from importlib.metadata import version

        import torch
        from nvalchemi import data, dynamics, hooks
        from nvalchemi.dynamics.base import BaseDynamics
        from nvalchemi.models.lj import LennardJonesModelWrapper

        torch.set_num_threads(1)
        self.torch, self.data, self.dynamics = torch, data, dynamics
        self.base, self.make_hook = BaseDynamics, hooks.NeighborListHook
        self.make_model = LennardJonesModelWrapper
        self.version = version("nvalchemi-toolkit")
        self.skin = skin

    def place(self, systems: Systems) -> str:
        """See ``worker_loop.Engine``."""
        self.systems, self.shape = systems, systems.positions.shape
        engines = {name: self._nve(name == "half list") for name in ("half list", "full list")}
        trials = {name: self._batch(systems, MASS) for name in engines}
        calls = {
            name: lambda e=engine, b=trials[name]: e.run(b, n_steps=20)
            for name, (engine, _hook) in engines.items()
        }
        chosen = fastest(calls, repeats=3)
        self.engine, self.hook = engines[chosen]
        self.moving = self._batch(systems, MASS)
        self._prime(self.moving)
        return f"{chosen}, skin {self.skin:.2f} Å"

    def _nve(self, half: bool):
        model = self.make_model(epsilon=EPSILON, sigma=SIGMA, cutoff=CUTOFF, half_list=half)
        stage = self.dynamics.DynamicsStage.BEFORE_COMPUTE
        hook = self.make_hook(model.model_config.neighbor_config, skin=self.skin, stage=stage)
        return self.dynamics.NVE(model, dt=TIME_STEP / FEMTOSECOND, hooks=[hook]), hook

    def _batch(self, systems: Systems, mass: float):
        torch, size = self.torch, systems.num_atoms
        cell = systems.edge * torch.eye(3, dtype=torch.float64)
        return self.data.Batch.from_data_list(
            [
                self.data.AtomicData(
                    positions=torch.tensor(positions),
                    velocities=torch.tensor(velocities),
                    atomic_numbers=torch.full((size,), ATOMIC_NUMBER),
                    atomic_masses=torch.full((size,), mass, dtype=torch.float64),
                    cell=cell[None],
                    pbc=torch.ones(1, 3, dtype=torch.bool),
                    forces=torch.zeros(size, 3, dtype=torch.float64),
                    energy=torch.zeros(1, 1, dtype=torch.float64),
                )
                for positions, velocities in zip(systems.positions, systems.velocities, strict=True)
            ]
        )

    def _prime(self, batch) -> None:
        """Compute the forces that the first step starts from: a step of an engine that stays."""
        self.base(self.engine.model, hooks=[self.hook]).run(batch, n_steps=1)

    def run(self, steps: int) -> None:
        """See ``worker_loop.Engine``."""
        self.moving = self.engine.run(self.moving, n_steps=steps)

    def state(self):
        """See ``worker_loop.Engine``."""
        batch = self.moving
        positions = batch.positions.numpy().reshape(self.shape)
        velocities = batch.velocities.numpy().reshape(self.shape)
        return positions, velocities, batch.energy.numpy().reshape(-1)

    def restart(self) -> None:
        """See ``worker_loop.Engine``."""
        count = len(self.systems)
        self.rattled = self._batch(self.systems, 1.0)
        self.rattled.velocities.zero_()
        self.rattled["status"] = self.torch.zeros(count, 1, dtype=self.torch.long)

    def relax(self, fmax: float) -> Relaxed:
        """Relax with unit masses, as ASE's FIRE has them, in a ``FusedStage`` of this one stage.

        The stage ends when every system is done, and those that are stay in each forward pass until
        then. ``FIRE`` by itself would go on: it computes the forces of a system that is held where
        that system would have gone.
        """
        batch, count = self.rattled, len(self.systems)
        computed = needed = 0

        def note(_model, inputs, _output):
            nonlocal computed, needed
            computed += count
            needed += int((inputs[0].status == 0).sum())

        model = self.engine.model
        handle = model.register_forward_hook(note)
        criterion = self.dynamics.ConvergenceHook.from_fmax(fmax)
        fire = self.dynamics.FIRE(model, dt=0.1, convergence_hook=criterion)
        stage = self.dynamics.FusedStage([(0, fire)], hooks=[self.hook])
        try:
            stage.run(batch, n_steps=2000)
        finally:
            handle.remove()
        converged = int((batch.status == 1).sum())
        return Relaxed(computed / count, needed / count, converged)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skin", type=float, default=0.0)
    skin = parser.parse_args().skin
    serve(lambda: Nvalchemi(skin))
