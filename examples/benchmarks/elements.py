"""What CHGNet costs in a batch and one by one: CPU time of relaxing the elemental crystals of ASE.

The 71 crystals of ``ase.collections.dcdft`` are relaxed with their cells, by FIRE in a
``FrechetCellFilter``: all at once by nvdyn_ase, and one after the other by ASE with
``CHGNetCalculator``, of the same network, on one thread and in the same process. Volumes are
compared. It needs ``pip install 'nvdyn_ase[chgnet]'``. See README.md in this folder.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import ase.optimize
import numpy as np
import torch
from ase import Atoms
from ase.collections import dcdft
from ase.filters import FrechetCellFilter
from chgnet.model.dynamics import CHGNetCalculator

from nvdyn_ase.data import Batch
from nvdyn_ase.models import ModelOutputs
from nvdyn_ase.models.chgnet import CHGNetModel
from nvdyn_ase.optimize import FIRE


class Timed(CHGNetModel):
    """Counts the CPU time of its forward passes."""

    seconds = 0.0

    def forward(self, batch: Batch) -> ModelOutputs:
        """Evaluate a batch; see ``CHGNetModel``."""
        start = time.process_time()
        outputs = super().forward(batch)
        self.seconds += time.process_time() - start
        return outputs


def main() -> None:
    """Relax the crystals both ways, and print times and differences."""
    torch.set_num_threads(1)
    options = parse()
    calculator = CHGNetCalculator(use_device="cpu", on_isolated_atoms="ignore")
    model = Timed(calculator.model)
    names = dcdft.names[: options.crystals]
    ours, theirs = ([dcdft[name] for name in names] for _ in range(2))
    relax_batch([dcdft[names[0]]], model, options)  # whatever is loaded or compiled is so now
    relax_one(dcdft[names[0]], calculator, options)
    model.seconds = 0.0
    batched, steps = timed(lambda: relax_batch(ours, model, options))
    single, single_steps = timed(
        lambda: [relax_one(atoms, calculator, options) for atoms in theirs]
    )
    print(f"{len(names)} crystals, FIRE with FrechetCellFilter to {options.fmax} eV/Å, CHGNet")
    print(f"{'':24}{'CPU s':>8}{'steps':>8}{'converged':>11}")
    for name, seconds, found in (
        ("nvdyn_ase, one batch", batched, steps),
        ("ASE, one by one", single, single_steps),
    ):
        done = sum(converged for _, converged in found)
        print(f"{name:24}{seconds:8.2f}{sum(count for count, _ in found):8d}{done:11d}")
    volumes = [np.array([atoms.get_volume() for atoms in group]) for group in (ours, theirs)]
    difference = np.abs(volumes[0] / volumes[1] - 1).max()
    print(f"the batch takes 1/{single / batched:.2f} of the time")
    print(f"volumes differ by {100 * difference:.4f} % at most")
    print(f"{100 * (1 - model.seconds / batched):.1f} % of the batched run is outside the model")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--crystals", type=int, default=None, help="only so many of them (default all)")
    add("--fmax", type=float, default=0.05, help="where FIRE stops, eV/Å (default 0.05)")
    add("--steps", type=int, default=500, help="most steps of each (default 500)")
    return parser.parse_args()


def relax_batch(
    structures: list[Atoms], model: CHGNetModel, options: argparse.Namespace
) -> list[tuple[int, bool]]:
    """Relax all at once; return the steps of each and whether it converged."""
    filters = [FrechetCellFilter(atoms) for atoms in structures]
    optimizer = FIRE(filters, logfile=None, model=model)
    optimizer.run(fmax=options.fmax, steps=options.steps)
    return [(result.steps, result.converged) for result in optimizer.results]


def relax_one(
    atoms: Atoms, calculator: CHGNetCalculator, options: argparse.Namespace
) -> tuple[int, bool]:
    """Relax one with ASE; return its steps and whether it converged."""
    atoms.calc = calculator
    optimizer = ase.optimize.FIRE(FrechetCellFilter(atoms), logfile=None)
    converged = optimizer.run(fmax=options.fmax, steps=options.steps)
    return optimizer.nsteps, bool(converged)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a run, and what it returns."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
