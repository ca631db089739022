"""Several Atoms where ASE's base classes expect one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ase
import numpy as np
from ase.utils.abc import Optimizable

if TYPE_CHECKING:
    from nvdyn_ase.optimize.driver import AtomsDriver


class AtomsList(Optimizable):
    """Atoms one after the other, as an object that ASE's optimizers and integrators can hold.

    Coordinates and gradients are those of all systems, laid end to end; the value is the sum of the
    energies, and everything has converged when each system has, or has failed.

    Parameters
    ----------
    systems
        The user's Atoms, or filters on them.
    driver
        Where the numbers come from; None while the facade is being made.
    """

    def __init__(self, systems: Sequence[Any], driver: "AtomsDriver | None" = None) -> None:
        self.systems = systems
        self._driver = driver

    @property
    def _starts(self) -> np.ndarray:
        """First row of each system."""
        return np.cumsum([0, *(len(item) for item in self.systems)])[:-1]

    @property
    def driver(self) -> "AtomsDriver":
        """Where the numbers come from."""
        assert self._driver is not None
        return self._driver

    # ---------------------------------------------------------------- as an Optimizable

    def ndofs(self) -> int:
        """Return the number of coordinates."""
        return 3 * sum(len(atoms) for atoms in self.systems)

    def get_x(self) -> np.ndarray:
        """Return the positions, flat, Å, or what filters make of them."""
        batch = self.driver.gather()
        return self.driver.engine.coordinates(batch).detach().cpu().numpy().ravel().copy()

    def set_x(self, x: np.ndarray) -> None:
        """Set the positions, flat, Å."""
        self.driver.synchronise()
        rows = np.reshape(x, (-1, 3))
        for start, item in zip(self._starts, self.systems, strict=True):
            item.set_positions(rows[start : start + len(item)])
        self.driver.take_up_changes()

    def get_gradient(self) -> np.ndarray:
        """Return minus the forces with constraints applied, flat, eV/Å."""
        batch = self.driver.gather()
        return -self.driver.engine.forces(batch).detach().cpu().numpy().ravel()

    def get_value(self) -> float:
        """Return the sum of the energies, eV."""
        batch = self.driver.gather()
        return float(self.driver.engine.energy(batch).sum())

    def gradient_norms(self, gradient: np.ndarray) -> np.ndarray:
        """Return the largest force of each system, (B,), eV/Å."""
        norms = np.linalg.norm(np.reshape(gradient, (-1, 3)), axis=1)
        return np.maximum.reduceat(norms, self._starts)

    def gradient_norm(self, gradient: np.ndarray) -> float:
        """Return the largest force of all systems that have not failed, eV/Å."""
        norms = self.gradient_norms(gradient)
        return float(np.nan if np.isnan(norms).all() else np.nanmax(norms))

    def converged(self, gradient: np.ndarray, fmax: Any) -> bool:
        """Say whether every system is below ``fmax``, eV/Å; one number or one per system."""
        return bool((self.gradient_norms(gradient) < np.asarray(fmax)).all())

    def iterimages(self) -> Iterator[ase.Atoms]:
        """Iterate over the Atoms."""
        self.driver.synchronise()
        return iter(self.driver.atoms)

    # ---------------------------------------------------------------- as MolecularDynamics asks

    def get_masses(self) -> np.ndarray:
        """Return the masses of all atoms, (V,), amu."""
        return np.concatenate([atoms.get_masses() for atoms in self.systems])

    def get_positions(self) -> np.ndarray:
        """Return the positions of all atoms, (V, 3), Å."""
        return np.concatenate([atoms.get_positions() for atoms in self.systems])

    def get_momenta(self) -> np.ndarray:
        """Return the momenta of all atoms, (V, 3)."""
        return np.concatenate([atoms.get_momenta() for atoms in self.systems])

    def get_cell(self) -> np.ndarray:
        """Return the cell of each system, (B, 3, 3), Å."""
        return np.array([atoms.cell.array for atoms in self.systems])

    def get_volume(self) -> np.ndarray:
        """Return the volume of each system, (B,), Å³; zero where there is none."""
        return np.abs(np.linalg.det(self.get_cell()))

    def get_global_number_of_atoms(self) -> int:
        """Return the number of atoms."""
        return len(self)

    @property
    def constraints(self) -> list:
        """The constraints of all systems."""
        return [constraint for atoms in self.systems for constraint in atoms.constraints]

    def get_number_of_degrees_of_freedom(self) -> np.ndarray:
        """Return the number of degrees of freedom of each system, (B,).

        NaN where a constraint fails to say: the engine will end that system, with the reason.

        Raises
        ------
        NotImplementedError
            A constraint of which ASE does not know how many it takes.
        """
        counts: list[float] = []
        for index, atoms in enumerate(self.systems):
            try:
                counts.append(atoms.get_number_of_degrees_of_freedom())
            except NotImplementedError:
                kinds = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
                raise NotImplementedError(
                    f"structure {index}: ASE does not know how many degrees of freedom its "
                    f"constraints ({kinds}) leave, which this thermostat needs"
                ) from None
            except Exception:
                counts.append(np.nan)
        return np.array(counts)

    def get_kinetic_energy(self) -> float:
        """Return the sum of the kinetic energies, eV."""
        return float(sum(atoms.get_kinetic_energy() for atoms in self.systems))

    def has(self, name: str) -> bool:
        """Give every system momenta if it has none, and say that all have."""
        for atoms in self.systems:
            if name == "momenta" and not atoms.has(name):
                atoms.set_momenta(np.zeros((len(atoms), 3)))
        return all(atoms.has(name) for atoms in self.systems)

    def __len__(self) -> int:
        """Return the number of atoms."""
        return sum(len(atoms) for atoms in self.systems)
