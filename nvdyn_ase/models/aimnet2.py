"""``AIMNet2Model``: AIMNet2 for a batch.

The package comes with ``pip install 'nvdyn_ase[aimnet2]'``; weights are the user's, or downloaded.
"""

import pickle
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, segment_sum
from nvdyn_ase.data.electrons import leaves_out
from nvdyn_ase.models.base import BaseModelMixin, ModelCard
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.pair_geometry import volumes
from nvdyn_ase.models.whole_model import Systems, WholeModel

try:
    from aimnet.calculators import AIMNet2Calculator
except ModuleNotFoundError as error:
    raise needs_extra("aimnet2", error) from error


class AIMNet2Model(WholeModel):
    """AIMNet2: a network for molecules that spreads the charge of a system over its atoms.

    D. M. Anstine, R. Zubatyuk and O. Isayev, Chem. Sci. 16, 10228 (2025). All systems of a batch
    are given to the package's calculator as one flat list of atoms, with the index of the molecule
    of each; it finds pairs itself, at every step, and adds dispersion and Coulomb energies as the
    network wants them. See :class:`nvdyn_ase.models.whole_model.WholeModel` for what is done before
    and after. So the numbers are those of ``aimnet.calculators.AIMNet2ASE`` within float32, in
    which the package computes; positions are taken from the first atom of each system on, so that
    a system far from the origin loses nothing.

    The charge and multiplicity of a system are ``total_charge`` and ``spin_multiplicity`` of the
    batch. Those below are for a system that came from an Atoms which does not say, whatever others
    in the batch do, and for a batch without such fields. A closed-shell network does not look at
    the multiplicity. A system that is not periodic along any direction and has a volume gets the
    stress of the forces, for which the package gives none. Elements that the network does not know,
    and charges where it is for neutral systems only, are failures.

    Parameters
    ----------
    calculator
        An ``aimnet.calculators.AIMNet2Calculator``. It is used as it is and where it is, with its
        method for Coulomb energies.
    charge, mult
        Of systems that do not say, e and 2 S + 1.
    """

    def __init__(
        self, calculator: AIMNet2Calculator, *, charge: float = 0.0, mult: float = 1.0
    ) -> None:
        self.module, self.charge, self.mult = calculator, float(charge), float(mult)
        self._dtype = calculator.keys_in["coord"]
        said = calculator.metadata or {}
        self._neutral = said.get("supports_charged_systems") is False
        self.model_card = ModelCard(
            forces_via_autograd=True,
            # A table of D3 inside of the network has no derivative by the cell.
            supports_stress=not calculator._embedded_tabulated_dftd3,
            dtype=self._dtype,
            supported_elements=_elements(calculator, said),
        )

    def __repr__(self) -> str:
        """Say how Coulomb energies are found."""
        return f"AIMNet2Model(coulomb_method={self.module.coulomb_method!r})"

    @property
    def device(self) -> torch.device:
        """Where the calculator was made."""
        return torch.device(self.module.device)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the very same calculator is inside, with the same charge and multiplicity."""
        return (
            isinstance(other, AIMNet2Model)
            and self.module is other.module
            and (self.charge, self.mult) == (other.charge, other.mult)
        )

    def _failures(self, batch: Batch) -> dict[int, str]:
        failures = super()._failures(batch)
        if self._neutral:
            charges = self._of_systems(batch, "total_charge", self.charge).tolist()
            for row, charge in enumerate(charges):
                if charge != 0 and row not in failures:
                    why = f"this network is for neutral systems; the charge is {charge:g} e"
                    failures[row] = why
        return failures

    def _evaluate(self, systems: Systems, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        relative, periodic = _relative_positions(systems), any(systems.pbc)
        data = {
            "coord": relative.to(self._dtype),
            "numbers": systems.numbers,
            "mol_idx": systems.owners,
            "charge": self._of_systems(systems.batch, "total_charge", self.charge),
        }
        if self.module.is_nse:
            data["mult"] = self._of_systems(systems.batch, "spin_multiplicity", self.mult)
        if periodic:
            data["cell"] = systems.cell
            data["pbc"] = torch.tensor(systems.pbc, device=systems.cell.device)
        strained = "stress" in wanted and self.model_card.supports_stress
        sloped = "forces" in wanted or (strained and not periodic)
        with torch.enable_grad():
            found = self.module(
                data, forces=sloped, stress=strained and periodic, validate_species=False
            )
        if strained and not periodic:
            found["stress"] = _stress_of_forces(systems.batch, relative, found["forces"].detach())
        return {name: found[name] for name in ("energy", "forces", "stress") if name in found}

    def _of_systems(self, batch: Batch, name: str, default: float) -> Float[Tensor, " B"]:
        """Return what systems say, and the default for those that do not, in any company."""
        if name not in batch:
            return torch.full((len(batch),), default, dtype=self._dtype, device=batch.device)
        said = batch[name].detach().view(-1).to(self._dtype)
        filler = FIELDS[name].default
        if default == filler:
            return said
        left_out = torch.tensor([leaves_out(own, name) for own in batch.host]).to(batch.device)
        return torch.where(left_out & (said == filler), default, said)


def from_calculator(calculator: Any, **options: Any) -> AIMNet2Model | None:
    """Return the model of an ``AIMNet2ASE``; None if another calculator is inside."""
    inside = calculator.base_calc
    if type(inside) is not AIMNet2Calculator:
        return None
    given = {"charge": calculator.charge, "mult": calculator.mult}
    return AIMNet2Model(inside, **{**given, **options})


def pretrained(
    checkpoint: str | PathLike[str] = "aimnet2",
    *,
    device: str | None = None,
    **options: Any,
) -> AIMNet2Model:
    """Return a model with published weights or those in a file.

    Parameters
    ----------
    checkpoint
        A name that aimnet knows, whose weights it downloads unless they are there already, or a
        file that it has written.
    device
        ``"cpu"`` or ``"cuda"``; by default the latter where there is one.
    **options
        Arguments of :class:`AIMNet2Model`.

    Raises
    ------
    ValueError
        No such name or file, or a file that holds something else.
    """
    try:
        calculator = AIMNet2Calculator(str(checkpoint), device=device)
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, OSError),
        *(LookupError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint of AIMNet2: {error}") from error
    return AIMNet2Model(calculator, **options)


def _elements(calculator: AIMNet2Calculator, said: Mapping[str, Any]) -> frozenset[int] | None:
    """Return the elements that a network was trained for, or those that its table has rows for."""
    if said.get("implemented_species"):
        return frozenset(map(int, said["implemented_species"]))
    table = getattr(calculator.model, "afv", None)
    return None if table is None else frozenset(range(1, len(table.weight)))


def _relative_positions(systems: Systems) -> Float[Tensor, "V 3"]:
    """Return positions from the first atom of each system on, in float64."""
    positions = systems.batch["positions"].detach().double()
    return positions - positions[systems.batch.ptr[:-1]][systems.owners]


def _stress_of_forces(
    batch: Batch, positions: Float[Tensor, "V 3"], forces: Float[Tensor, "V 3"]
) -> Float[Tensor, "B 3 3"]:
    """Return the stress of systems without periodic images: positions times forces by volume."""
    products = -(positions[:, :, None] * forces.double()[:, None]).view(-1, 9)
    stress = segment_sum(products, batch.ptr) / volumes(batch["cell"].detach().double())
    stress = stress.view(-1, 3, 3)
    return 0.5 * (stress + stress.mT)
