"""Compile the moves of stages, and compare them with those that are not; run by test_fused.py."""

import torch

from nvdyn_ase.dynamics import FIRE, ConvergenceHook, Langevin
from tests.wells import Well, wells


def run(backend):
    model = Well()
    relax = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
    whole = relax + Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=4)
    if backend:
        whole.compile(backend=backend)
    return whole.run(wells(0.01, 2.0, 0.7))


if __name__ == "__main__":
    compiled, reference = run("eager"), run(None)
    for key in ("positions", "velocities", "steps", "stage_steps"):
        assert torch.equal(compiled[key], reference[key]), key
