"""Compile the moves of stages whole, and compare them with those that are not.

Run by test_fused.py. A stage is compiled again for a batch of one, and where sizes that were equal
no longer are; not because systems come and go.
"""

import torch

from nvdyn_ase.dynamics import FIRE, ConvergenceHook, Langevin
from tests.wells import Well, wells

graphs = []


def count(graph, _):
    """Take a graph as it is."""
    graphs.append(graph)
    return graph.forward


def run(is_compiled):
    model = Well()
    relax = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
    whole = relax + Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=4)
    if is_compiled:
        whole.compile(backend=count, fullgraph=True)
    return whole.run(wells(0.01, 2.0, 0.7))


if __name__ == "__main__":
    compiled, reference = run(True), run(False)
    for key in ("positions", "velocities", "steps", "stage_steps"):
        assert torch.equal(compiled[key], reference[key]), key
    assert 3 <= len(graphs) <= 8, len(graphs)
