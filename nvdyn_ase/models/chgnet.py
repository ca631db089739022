"""``CHGNetModel``: CHGNet for a batch, from the neighbour list on.

It comes with ``pip install 'nvdyn_ase[chgnet]'``, weights included.
"""

import io
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from ase import units
from jaxtyping import Float, Int
from loguru import logger
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, Level, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.chgnet_graph import Bonds, chunks, find_angles, find_bonds
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.pair_geometry import sums_by_atom, volumes
from nvdyn_ase.models.pair_model import PairModel
from nvdyn_ase.neighbors import DevicePairs, Pairs

try:
    from chgnet.model.composition_model import AtomRef
    from chgnet.model.model import BatchedGraph, CHGNet
except ModuleNotFoundError as error:
    raise needs_extra("chgnet", error) from error

# CHGNet's own factor from eV/Å³ to GPa; its calculator goes back with ``stress_weight``.
_GPA = 160.21766208

# Bonds and angles in one pass by default. On a CPU more than fits its caches is slower; elsewhere
# an angle takes some 20 kB.
_AT_ONCE = {"cpu": 2**12}
_AT_ONCE_ELSEWHERE = 2**19


class CHGNetModel(PairModel):
    """CHGNet, the charge-informed universal potential for crystals of 94 elements.

    B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). The graphs are made of pairs of atoms in
    float64, and go through the network's own layers in the network's own type, float32 as it comes.
    So the numbers are those of ``chgnet.model.dynamics.CHGNetCalculator`` within that type, but for
    the stress of a left-handed cell, which has the wrong sign there.

    It gives ``energy``, and ``forces``, ``stress``, ``magmoms`` (absolute values, μB),
    ``free_energy`` (the energy) and ``atomic_energies`` if asked. A system need not be periodic or
    have a cell. Elements beyond Pu and positions that are not finite are failures; see
    :class:`PairModel`.

    A forward pass waits for the device, to learn how many bonds and angles there are.

    Parameters
    ----------
    module
        A ``chgnet.model.CHGNet``. It is used where it is, and put into evaluation mode.
    on_isolated_atoms
        What to do about systems with an atom that has no neighbour within 6 Å, as in CHGNet, which
        was not trained on any: ``"ignore"``; ``"warn"`` says so in the log once; with ``"error"``
        the system is a failure.
    stress_weight
        What CHGNet's stress in GPa is multiplied with, as in CHGNet's calculator.
    skin
        Of the neighbour list, Å.
    chunk_size
        Most bonds and angles that go through the network at once, unless one system has more. By
        default that which is fastest on the CPU, or takes some 10 GB on a GPU.

    Raises
    ------
    ValueError
        An unknown ``on_isolated_atoms``, or a ``chunk_size`` that is not positive.
    """

    def __init__(
        self,
        module: CHGNet,
        *,
        on_isolated_atoms: str = "warn",
        stress_weight: float = units.GPa,
        skin: float = 0.5,
        chunk_size: int | None = None,
    ) -> None:
        if on_isolated_atoms not in ("ignore", "warn", "error"):
            raise ValueError(
                f"on_isolated_atoms must be 'ignore', 'warn' or 'error', not {on_isolated_atoms!r}"
            )
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be positive, not {chunk_size}")
        elements = tuple(range(1, module.atom_embedding.embedding.num_embeddings + 1))
        super().__init__(rows_by_number(elements))
        self.module = module.eval()
        self.on_isolated_atoms, self.stress_weight = on_isolated_atoms, stress_weight
        self.skin, self.chunk_size = skin, chunk_size
        self._apart = _tells_apart_systems_without_angles(module)
        self._warned = False
        references = module.composition_model
        by_atom = module.mlp_first and (references is None or type(references) is AtomRef)
        self.model_card = ModelCard(
            forces_via_autograd=True,
            supports_stress=True,
            extra_outputs=frozenset({"magmoms"} | ({"atomic_energies"} if by_atom else set())),
            neighbor_config=NeighborConfig(
                cutoff=float(module.graph_converter.atom_graph_cutoff), half_list=True, skin=skin
            ),
            dtype=module.bond_embedding.weight.dtype,
            supported_elements=frozenset(elements),
        )

    def __repr__(self) -> str:
        """Say which version, and what is not as usual."""
        names = ("on_isolated_atoms", "skin", "chunk_size")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"CHGNetModel({self.module.version or 'custom'}, {options})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.module.bond_embedding.weight.device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the network, as ``torch.nn.Module.to`` does; a type of numbers changes its own."""
        self.module.to(*args, **kwargs)
        dtype = self.module.bond_embedding.weight.dtype
        self.model_card = self.model_card.model_copy(update={"dtype": dtype})
        return super().to(*args, **kwargs)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other is CHGNet with the same weights and options."""
        if self is other:
            return True
        if not isinstance(other, CHGNetModel) or self._settings() != other._settings():
            return False
        return self.module is other.module or _same_network(self.module, other.module)

    def _settings(self) -> tuple[Any, ...]:
        return self.on_isolated_atoms, self.stress_weight, self.device, self.model_card.dtype

    # ---------------------------------------------------------------- the forward pass

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        return self._forward_flat(batch, pairs)

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        if batch.device != self.device:
            raise ValueError(
                f"the batch is on {batch.device} and the model on {self.device}; move one, "
                "batch.to(model.device) or model.to(batch.device)"
            )
        kinds = self._kinds_on_device(batch)
        assert kinds is not None
        numbers = kinds.clamp(max=len(self.model_card.supported_elements or ()) - 1) + 1
        converter = self.module.graph_converter
        cutoffs = converter.atom_graph_cutoff, converter.bond_graph_cutoff
        flat = pairs.flat()
        bonds = find_bonds(batch, flat, pairs.half, *cutoffs)
        found = self._network(batch, numbers, bonds)
        failures = {**self._failures_on_device(batch, kinds), **self._lonely(bonds)}

        pulls = torch.zeros(len(flat.i), 3, dtype=torch.float64, device=batch.device)
        pulls = pulls.index_copy(0, bonds.pair, found.slope)
        positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
        # What is not finite makes all of its system NaN, though it has no bonds.
        zero = segment_sum((positions - positions).sum(1), batch.ptr) + (cell - cell).sum((1, 2))
        energy = (found.energy + zero)[:, None]
        values = {
            "energy": energy,
            "free_energy": energy.clone(),  # a hook may add to the energy in place
            "forces": torch.sub(*sums_by_atom(flat, pulls, pulls)) + zero[batch.batch, None],
            "stress": self._stress(batch, bonds, found.slope, zero),
        }
        for name in self.model_card.extra_outputs & self.model_config.outputs:
            values[name] = getattr(found, name) + zero[batch.batch]
            if name not in FIELDS:
                batch.add_key(name, values[name], Level.NODE, overwrite=True, default=torch.nan)
        asked = self.model_config.outputs | {"energy"}
        return self._outputs(batch, {k: v for k, v in values.items() if k in asked}, failures)

    def _stress(
        self, batch: Batch, bonds: Bonds, slope: Float[Tensor, "U 3"], zero: Float[Tensor, " B"]
    ) -> Float[Tensor, "B 3 3"]:
        """Return the symmetric part of the derivative by the strain, which is all of it."""
        virial = (bonds.vector[:, :, None] * slope[:, None]).view(-1, 9)
        ptr = torch.as_tensor(np.concatenate([[0], np.cumsum(bonds.num_bonds)]))
        virial = segment_sum(virial, ptr.to(batch.device)) + zero[:, None]
        stress = (virial / volumes(batch["cell"].detach().double())).view(-1, 3, 3)
        return 0.5 * (stress + stress.mT) * (_GPA * self.stress_weight)

    def _lonely(self, bonds: Bonds) -> dict[int, str]:
        """Return the systems with isolated atoms as failures, if that is wanted."""
        rows = np.flatnonzero(bonds.isolated)
        if not len(rows) or self.on_isolated_atoms == "ignore":
            return {}
        cutoff = self.module.graph_converter.atom_graph_cutoff
        problem = f"an atom has no neighbour within {cutoff} Å, which CHGNet was not trained on"
        if self.on_isolated_atoms == "error":
            return {int(row): f"{problem} (on_isolated_atoms='error')" for row in rows}
        if not self._warned:
            self._warned = True
            logger.warning("In {} of {} systems {}.", len(rows), len(bonds.isolated), problem)
        return {}

    # ---------------------------------------------------------------- through the network

    def _network(self, batch: Batch, numbers: Int[Tensor, " V"], bonds: Bonds) -> "_Found":
        """Evaluate the systems, some at a time."""
        at_once = self.chunk_size or _AT_ONCE.get(batch.device.type, _AT_ONCE_ELSEWHERE)
        nothing = torch.empty(0, dtype=torch.float64, device=batch.device)
        parts = [_Found(nothing, nothing.view(0, 3), nothing, nothing)]
        for systems, atoms, rows in chunks(batch.host_ptr, bonds, at_once, self._apart):
            owners = batch.batch[atoms] - systems.start
            first, second = (ends[rows] - atoms.start for ends in (bonds.i, bonds.j))
            parts.append(self._chunk(numbers[atoms], owners, first, second, bonds.vector[rows]))
        energy, slope, energies, magmoms = (torch.cat(part) for part in zip(*parts, strict=True))
        return self._with_references(batch, numbers, _Found(energy, slope, energies, magmoms))

    def _chunk(
        self,
        numbers: Int[Tensor, " V"],
        owners: Int[Tensor, " V"],
        i: Int[Tensor, " U"],
        j: Int[Tensor, " U"],
        vector: Float[Tensor, "U 3"],
    ) -> "_Found":
        outputs, module = self.model_config.outputs, self.module
        by_atom = "atomic_energies" in outputs & self.model_card.extra_outputs
        sloped = not outputs.isdisjoint({"forces", "stress"}) and len(i) > 0
        with torch.set_grad_enabled(sloped):
            d = vector.to(self.model_card.dtype).requires_grad_(sloped)
            raw = module._compute(
                self._graph(numbers, owners, i, j, d),
                compute_magmom="magmoms" in outputs,
                return_site_energies=by_atom,
            )
            energy = raw["e"] * raw["atoms_per_graph"] if module.is_intensive else raw["e"]
            slope = torch.zeros_like(d)
            if sloped:
                slope = torch.autograd.grad(energy.sum(), d)[0]
        none = energy.new_empty(0).double()
        return _Found(
            energy.detach().double(),
            slope.detach().double(),
            torch.cat(raw["site_energies"]).detach().double() if by_atom else none,
            torch.cat(raw["m"]).detach().double() if "m" in raw else none,
        )

    def _graph(
        self,
        numbers: Int[Tensor, " V"],
        owners: Int[Tensor, " V"],
        i: Int[Tensor, " U"],
        j: Int[Tensor, " U"],
        d: Float[Tensor, "U 3"],
    ) -> BatchedGraph:
        """Return the graphs of some systems; bond u is the directed edges u and U + u."""
        module = self.module
        centers, ends = torch.cat([i, j]), torch.cat([j, i])
        bond = torch.arange(len(i), device=i.device)
        edge_bond = torch.cat([bond, bond])
        toward = torch.cat([-d, d])  # from the end of a directed edge to its start
        nowhere = torch.zeros_like(toward)
        bases, short_bases, directions = module.bond_basis_expansion(
            center=toward,
            neighbor=nowhere,
            undirected2directed=bond,
            image=nowhere,
            lattice=torch.eye(3, dtype=d.dtype, device=d.device),
        )
        lengths = d.detach().norm(dim=1)
        short = (lengths < module.graph_converter.bond_graph_cutoff).nonzero().view(-1)
        one, other = find_angles(centers, torch.cat([short, short + len(i)]))
        angles = module.angle_basis_expansion(directions[one], directions[other])
        return BatchedGraph(
            atomic_numbers=numbers,
            bond_bases_ag=bases,
            bond_bases_bg=short_bases,
            angle_bases=angles,
            batched_atom_graph=torch.stack([centers, ends], 1),
            batched_bond_graph=torch.stack([centers[one], edge_bond[one], edge_bond[other]], 1),
            atom_owners=owners,
            directed2undirected=edge_bond,
            atom_positions=(),
            strains=(),
            volumes=(),
        )

    def _with_references(
        self, batch: Batch, numbers: Int[Tensor, " V"], found: "_Found"
    ) -> "_Found":
        """Add the energies of the elements, of which the network is told to give the rest."""
        references = self.module.composition_model
        if references is None:
            return found
        sizes = torch.as_tensor(batch.num_nodes_list, device=batch.device).double()
        if type(references) is AtomRef:
            by_atom = references.fc.weight.detach().double()[0, numbers - 1]
            energy = segment_sum(by_atom, batch.ptr)
            energy = energy / sizes if references.is_intensive else energy
            if len(found.atomic_energies):
                found = found._replace(atomic_energies=found.atomic_energies + by_atom)
        else:
            own = torch.split(numbers, batch.num_nodes_list)
            graphs = [SimpleNamespace(atomic_number=one) for one in own]
            with torch.no_grad():
                energy = references(graphs).double()
        energy = energy * sizes if self.module.is_intensive else energy
        return found._replace(energy=found.energy + energy)


class _Found(NamedTuple):
    """What the network says; no rows where nothing was asked.

    Parameters
    ----------
    energy
        (B,), eV.
    slope
        (U, 3), derivative of the energy by the vectors of bonds, eV/Å.
    atomic_energies
        (V,), eV.
    magmoms
        (V,), μB.
    """

    energy: Float[Tensor, " B"]
    slope: Float[Tensor, "U 3"]
    atomic_energies: Float[Tensor, " V"]
    magmoms: Float[Tensor, " V"]


def from_calculator(calculator: Any, **options: Any) -> CHGNetModel | None:
    """Return the model of a ``CHGNetCalculator``; None if a network of another class is inside."""
    module = calculator.model
    if type(module) is not CHGNet:
        return None
    settings = {
        "on_isolated_atoms": module.graph_converter.on_isolated_atoms,
        "stress_weight": calculator.stress_weight,
    }
    return CHGNetModel(module, **{**settings, **options})


def pretrained(version: str = "0.3.0", **options: Any) -> CHGNetModel:
    """Return a model with weights that come with CHGNet, on the CPU.

    Parameters
    ----------
    version
        ``"0.3.0"``, ``"0.2.0"`` or ``"r2scan"``.
    **options
        Arguments of :class:`CHGNetModel`.
    """
    with redirect_stdout(io.StringIO()):  # it says how many parameters there are
        module = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
    return CHGNetModel(module, **options)


def _tells_apart_systems_without_angles(module: CHGNet) -> bool:
    """Say whether a system without angles depends on there being others that have some.

    The layers of the bond graph are passed over if there is no angle at all, and change every bond
    if there are, by a constant or a normalisation, where a network has these.
    """
    layers = [layer for layer in module.bond_conv_layers if layer is not None]
    return any(
        layer.bond_norm is not None
        or not layer.use_mlp_out
        or any(name.endswith("bias") for name, _ in layer.mlp_out.named_parameters())
        for layer in layers
    )


def _same_network(one: CHGNet, other: CHGNet) -> bool:
    if repr(one) != repr(other) or one.is_intensive is not other.is_intensive:
        return False
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(
        torch.equal(values, others[name]) for name, values in weights.items()
    )
