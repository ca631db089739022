"""torch-sim, with whichever of its neighbour lists is fastest for the systems at hand."""

from argon_structures import (
    ATOMIC_NUMBER,
    CUTOFF,
    EPSILON,
    MASS,
    SIGMA,
    TIME_STEP,
    Systems,
)
from worker_loop import Relaxed, fastest, serve


class TorchSim:
    """``nve_step`` in a loop, and ``optimize`` with the FIRE that follows ASE, as they come."""

    shifted = False

    def __init__(self):
        import torch
        import torch_sim
        from torch_sim import neighbors, telemetry
        from torch_sim.models.lennard_jones import LennardJonesModel

        torch.set_num_threads(1)
        telemetry.configure_logging(log_level="ERROR")
        self.torch, self.ts, self.neighbors = torch, torch_sim, neighbors
        self.make_model = LennardJonesModel
        self.version = torch_sim.__version__

    def place(self, systems: Systems) -> str:
        """See ``worker_loop.Engine``."""
        torch, ts = self.torch, self.ts
        count, size = len(systems), systems.num_atoms
        self.start = ts.SimState(
            positions=torch.tensor(systems.positions.reshape(-1, 3)),
            masses=torch.full((count * size,), MASS, dtype=torch.float64),
            cell=(systems.edge * torch.eye(3, dtype=torch.float64)).repeat(count, 1, 1),
            pbc=True,
            atomic_numbers=torch.full((count * size,), ATOMIC_NUMBER),
            system_idx=torch.arange(count).repeat_interleave(size),
        )
        models = {name: self._model(nl) for name, nl in self._lists().items()}
        calls = {name: lambda m=model: m(self.start) for name, model in models.items()}
        chosen = fastest(calls, repeats=3)
        self.model = models[chosen]
        self.moving = ts.integrators.nve_init(self.start.clone(), self.model, kT=0.0)
        self.moving.momenta = MASS * torch.tensor(systems.velocities.reshape(-1, 3))
        self.shape = systems.positions.shape
        return chosen

    def _lists(self):
        names = ["alchemiops_nl_n2", "alchemiops_nl_cell_list", "vesin_nl_ts", "vesin_nl"]
        names.append("torch_nl_linked_cell")
        return {name: getattr(self.neighbors, name) for name in names}

    def _model(self, neighbor_list):
        torch = self.torch
        return self.make_model(
            sigma=SIGMA,
            epsilon=EPSILON,
            cutoff=CUTOFF,
            dtype=torch.float64,
            device=torch.device("cpu"),
            neighbor_list_fn=neighbor_list,
        )

    def run(self, steps: int) -> None:
        """See ``worker_loop.Engine``."""
        dt = self.torch.tensor(TIME_STEP, dtype=self.torch.float64)
        for _ in range(steps):
            self.moving = self.ts.integrators.nve_step(self.moving, self.model, dt=dt)

    def state(self):
        """See ``worker_loop.Engine``."""
        state = self.moving
        positions = state.positions.numpy().reshape(self.shape)
        velocities = (state.momenta / MASS).numpy().reshape(self.shape)
        return positions, velocities, state.energy.numpy()

    def restart(self) -> None:
        """See ``worker_loop.Engine``."""
        # ``optimize`` leaves the state that it is given as it is.

    def relax(self, fmax: float) -> Relaxed:
        """See ``worker_loop.Engine``."""
        computed = 0

        def count(_model, inputs, _output):
            nonlocal computed
            computed += inputs[0].n_systems

        handle = self.model.register_forward_hook(count)
        try:
            final = self.ts.optimize(
                self.start,
                self.model,
                optimizer=self.ts.Optimizer.fire,
                convergence_fn=self.ts.generate_force_convergence_fn(fmax),
            )
        finally:
            handle.remove()
        converged = int((self.ts.system_wise_max_force(final) < fmax).sum())
        return Relaxed(computed / self.start.n_systems, None, converged)


if __name__ == "__main__":
    serve(TorchSim)
