"""``MetatomicModel``: any model that metatomic has exported, such as PET-MAD.

metatomic comes with ``pip install 'nvdyn_ase[metatomic]'``; models are the user's.
"""

from collections.abc import Iterator
from os import PathLike
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.pair_geometry import are_reversed, vectors, volumes
from nvdyn_ase.models.pair_model import PairModel
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs

try:
    from metatensor.torch import Labels, TensorBlock
    from metatomic.torch import (
        ModelEvaluationOptions,
        ModelOutput,
        System,
        load_atomistic_model,
        pick_output,
        register_autograd_neighbors,
    )
except ModuleNotFoundError as error:
    raise needs_extra("metatomic", error) from error

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_SAMPLES = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


class MetatomicModel(PairModel):
    """A ``metatomic.torch.AtomisticModel``: energies from it, forces and stress by their gradient.

    The lists of neighbours
    that a model asks for are made from ours, and all systems of a batch are given to it at once, in
    its own type. Cell vectors along which a system is not periodic are zero for it, as in
    ``metatomic_ase.MetatomicCalculator``. The stress is per volume of the system's cell.

    Elements that the model does not know are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`. A forward pass waits for the device.

    Parameters
    ----------
    module
        The model, also if TorchScript has compiled it. It is used where it is.
    variant
        Which of several energies, as in the calculator's ``variants``.
    skin
        Of the neighbour list, Å.

    Raises
    ------
    ValueError
        The model gives no energy, or needs more than atoms and cells, such as charges.
    """

    def __init__(self, module: Any, *, variant: str | None = None, skin: float = 0.5) -> None:
        can = module.capabilities()
        if not any(name == "energy" or name.startswith("energy/") for name in can.outputs):
            raise ValueError("this model of metatomic gives no energy")
        if inputs := list(module.requested_inputs(use_new_names=True)):
            raise ValueError(
                f"this model of metatomic needs {', '.join(inputs)} of each system; give its "
                "calculator, which is called system by system"
            )
        elements = tuple(int(number) for number in can.atomic_types)
        super().__init__(rows_by_number(elements))
        self.module, self.variant, self.skin = module, variant, skin
        self._output = pick_output("energy", can.outputs, variant)
        by_atom = can.outputs[self._output].sample_kind == "atom"
        self._lists = module.requested_neighbor_lists()
        reach = max((one.engine_cutoff("angstrom") for one in self._lists), default=None)
        half = not any(one.full_list for one in self._lists)
        self._elements = torch.tensor(elements)
        self.model_card = ModelCard(
            forces_via_autograd=True,
            supports_stress=True,
            extra_outputs=frozenset({"atomic_energies"} if by_atom else {}),
            neighbor_config=reach and NeighborConfig(cutoff=reach, half_list=half, skin=skin),
            dtype=_DTYPES[can.dtype],
            supported_elements=frozenset(elements),
        )

    def __repr__(self) -> str:
        """Say which energy of which model."""
        name = self.module.metadata().name or "without a name"
        return f"MetatomicModel({name}, variant={self.variant!r}, skin={self.skin})"

    @property
    def device(self) -> torch.device:
        """Where the model is; the CPU if it holds no numbers."""
        for own in (*self.module.parameters(), *self.module.buffers()):
            return torch.device(own.device)
        return super().device

    def to(self, *args: Any, **kwargs: Any) -> "MetatomicModel":
        """Move the model to another device."""
        self.module.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the very same model is inside, with the same energy chosen."""
        same = isinstance(other, MetatomicModel) and self.module is other.module
        return same and self._output == other._output  # type: ignore[attr-defined]

    # ---------------------------------------------------------------- the forward pass

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute energy and forces, and what else is asked for; see :class:`PairModel`."""
        if self.model_card.neighbor_config is None:
            return self._evaluate(batch, None, half=True)
        return super().forward(batch)

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        return self._forward_flat(batch, pairs)

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        return self._evaluate(batch, pairs.flat(), pairs.half)

    def _evaluate(self, batch: Batch, flat: FlatPairs | None, half: bool) -> ModelOutputs:
        dtype, wanted = self.model_card.dtype, self.model_config.outputs
        by_atom = "atomic_energies" in wanted & self.model_card.extra_outputs
        positions = batch["positions"].detach().double()
        cell = batch["cell"].detach().double() * batch["pbc"][:, :, None]
        x = positions.to(dtype).requires_grad_()
        strain = torch.eye(3, dtype=dtype, device=batch.device).repeat(len(batch), 1, 1)
        strain.requires_grad_()
        kinds = self._kinds_on_device(batch)
        assert kinds is not None
        known = self._elements.to(batch.device)[kinds.clamp(max=len(self._elements) - 1)]
        moved = (x[:, None] @ strain[batch.batch])[:, 0]
        systems = list(_systems(batch, known, moved, cell.to(dtype) @ strain))
        for options in self._lists if flat is not None else ():
            assert flat is not None
            _add_pairs(systems, _pairs_of(batch, flat, half, options), options, dtype)
        energy, atomic = self._energies(systems, batch, by_atom)
        zero = segment_sum((positions - positions).sum(1), batch.ptr)
        forces, virial = _gradients(energy, x, strain)
        energy = (energy.detach().double() + zero)[:, None]
        stress = virial.double() / volumes(batch["cell"].detach().double())[:, :, None]
        values = {
            "energy": energy,
            "free_energy": energy.clone(),  # a hook may add to one of them
            "forces": -forces.double() + zero[batch.batch, None],
            "stress": 0.5 * (stress + stress.mT) + zero[:, None, None],
            "atomic_energies": atomic + zero[batch.batch],
        }
        asked = (wanted | {"energy"}) & (
            values.keys() - (set() if by_atom else {"atomic_energies"})
        )
        values = {name: values[name] for name in values if name in asked}
        return self._outputs(batch, values, self._failures_on_device(batch, kinds))

    def _energies(
        self, systems: list[Any], batch: Batch, by_atom: bool
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        """Return the energies of systems, with their graph, and of atoms, eV; zero if not asked."""
        atomic = torch.zeros(batch.num_nodes, dtype=torch.float64, device=batch.device)
        if not systems:
            return atomic.to(self.model_card.dtype), atomic
        output = ModelOutput(unit="eV", sample_kind="atom" if by_atom else "system")
        options = ModelEvaluationOptions(length_unit="angstrom", outputs={self._output: output})
        block = self.module(systems, options, check_consistency=False)[self._output].block()
        values, owners = block.values.view(-1), block.samples.column("system").long()
        energy = values.new_zeros(len(systems)).index_add(0, owners, values)
        if by_atom:
            rows = batch.ptr[owners] + block.samples.column("atom").long()
            atomic = atomic.index_add(0, rows, values.detach().double())
        return energy, atomic


class _Rows(NamedTuple):
    """The pairs of a list for each system: two atoms and a shift, (E, 5), and vectors, (E, 3)."""

    samples: list[Tensor]
    vectors: list[Tensor]


def _systems(batch: Batch, numbers: Tensor, positions: Tensor, cell: Tensor) -> Iterator[Any]:
    sizes = batch.num_nodes_list
    parts = zip(numbers.int().split(sizes), positions.split(sizes), strict=True)
    for row, (own, where) in enumerate(parts):
        yield System(own, where, cell[row], batch["pbc"][row])


def _pairs_of(batch: Batch, flat: FlatPairs, half: bool, options: Any) -> _Rows:
    """Pick the pairs that a list of a model is to have; it waits for the device."""
    vector = vectors(batch, flat)
    kept = (vector * vector).sum(1) <= options.engine_cutoff("angstrom") ** 2
    if not (half or options.full_list):
        kept = kept & ~are_reversed(flat)
    row = kept.nonzero().view(-1)
    first = batch.ptr[flat.system[row]]
    ends = torch.stack([flat.i[row] - first, flat.j[row] - first], 1)
    samples, vector = torch.cat([ends, flat.shift[row]], 1), vector[row]
    counts = torch.bincount(flat.system[row], minlength=len(batch)).tolist()
    own, apart = samples.int().split(counts), vector.split(counts)
    if not (half and options.full_list):
        return _Rows(list(own), list(apart))
    back = torch.cat([ends.flip(1), -flat.shift[row]], 1).int().split(counts)
    both = zip(own, back, strict=True)
    return _Rows([torch.cat(one) for one in both], [torch.cat([d, -d]) for d in apart])


def _add_pairs(systems: list[Any], rows: _Rows, options: Any, dtype: torch.dtype) -> None:
    for system, samples, vector in zip(systems, rows.samples, rows.vectors, strict=True):
        axes = torch.arange(3, device=samples.device)[:, None]
        block = TensorBlock(
            vector.to(dtype)[:, :, None],
            samples=Labels(_SAMPLES, samples, assume_unique=True),
            components=[Labels("xyz", axes)],
            properties=Labels("distance", torch.zeros_like(axes[:1])),
        )
        register_autograd_neighbors(system, block, False)
        system.add_neighbor_list(options, block)


def _gradients(energy: Tensor, x: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
    if not energy.requires_grad:  # nothing in it depends on where the atoms are
        return torch.zeros_like(x), torch.zeros_like(strain)
    found = torch.autograd.grad(energy.sum(), (x, strain), allow_unused=True)
    first, second = (
        torch.zeros_like(own) if one is None else one
        for one, own in zip(found, (x, strain), strict=True)
    )
    return first, second


def from_calculator(calculator: Any, **options: Any) -> MetatomicModel | None:
    """Return the model of a ``MetatomicCalculator``.

    None if it takes forces or stress from the model instead of the gradient, or gives more.
    """
    settings = calculator.parameters
    if settings["non_conservative"] or settings["additional_outputs"]:
        return None
    module = calculator.model()
    if module.requested_inputs(use_new_names=True):
        return None
    variant = (settings["variants"] or {}).get("energy")
    return MetatomicModel(module, **{"variant": variant, **options})


def from_file(
    path: str | PathLike[str], *, extensions_directory: str | None = None, **options: Any
) -> MetatomicModel:
    """Return the model in a file that metatomic has exported, on the CPU.

    Such a file holds code; load only what you trust.

    Parameters
    ----------
    path
        The file.
    extensions_directory
        Where the extensions of TorchScript are that the model needs, if any.
    **options
        Arguments of :class:`MetatomicModel`.

    Raises
    ------
    ValueError
        There is no such file, or it holds something else.
    """
    try:
        module = load_atomistic_model(str(path), extensions_directory=extensions_directory)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of a metatomic model: {error}") from error
    return MetatomicModel(module, **options)
