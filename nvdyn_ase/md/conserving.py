"""What the facades of integrators have in common that know what is conserved."""

from typing import Any, cast

from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.optimize.facade import EngineFacade


class UnforcedFacade(MolecularDynamicsFacade):
    """Steps without forces given or returned, as some of ASE's integrators."""

    def step(self) -> None:  # type: ignore[override]
        """Do one step, as in ASE."""
        if self._driver is None:
            super(EngineFacade, self).step()  # ASE's own takes no forces
        else:
            EngineFacade.step(self)


class ConservingFacade(UnforcedFacade):
    """Steps without forces given or returned, and knows what is conserved."""

    def _conserved(self) -> Any:
        """Return the engine's conserved energy, eV: a number for one Atoms, (B,) for several."""
        driver, engine = self._driver, cast(Any, self.engine)
        assert driver is not None
        driver.take_up_changes()
        energy = engine.conserved_energy(driver.together()).detach().cpu().numpy().ravel()
        return energy.item() if self._single else energy
