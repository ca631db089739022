"""How each system ended, in words."""

import pickle
import re

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from nvdyn_ase.atoms import Result, batch_from_atoms
from nvdyn_ase.dynamics import Outcome


def made(outcomes):
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au")][: len(outcomes)]
    batch = batch_from_atoms(systems)
    batch["outcome"] = torch.tensor([int(o) for o in outcomes]).view(-1, 1)
    return systems, batch


def test_every_system_has_a_result():
    systems, batch = made([Outcome.CONVERGED, Outcome.BUDGET, Outcome.ERROR])
    batch["steps"] = torch.tensor([[3], [7], [2]])
    batch["evaluations"] = torch.tensor([[4], [8], [3]])
    batch["energy"] = torch.tensor([[-1.0], [-2.0], [np.nan]], dtype=torch.float64)
    batch["fmax"] = torch.tensor([[0.01], [0.2], [np.nan]], dtype=torch.float64)
    batch.host[2]["failure"] = "the model raised"
    results = Result.of_batch(batch, systems, indices=range(10, 10 + len(systems)))
    assert [r.atoms for r in results] == systems
    assert all(r.atoms is atoms for r, atoms in zip(results, systems, strict=True))
    assert [r.index for r in results] == [10, 11, 12]
    assert [r.converged for r in results] == [True, False, False]
    assert [r.steps for r in results] == [3, 7, 2]
    assert [r.evaluations for r in results] == [4, 8, 3]
    assert [r.energy for r in results[:2]] == [-1.0, -2.0]
    assert [r.fmax for r in results[:2]] == [0.01, 0.2]
    assert np.isnan([results[2].energy, results[2].fmax]).all()
    assert [r.outcome for r in results] == [Outcome.CONVERGED, Outcome.BUDGET, Outcome.ERROR]
    assert [r.reason for r in results] == ["", "", "the model raised"]
    for value in (results[0].index, results[0].steps, results[0].energy):
        assert type(value) in (int, float)


def test_what_is_not_there():
    systems, batch = made([Outcome.ACTIVE])
    result = Result.of_batch(batch, systems)[0]
    assert (result.steps, result.evaluations, result.converged) == (0, 0, False)
    assert np.isnan([result.energy, result.fmax]).all()


def test_pickling():
    systems, batch = made([Outcome.REJECTED])
    result = Result.of_batch(batch, systems)[0]
    twin = pickle.loads(pickle.dumps(result))
    assert twin.atoms == result.atoms
    assert (twin.outcome, twin.reason) == (Outcome.REJECTED, "rejected")


CLOSE = {
    "molecule": (
        ase.Atoms("H3", positions=[[0, 0, 0], [5, 0, 0], [5, 0.01, 0]]),
        "atoms 1 and 2 are 0.01 Å apart",
    ),
    "the same place": (
        ase.Atoms("H4", positions=[[9, 0, 0], [5, 0, 0], [5, 0, 0], [5, 0, 0]]),
        r"atoms (1 and 2|1 and 3|2 and 3) are 0 Å apart",
    ),
    "across the cell": (
        ase.Atoms("H2", positions=[[0.1, 0, 0], [7.9, 0, 0]], cell=[8, 8, 8], pbc=True),
        r"atoms 0 and 1 are 0\.2 Å apart",
    ),
    "image": (ase.Atoms("H", cell=[0.3, 8, 8], pbc=True), r"atom 0 and its own image are 0\.3 Å"),
    "wire": (
        ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 4]], cell=[0, 0, 5], pbc=[0, 0, 1]),
        "atoms 0 and 1 are 1 Å apart",
    ),
    "lost": (ase.Atoms("H2", positions=[[np.nan, 0, 0], [1, 0, 0]]), "^energy or forces are not"),
    "alone": (ase.Atoms("H"), "not finite; check its positions and cell"),
}


@pytest.mark.parametrize("name", CLOSE)
def test_which_atoms_are_to_blame(name):
    atoms, words = CLOSE[name]
    batch = batch_from_atoms([bulk("Cu")] if name == "lost" else [atoms])
    batch["outcome"] = torch.tensor([[int(Outcome.NAN)]])
    reason = Result.of_batch(batch, [atoms])[0].reason
    assert re.search(words, reason), reason
    assert reason.endswith("check its positions and cell")
