"""Relax a few hundred structures at once, and compare with ASE doing them one by one.

    python examples/relax_many.py

Builds alloys, slabs with vacancies and adsorbates, clusters and molecules with ASE's own tools,
relaxes all of them with effective medium theory, prints how it went, does a sample again with ASE's
own FIRE, one structure after the other, and draws a picture. No GPU and no download; half a minute.
"""

import argparse
import time
from pathlib import Path

import ase
import numpy as np
from ase.build import add_adsorbate, bulk, fcc100, fcc110, fcc111, molecule
from ase.calculators.emt import EMT
from ase.cluster import Decahedron, Icosahedron, Octahedron
from ase.collections import g2
from ase.constraints import FixAtoms
from ase.data import reference_states
from ase.optimize import FIRE as ASE_FIRE

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import BaseDynamics, HookStageEnum
from nvdyn_ase.optimize import FIRE
from nvdyn_ase.workflows import Result, Summary, relax

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
FMAX = 0.02  # eV/Å

# ---------------------------------------------------------------- structures


def alloy(rng: np.random.Generator) -> ase.Atoms:
    """A periodic fcc alloy of two metals: ordered (L1_2, L1_0) or random."""
    first, second = rng.choice(METALS, 2, replace=False)
    order = rng.choice(["L1_2", "L1_0", "random"])
    atoms = bulk(first, "fcc", a=4.0, cubic=True)  # four atoms: a corner and three faces
    if order == "L1_2":
        atoms.symbols[0] = second
    elif order == "L1_0":
        atoms.symbols[:2] = second
    atoms *= (2, 2, int(rng.integers(1, 3)))
    if order == "random":
        atoms.symbols[rng.random(len(atoms)) < 0.5] = second
    # The lattice constant of the mixture, after Vegard.
    constants = [reference_states[number]["a"] for number in atoms.numbers]
    atoms.set_cell(atoms.cell * np.mean(constants) / 4.0, scale_atoms=True)
    return atoms


def slab(rng: np.random.Generator) -> ase.Atoms:
    """A surface with the two lowest layers held, some with a vacancy, some with an adsorbate."""
    surface = (fcc111, fcc100, fcc110)[rng.integers(3)]
    atoms = surface(rng.choice(METALS), (2, 2, int(rng.integers(3, 6))), vacuum=7.0)
    if rng.random() < 0.6:
        adsorbate = rng.choice(["H", "C", "N", "O", "CO"])
        site = "ontop" if adsorbate == "CO" else ("hollow" if surface is not fcc111 else "fcc")
        what = molecule("CO") if adsorbate == "CO" else adsorbate
        add_adsorbate(atoms, what, 1.5, site, mol_index=1 if adsorbate == "CO" else 0)
    if rng.random() < 0.5:
        top = [atom.index for atom in atoms if atom.tag == 1]
        del atoms[top[-1]]
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() >= atoms.get_tags().max() - 1))
    return atoms


def cluster(rng: np.random.Generator) -> ase.Atoms:
    """A free particle of 13 to 55 atoms, some of them of a second metal."""
    first, second = rng.choice(METALS, 2, replace=False)
    kind = rng.integers(4)
    if kind == 0:
        atoms = Icosahedron(first, noshells=int(rng.integers(2, 4)))
    elif kind == 1:
        atoms = Octahedron(first, length=4, cutoff=int(rng.integers(0, 2)))
    elif kind == 2:
        atoms = Decahedron(first, p=2, q=int(rng.integers(1, 3)), r=0)
    else:
        atoms = Octahedron(first, length=3)
    atoms = ase.Atoms(atoms)  # from ase.cluster's own class to a plain Atoms
    if rng.random() < 0.5:
        atoms.symbols[rng.random(len(atoms)) < 0.3] = second
    return atoms


def small_molecule(rng: np.random.Generator) -> ase.Atoms:
    """A molecule of the G2 set that has no elements but those of EMT."""
    return molecule(rng.choice(MOLECULES))


MOLECULES = [
    name for name in g2.names if len(g2[name]) > 1 and set(g2[name].symbols) <= set("HCNO")
]
#: Who builds, and how far from rest the atoms are put, Å.
KINDS = ((alloy, 0.1), (slab, 0.1), (cluster, 0.1), (small_molecule, 0.05))


def build(count: int, seed: int = 0) -> list[ase.Atoms]:
    """Return so many structures; the same ones for the same seed."""
    structures = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        maker, width = KINDS[index % len(KINDS)]
        atoms = maker(rng)
        atoms.rattle(width, rng=rng)
        atoms.info["kind"] = maker.__name__
        structures.append(atoms)
    return structures


# ---------------------------------------------------------------- the work


def relax_together(
    structures: list[ase.Atoms], progress: bool = True
) -> tuple[list[Result], float]:
    """Relax all of them and print the table; return how each ended, and the time it took, s."""
    summary = Summary()
    results = list(
        summary.watch(relax(structures, EMT(), fmax=FMAX, ordered=True, progress=progress))
    )
    print(summary)
    return results, summary.seconds


def relax_one_by_one(structures: list[ase.Atoms]) -> list[ASE_FIRE]:
    """Relax with ASE alone: its FIRE, its EMT."""
    optimizers = []
    for atoms in structures:
        atoms.calc = EMT()
        optimizer = ASE_FIRE(atoms, logfile=None)
        optimizer.run(fmax=FMAX, steps=500)
        optimizers.append(optimizer)
    return optimizers


def compare(starts: list[ase.Atoms], together: list[Result], sample: int) -> float:
    """Do a sample of the structures again both ways; return how many times faster a batch is."""
    chosen = range(0, len(starts), max(1, len(starts) // sample))
    here = [starts[index].copy() for index in chosen]
    there = [starts[index].copy() for index in chosen]

    begin = time.perf_counter()
    batched = list(relax(here, EMT(), fmax=FMAX, ordered=True, progress=False))
    between = time.perf_counter()
    optimizers = relax_one_by_one(there)
    end = time.perf_counter()

    energies = np.array([atoms.get_potential_energy() for atoms in there])
    in_sample = np.array([result.energy for result in batched])
    in_all = np.array([together[index].energy for index in chosen])
    steps_equal = [result.steps for result in batched] == [opt.nsteps for opt in optimizers]
    per_structure = np.array([end - between, between - begin]) / len(chosen) * 1000
    ratio = per_structure[0] / per_structure[1]

    print(f"{len(chosen)} of them again, both ways:")
    print(f"  ASE, one by one        {per_structure[0]:9.2f} ms per structure")
    print(f"  here, in one batch     {per_structure[1]:9.2f} ms per structure")
    print(f"  ratio                  {ratio:9.1f}")
    print(f"  energies differ by at most      {np.abs(in_sample - energies).max():.1e} eV")
    print(f"  same number of steps, each:     {'yes' if steps_equal else 'no'}")
    print(f"  bit for bit as in the big batch: {'yes' if (in_all == in_sample).all() else 'no'}")
    return ratio


# ---------------------------------------------------------------- the picture


class Curves:
    """A hook: the engine calls it after each evaluation with the structures that still move.

    Attributes
    ----------
    energies, forces
        Energy per atom, eV, and largest force, eV/Å: a list with a row for each step, each with a
        number for each structure.
    """

    stage = HookStageEnum.AFTER_COMPUTE
    frequency = 1

    def __init__(self, count: int) -> None:
        self.energies, self.forces = [np.zeros(count)], [np.zeros(count)]

    def __call__(self, batch: Batch, dynamics: BaseDynamics) -> None:
        """Add a row; structures that are done keep their last numbers."""
        rows = batch["system_id"].flatten().numpy()
        energy = batch["energy"].flatten() / batch.num_nodes_per_graph
        for table, values in ((self.energies, energy), (self.forces, batch["fmax"].flatten())):
            table.append(table[-1].copy())
            table[-1][rows] = values.numpy()


def follow(structures: list[ase.Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Relax, looking at every step; return energy per atom, eV, and largest force, eV/Å.

    ``nvdyn_ase.optimize`` is ASE's optimizers, which also take a list; what runs them is their
    ``engine``. Both arrays have a row per step and a column per structure.
    """
    curves = Curves(len(structures))
    with FIRE(structures, model=EMT(), logfile=None) as optimizer:
        optimizer.engine.register_hook(curves)
        optimizer.run(fmax=FMAX, steps=500)
    return np.array(curves.energies[1:]), np.array(curves.forces[1:])


def draw(energies: np.ndarray, forces: np.ndarray, path: Path) -> bool:
    """Draw energy against step, and the largest forces before and after; needs matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    above = np.clip(energies - energies[-1], 1e-9, None)
    left.semilogy(above, color="tab:blue", alpha=0.15, linewidth=0.8)
    left.semilogy(np.median(above, axis=1), color="black", label="median")
    left.set(xlabel="step", ylabel="energy above the final one, eV/atom", ylim=(1e-7, None))
    left.legend()
    low, high = (np.log10(force / FMAX) for force in (forces[-1].min(), forces.max()))
    bins = FMAX * 10.0 ** (np.arange(np.floor(10 * low), np.ceil(10 * high) + 1) / 10)
    for row, label, color in ((0, "before", "tab:orange"), (-1, "after", "tab:blue")):
        right.hist(forces[row], bins, label=label, color=color, alpha=0.7)
    right.axvline(FMAX, color="black", linestyle=":", label="fmax")
    right.set(xscale="log", xlabel="largest force, eV/Å", ylabel="structures")
    right.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True


# ---------------------------------------------------------------- all of it


def main(argv: list[str] | None = None) -> None:
    """Build, relax, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="structures (%(default)s)")
    parser.add_argument("--sample", type=int, default=60, help="also done by ASE (%(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("relax_many.png"))
    options = parser.parse_args(argv)

    structures = build(options.count)
    starts = [atoms.copy() for atoms in structures]
    sizes = [len(atoms) for atoms in structures]
    print(
        f"{len(structures)} structures of {min(sizes)} to {max(sizes)} atoms, {sum(sizes)} in all"
    )
    # The kernels are compiled the first time they run on a machine; that is not part of the work.
    list(relax([starts[0].copy()], EMT(), steps=1, progress=False))

    print("\nRelaxed together:\n")
    results, seconds = relax_together(structures)
    print(f"\nThat is {seconds / len(results) * 1000:.2f} ms per structure.\n")
    compare(starts, results, options.sample)

    energies, forces = follow(starts)
    if draw(energies, forces, options.picture):
        print(f"\npicture: {options.picture.resolve()}")
    else:
        print("\nno picture: matplotlib is not installed")


if __name__ == "__main__":
    main()
