"""``D3``: Grimme's dispersion correction for a batch, with the terms of torch-dftd.

The package comes with ``pip install 'nvdyn_ase[d3]'``.
"""

from typing import Any

import torch
from ase.units import Bohr
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.devices import are_together
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, PairNetwork, Part, find_bonds
from nvdyn_ase.models.registry import as_model
from nvdyn_ase.models.sums import SumModel
from nvdyn_ase.neighbors import FlatPairs

try:
    from torch_dftd.dftd3_xc_params import get_dftd3_default_params
    from torch_dftd.functions.dftd3 import d3_autoang, d3_autoev, edisp
    from torch_dftd.nn.dftd3_module import DFTD3Module
except ModuleNotFoundError as error:
    raise needs_extra("d3", error) from error

_ELEMENTS = tuple(range(1, 95))


class D3(PairNetwork):
    """The DFT-D3 dispersion correction, without three-body terms.

    S. Grimme, J. Antony, S. Ehrlich and H. Krieg, J. Chem. Phys. 132, 154104 (2010); S. Grimme,
    S. Ehrlich and L. Goerigk, J. Comput. Chem. 32, 1456 (2011), for the damping ``"bj"``. Equal to
    ``torch_dftd``'s ``TorchDFTD3Calculator``, whose terms, tables and conversion factors these are.
    A correction is added to a model with :class:`nvdyn_ase.models.SumModel`.

    It gives ``energy``, and ``forces``, ``stress`` and ``free_energy`` (the energy) if asked.
    Elements beyond plutonium and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    Parameters
    ----------
    xc
        The functional that is corrected.
    damping
        ``"zero"``, ``"bj"``, ``"zerom"`` or ``"bjm"``.
    cutoff, cnthr
        How far dispersion and coordination numbers reach, Å; 95 and 40 bohr by default. An atom in
        a solid has tens of thousands of neighbours within the first.
    cutoff_smoothing
        ``"poly"`` brings both to zero within the last bohr, ``"none"`` cuts them off.
    dtype
        Type of the numbers in the terms.
    skin
        How much further than the cutoff the list of pairs reaches, Å.
    chunk_size
        Most pairs at once, unless one system has more; each takes some kB.

    Raises
    ------
    ValueError
        An unknown functional or damping, or a cutoff or size that is not positive.
    """

    def __init__(
        self,
        xc: str = "pbe",
        damping: str = "zero",
        *,
        cutoff: float = 95.0 * Bohr,
        cnthr: float = 40.0 * Bohr,
        cutoff_smoothing: str = "none",
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
        chunk_size: int = 2**17,
    ) -> None:
        if cutoff_smoothing not in ("none", "poly"):
            raise ValueError(f"cutoff_smoothing must be 'none' or 'poly', not {cutoff_smoothing!r}")
        module = DFTD3Module(
            get_dftd3_default_params(damping, xc),
            cutoff=cutoff,
            cnthr=min(cnthr, cutoff),
            dtype=dtype,
            cutoff_smoothing=cutoff_smoothing,
        )
        self._take(module, damping, skin, chunk_size)

    @classmethod
    def of_module(
        cls, module: Any, damping: str, *, skin: float = 0.5, chunk_size: int = 2**17
    ) -> "D3":
        """Return the model of a ``torch_dftd.nn.dftd3_module.DFTD3Module``."""
        model = cls.__new__(cls)
        model._take(module, damping, skin, chunk_size)
        return model

    def _take(self, module: Any, damping: str, skin: float, chunk_size: int) -> None:
        self.damping = damping
        super().__init__(
            module, _ELEMENTS, float(module.cutoff), skin, frozenset(), chunk_size=chunk_size
        )

    def __repr__(self) -> str:
        """Say the damping and the cutoffs."""
        numbers = f"cutoff={self.module.cutoff!r}, cnthr={self.module.cnthr!r}"
        return f"D3(damping={self.damping!r}, {numbers}, params={self.module.params})"

    @property
    def _weights(self) -> Tensor:
        return self.module.c6ab

    def _settings(self) -> tuple[Any, ...]:
        module = self.module
        cutoffs = module.cutoff, module.cnthr, module.cutoff_smoothing
        return (*super()._settings(), self.damping, *cutoffs, *sorted(module.params.items()))

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, self.module.cutoff)

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        module, count, d = self.module, len(part.ptr) - 1, part.d
        nothing = d.new_zeros(len(part.elements))  # a share of each atom is not known
        if not len(d):
            return d.new_zeros(count), nothing
        energy = d3_autoev * edisp(
            part.elements + 1,
            (d * d).sum(1).sqrt() / d3_autoang,
            torch.stack([part.i, part.j]),
            *(module.c6ab, module.r0ab, module.rcov, module.r2r4, module.params),
            cutoff=module.cutoff / Bohr,
            cnthr=module.cnthr / Bohr,
            batch=part.owners,
            batch_edge=part.owners[part.i],
            cell=d.new_zeros(count, 3, 3),  # only how many there are matters
            damping=self.damping,
            cutoff_smoothing=module.cutoff_smoothing,
        )
        return energy, nothing


def from_calculator(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the model of a ``TorchDFTD3Calculator``, with that of the calculator it corrects.

    None if it has three-body terms, is the older D2, or is on another device than the other.
    """
    module = calculator.dftd_module
    if type(module) is not DFTD3Module or module.abc:
        return None
    model = D3.of_module(module, calculator.damping, **options)
    if calculator.dft is None:
        return model
    models = [as_model(calculator.dft), model]
    return SumModel(models) if are_together(models) else None
