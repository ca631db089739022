"""Calculators that count, that look closely, and that are built in ways ASE's are not."""

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes, compare_atoms
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress

from nvdyn_ase.data import Batch


class CountingEMT(EMT):
    """EMT that counts its calculations."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def calculate(self, *args, **kwargs):
        self.count += 1
        super().calculate(*args, **kwargs)


class Watchful(Calculator):
    """Fails unless it is told all that changed since it last calculated itself.

    Computes only what it is asked for, as many do, and finds a dipole besides.
    """

    implemented_properties = ("energy", "forces", "stress", "dipole", "charges", "magmoms")

    def __init__(self, k=1.0):
        super().__init__(k=k)
        self.seen = None
        self.count = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        missed = set(compare_atoms(self.seen, atoms)) - set(system_changes)
        assert not missed, f"not told of {missed}"
        self.seen = atoms.copy()
        found = {
            "energy": self.parameters["k"] * (atoms.positions**2).sum(),
            "forces": -2 * self.parameters["k"] * atoms.positions,
            "stress": atoms.cell.array.ravel()[[0, 4, 8, 5, 2, 1]],
            "charges": atoms.get_initial_charges() + 1.0,
            "magmoms": atoms.get_initial_magnetic_moments(),
        }
        self.results.update({name: found[name] for name in properties if name in found})
        self.results["dipole"] = atoms.positions.sum(axis=0)
        self.results["band gap"] = 1.5


class OldStyle:
    """An object with methods that an Atoms calls, and nothing else."""

    def __init__(self):
        self.count = 0

    def get_potential_energy(self, atoms, force_consistent=False):
        self.count += 1
        return (atoms.positions**2).sum()

    def get_forces(self, atoms):
        self.count += 1
        return -2 * atoms.positions


class Biased(EMT):
    """EMT whose forces are changed where Atoms ask for them, not where they are computed."""

    def get_forces(self, atoms=None):
        return super().get_forces(atoms) + 1.0


def results_of(systems: list[ase.Atoms], make=EMT) -> list[dict]:
    """Return what fresh calculators say."""
    found = []
    for atoms in systems:
        bare = atoms.copy()
        bare.set_constraint()
        bare.calc = make()
        bare.get_potential_energy()
        bare.get_forces()
        if bare.cell.rank == 3:
            bare.get_stress()
        found.append(bare.calc.results)
    return found


def evaluate(batch: Batch, systems: list[ase.Atoms], make=EMT) -> None:
    """Put into a batch what fresh calculators say of its positions and cells."""
    here = []
    for row, atoms in enumerate(systems):
        twin = atoms.copy()
        twin.set_constraint()
        twin.set_positions(batch[row].positions.numpy())
        twin.set_cell(batch["cell"][row].numpy())
        here.append(twin)
    found = results_of(here, make)
    batch["energy"] = torch.tensor([[r["energy"]] for r in found], dtype=torch.float64)
    batch["forces"] = torch.as_tensor(np.concatenate([r["forces"] for r in found]))
    stress = [voigt_6_to_full_3x3_stress(r.get("stress", np.zeros(6))) for r in found]
    batch["stress"] = torch.as_tensor(np.array(stress))
