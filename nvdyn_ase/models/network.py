"""What networks on pairs of atoms share: from their energy to forces and stress."""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nvdyn_ase.data import FIELDS, Batch, Level, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.chunks import check_size, chunks
from nvdyn_ase.models.devices import is_same_device
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.pair_geometry import are_reversed, sums_by_atom, vectors, volumes
from nvdyn_ase.models.pair_model import PairModel
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs


class Bonds(NamedTuple):
    """The pairs that a network is given, each once, system by system.

    Parameters
    ----------
    pair
        (U,) int64, place in the list of pairs.
    i, j
        (U,) int64, the atoms, counted over the batch.
    vector
        (U, 3), from i to j, Å, float64.
    """

    pair: Int[Tensor, " U"]
    i: Int[Tensor, " U"]
    j: Int[Tensor, " U"]
    vector: Float[Tensor, "U 3"]


def find_bonds(batch: Batch, flat: FlatPairs, half: bool, cutoff: float) -> Bonds:
    """Pick the pairs of a list that are within a cutoff; it waits for the device.

    Parameters
    ----------
    batch, flat
        The systems and their pairs.
    half
        Each pair is there once.
    cutoff
        Å.
    """
    vector = vectors(batch, flat)
    kept = (vector * vector).sum(1) <= cutoff**2
    if not half:
        kept = kept & ~are_reversed(flat)
    pair = kept.nonzero().view(-1)
    return Bonds(pair, flat.i[pair], flat.j[pair], vector[pair])


def all_bonds(batch: Batch, flat: FlatPairs) -> Bonds:
    """Take all pairs of a list that has each once, also those beyond the cutoff."""
    pair = torch.arange(len(flat.i), device=flat.i.device)
    return Bonds(pair, flat.i, flat.j, vectors(batch, flat))


class Part(NamedTuple):
    """Some systems of a batch, as a network takes them.

    Parameters
    ----------
    elements
        (V,) int64, places in the order of the network's.
    owners
        (V,) int64, the system of each atom.
    ptr
        (B + 1,) int64, first atom of each system, and the end.
    i, j
        (U,) int64, the atoms of bonds, each bond once.
    d
        (U, 3), from i to j, Å, in the type of the network.
    fields
        What the network asks for beyond elements and vectors; see :class:`PairNetwork`.
    """

    elements: Int[Tensor, " V"]
    owners: Int[Tensor, " V"]
    ptr: Int[Tensor, " B1"]
    i: Int[Tensor, " U"]
    j: Int[Tensor, " U"]
    d: Float[Tensor, "U 3"]
    fields: Mapping[str, Tensor]

    def both_ways(self) -> tuple[Int[Tensor, "2 D"], Float[Tensor, "D 3"]]:
        """Return the ends of directed edges and their vectors: edges u and U + u are bond u."""
        ends = torch.stack([torch.cat([self.i, self.j]), torch.cat([self.j, self.i])])
        return ends, torch.cat([self.d, -self.d])


class Answer(NamedTuple):
    """What a network says of a batch.

    Parameters
    ----------
    energy
        (B,), eV, float64.
    slope
        (U, 3), derivative of the energy by the vectors of bonds, eV/Å, float64.
    by_atom
        Extra outputs with a number for each atom, (V,), float64.
    failures
        Systems that it does not accept, with the reason.
    direct
        Forces (V, 3), eV/Å, and stress (B, 3, 3), eV/Å³, float64, of a network that gives them
        itself; then they are not made of ``slope``.
    """

    energy: Float[Tensor, " B"]
    slope: Float[Tensor, "U 3"]
    by_atom: Mapping[str, Tensor]
    failures: dict[int, str]
    direct: Mapping[str, Tensor] = {}


class PairNetwork(PairModel):
    """A network whose energy depends on vectors between atoms.

    The vectors are made in float64, and go through the network in its own type. Its derivatives by
    them are summed to forces and stress in float64, in a fixed order.

    Parameters
    ----------
    module
        The network. It is used where it is, and put into evaluation mode.
    elements
        Atomic numbers that it knows, in its order.
    cutoff, skin
        Of the pairs, Å.
    extra_outputs
        What it gives beyond energy, forces and stress; see :class:`ModelCard`.
    chunk_size
        Most bonds that go through the network at once, unless one system has more. By default that
        which is fastest on a CPU, and all elsewhere.
    dtype
        Type that the network is to compute in, ``torch.float32`` or ``torch.float64``. If it is not
        that of the network, a copy is made.

    Raises
    ------
    ValueError
        A ``chunk_size`` that is not positive.
    """

    #: What the stress is multiplied with.
    stress_factor = 1.0

    #: Bonds at once on a CPU by default; more than fit its caches are slower.
    bonds_at_once = 1000

    #: Fields of the batch that are given to the network as well.
    fields_given: tuple[str, ...] = ()

    def __init__(
        self,
        module: nn.Module,
        elements: tuple[int, ...],
        cutoff: float,
        skin: float,
        extra_outputs: frozenset[str],
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size(chunk_size)
        super().__init__(rows_by_number(elements))
        self.module: Any = module.eval()
        if dtype is not None and dtype != self._weights.dtype:
            self.module = copy.deepcopy(module).to(dtype)
        self.skin, self.chunk_size = skin, chunk_size
        self.model_card = ModelCard(
            forces_via_autograd=True,
            supports_stress=True,
            extra_outputs=extra_outputs,
            node_outputs=extra_outputs,
            neighbor_config=NeighborConfig(cutoff=cutoff, half_list=True, skin=skin),
            dtype=self._weights.dtype,
            supported_elements=frozenset(elements),
        )

    @property
    def _weights(self) -> Tensor:
        return next(self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._weights.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the network, as ``torch.nn.Module.to`` does; a type of numbers changes its own."""
        self.module.to(*args, **kwargs)
        self.model_card = self.model_card.model_copy(update={"dtype": self._weights.dtype})
        return super().to(*args, **kwargs)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other is the same network with the same weights and options."""
        if self is other:
            return True
        if type(self) is not type(other) or self._settings() != other._settings():
            return False
        return self.module is other.module or _same_network(self.module, other.module)

    def _settings(self) -> tuple[Any, ...]:
        """Return what the numbers depend on beyond the weights."""
        return self.device, self.model_card.dtype

    @abstractmethod
    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        """Return the pairs that the network is to be given."""

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        """Return the energies of some systems and of their atoms, with their graph of operations.

        For networks that do not need more than a :class:`Part`; others evaluate themselves.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs _energies or an _evaluate of its own"
        )

    def _evaluate(self, batch: Batch, elements: Int[Tensor, " V"], bonds: Bonds) -> Answer:
        """Evaluate a batch; ``elements`` are places in the order of the network's."""
        nothing = torch.empty(0, dtype=torch.float64, device=batch.device)
        found = [(nothing, nothing, nothing.view(0, 3))]
        found += [self._through(part) for part in self._parts(batch, elements, bonds)]
        energy, atomic, slope = (torch.cat(values) for values in zip(*found, strict=True))
        return Answer(energy, slope, {"atomic_energies": atomic}, {})

    def _parts(self, batch: Batch, elements: Int[Tensor, " V"], bonds: Bonds) -> Iterator[Part]:
        """Iterate over the systems of a batch, as many at a time as are to go through at once."""
        on_cpu = batch.device.type == "cpu"
        size = self.chunk_size or (self.bonds_at_once if on_cpu else None)
        dtype = self.model_card.dtype
        fields = self._fields(batch)
        if size is None:
            d = bonds.vector.to(dtype)
            yield Part(elements, batch.batch, batch.ptr, bonds.i, bonds.j, d, fields)
            return
        counts = torch.bincount(batch.batch[bonds.i], minlength=len(batch)).cpu().numpy()
        for systems, atoms, rows in chunks(batch.host_ptr, counts, counts, size):
            yield Part(
                elements=elements[atoms],
                owners=batch.batch[atoms] - systems.start,
                ptr=batch.ptr[systems.start : systems.stop + 1] - atoms.start,
                i=bonds.i[rows] - atoms.start,
                j=bonds.j[rows] - atoms.start,
                d=bonds.vector[rows].to(dtype),
                fields={
                    name: value[atoms if FIELDS[name].level is Level.NODE else systems]
                    for name, value in fields.items()
                },
            )

    def _fields(self, batch: Batch) -> dict[str, Tensor]:
        """Return the fields that the network asks for.

        Those that no system of the batch has are filled with their default, as they are for a
        system among others that have them: what is left out means the same in any company.
        """
        found = {}
        for name in self.fields_given:
            default = FIELDS[name].default
            if name in batch or default is None:
                found[name] = batch[name]
            else:
                found[name] = torch.full((len(batch), 1), default, device=batch.device)
        return found

    def _through(
        self, part: Part
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"], Float[Tensor, "U 3"]]:
        """Return the energies, those of atoms, and the derivatives by the vectors, in float64."""
        sloped = not self.model_config.outputs.isdisjoint({"forces", "stress"})
        sloped = sloped and len(part.i) > 0
        with torch.set_grad_enabled(sloped):
            d = part.d.detach().requires_grad_(sloped)
            energy, atomic = self._energies(part._replace(d=d))
            slope = torch.autograd.grad(energy.sum(), d)[0] if sloped else torch.zeros_like(d)
        return energy.detach().double(), atomic.detach().double(), slope.detach().double()

    # ---------------------------------------------------------------- the forward pass

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        return self._forward_flat(batch, pairs)

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        if not is_same_device(batch.device, self.device):
            raise ValueError(
                f"the batch is on {batch.device} and the model on {self.device}; move one, "
                "batch.to(model.device) or model.to(batch.device)"
            )
        kinds, known = self._kinds_on_device(batch), self.model_card.supported_elements
        assert kinds is not None and known is not None
        flat = pairs.flat()
        bonds = self._find_bonds(batch, flat, pairs.half)
        answer = self._evaluate(batch, kinds.clamp(max=len(known) - 1), bonds)

        positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
        # What is not finite makes all of its system NaN, though it has no bonds.
        zero = segment_sum((positions - positions).sum(1), batch.ptr) + (cell - cell).sum((1, 2))
        energy = (answer.energy + zero)[:, None]
        values = {"energy": energy, "free_energy": energy.clone()}  # a hook may add to one of them
        if answer.direct:
            values |= _direct(batch, answer.direct, zero)
        else:
            values |= self._derivatives(batch, flat, bonds, answer.slope, zero)
        for name in self.model_card.extra_outputs & self.model_config.outputs:
            values[name] = answer.by_atom[name] + zero[batch.batch]
            if name not in FIELDS:
                batch.add_key(name, values[name], Level.NODE, overwrite=True, default=torch.nan)
        asked = self.model_config.outputs | {"energy"}
        values = {name: value for name, value in values.items() if name in asked}
        failures = {**self._failures_on_device(batch, kinds), **answer.failures}
        return self._outputs(batch, values, failures)

    def _derivatives(
        self,
        batch: Batch,
        flat: FlatPairs,
        bonds: Bonds,
        slope: Float[Tensor, "U 3"],
        zero: Float[Tensor, " B"],
    ) -> dict[str, Tensor]:
        """Return forces, and the stress: its symmetric part, for there is no other."""
        pulls = torch.zeros(len(flat.i), 3, dtype=slope.dtype, device=slope.device)
        pulls = pulls.index_copy(0, bonds.pair, slope)
        forces = torch.sub(*sums_by_atom(flat, pulls, pulls)) + zero[batch.batch, None]
        if "stress" not in self.model_config.outputs:
            return {"forces": forces}
        tensors = torch.zeros(len(flat.i), 9, dtype=slope.dtype, device=slope.device)
        products = (bonds.vector[:, :, None] * slope[:, None]).view(-1, 9)
        tensors = tensors.index_copy(0, bonds.pair, products)
        virial = segment_sum(segment_sum(tensors, flat.ptr), batch.ptr) + zero[:, None]
        stress = (virial / volumes(batch["cell"].detach().double())).view(-1, 3, 3)
        return {"forces": forces, "stress": 0.5 * (stress + stress.mT) * self.stress_factor}


def _direct(
    batch: Batch, given: Mapping[str, Tensor], zero: Float[Tensor, " B"]
) -> dict[str, Tensor]:
    """Return forces and stress that a network gave; there is no stress without a volume."""
    values = {"forces": given["forces"] + zero[batch.batch, None]}
    if "stress" in given:
        flat = torch.isinf(volumes(batch["cell"].detach().double()))[:, :, None]
        values["stress"] = torch.where(flat, 0.0, given["stress"]) + zero[:, None, None]
    return values


def _same_network(one: nn.Module, other: nn.Module) -> bool:
    if repr(one) != repr(other):
        return False
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(
        torch.equal(values, others[name]) for name, values in weights.items()
    )
