"""What the facades of integrators with random numbers have in common."""

from typing import Any

import numpy as np

from nvdyn_ase.md.md import MolecularDynamicsFacade


class StochasticFacade(MolecularDynamicsFacade):
    """Takes ``rng`` as ASE does, and ``seed``, which is the engine's."""

    rng: Any
    comm: Any
    _seed: Any = None

    def _open_stochastic(self, atoms: Any, model: Any, engine: bool | None, **options: Any) -> None:
        """Choose who runs, and where random numbers come from."""
        self._seed = options.pop("seed")
        rng_is_given = options["rng"] is not None and options["rng"] is not np.random
        if self._seed is not None and rng_is_given:
            raise TypeError("give seed or rng, not both")
        self._open_md(atoms, model, engine, **options)
        if self._seed is not None and self.engine is None:
            raise TypeError("seed= needs the engine; for one Atoms give rng=, or engine=True")

    def _with_noise(self, engine: Any, *arguments: Any, **options: Any) -> Any:
        """Make an engine; ASE has put ``numpy.random`` where no source of noise was given."""
        if self._seed is not None:
            options["seed"] = self._seed
        else:
            options["rng"] = [self.rng] if self._single else self.rng
        made = engine(*arguments, **options)
        made.noise.broadcast = self._broadcast
        return made

    def _broadcast(self, array: np.ndarray) -> None:
        """Make what was drawn that of the first process, as in ASE."""
        self.comm.broadcast(array, 0)
