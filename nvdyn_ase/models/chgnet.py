"""``CHGNetModel``: CHGNet for a batch, from the neighbour list on.

It comes with ``pip install 'nvdyn_ase[chgnet]'``, weights included.
"""

import io
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import units
from jaxtyping import Float, Int
from loguru import logger
from torch import Tensor, nn
from torch.func import functional_call

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.chgnet_graph import Sizes, count, find_angles
from nvdyn_ase.models.chunks import chunks
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Answer, Bonds, PairNetwork, find_bonds
from nvdyn_ase.neighbors import FlatPairs

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


class CHGNetModel(PairNetwork):
    """CHGNet, the charge-informed universal potential for crystals of 94 elements.

    B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). The graphs and their basis functions are made
    of pairs of atoms in float64, and go through the network's own layers in the network's own type,
    float32 as it comes. So the numbers are those of ``chgnet.model.dynamics.CHGNetCalculator``
    within the error of its basis functions in float32, but for the stress of a left-handed cell,
    which has the wrong sign there.

    It gives ``energy``, and ``forces``, ``stress``, ``magmoms`` (absolute values, μB),
    ``free_energy`` (the energy) and ``atomic_energies`` if asked. A system need not be periodic or
    have a cell. Elements beyond Pu and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

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
    dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.

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
        dtype: torch.dtype | None = None,
    ) -> None:
        if on_isolated_atoms not in ("ignore", "warn", "error"):
            raise ValueError(
                f"on_isolated_atoms must be 'ignore', 'warn' or 'error', not {on_isolated_atoms!r}"
            )
        self.on_isolated_atoms, self.stress_weight = on_isolated_atoms, stress_weight
        self.stress_factor = _GPA * stress_weight
        self._apart = _tells_apart_systems_without_angles(module)
        self._warned = False
        references = module.composition_model
        by_atom = module.mlp_first and (references is None or type(references) is AtomRef)
        super().__init__(
            module,
            tuple(range(1, module.atom_embedding.embedding.num_embeddings + 1)),
            float(module.graph_converter.atom_graph_cutoff),
            skin,
            frozenset({"magmoms", "atomic_energies"} if by_atom else {"magmoms"}),
            chunk_size,
            dtype,
        )

    def __repr__(self) -> str:
        """Say which version, and what is not as usual."""
        names = ("on_isolated_atoms", "skin", "chunk_size")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"CHGNetModel({self.module.version or 'custom'}, {options})"

    @property
    def _weights(self) -> Tensor:
        return self.module.bond_embedding.weight

    def _settings(self) -> tuple[Any, ...]:
        settings = self.on_isolated_atoms, self.stress_weight, self.module.is_intensive
        return *super()._settings(), *settings

    # ---------------------------------------------------------------- the forward pass

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, self.module.graph_converter.atom_graph_cutoff)

    def _evaluate(self, batch: Batch, elements: Int[Tensor, " V"], bonds: Bonds) -> Answer:
        """Evaluate the systems, some at a time."""
        numbers = elements + 1
        sizes = count(batch, bonds, self.module.graph_converter.bond_graph_cutoff)
        at_once = self.chunk_size or _AT_ONCE.get(batch.device.type, _AT_ONCE_ELSEWHERE)
        nothing = torch.empty(0, dtype=torch.float64, device=batch.device)
        parts = [_Found(nothing, nothing.view(0, 3), nothing, nothing)]
        angular = (sizes.angles > 0).tolist() if self._apart else None
        cost = sizes.bonds + sizes.angles
        for systems, atoms, rows in chunks(batch.host_ptr, sizes.bonds, cost, at_once, angular):
            owners = batch.batch[atoms] - systems.start
            first, second = (ends[rows] - atoms.start for ends in (bonds.i, bonds.j))
            parts.append(self._chunk(numbers[atoms], owners, first, second, bonds.vector[rows]))
        whole = _Found(*(torch.cat(part) for part in zip(*parts, strict=True)))
        found = self._with_references(batch, numbers, whole)
        by_atom = {"atomic_energies": found.atomic_energies, "magmoms": found.magmoms}
        return Answer(found.energy, found.slope, by_atom, self._lonely(sizes))

    def _lonely(self, sizes: Sizes) -> dict[int, str]:
        """Return the systems with isolated atoms as failures, if that is wanted."""
        rows = np.flatnonzero(sizes.isolated)
        if not len(rows) or self.on_isolated_atoms == "ignore":
            return {}
        cutoff = self.module.graph_converter.atom_graph_cutoff
        problem = f"an atom has no neighbour within {cutoff} Å, which CHGNet was not trained on"
        if self.on_isolated_atoms == "error":
            return {int(row): f"{problem} (on_isolated_atoms='error')" for row in rows}
        if not self._warned:
            self._warned = True
            logger.warning("In {} of {} systems {}.", len(rows), len(sizes.isolated), problem)
        return {}

    # ---------------------------------------------------------------- through the network

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
            d = vector.detach().requires_grad_(sloped)
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
        bases, short_bases, directions = _in_float64(
            module.bond_basis_expansion,
            center=toward,
            neighbor=nowhere,
            undirected2directed=bond,
            image=nowhere,
            lattice=torch.eye(3, dtype=d.dtype, device=d.device),
        )
        lengths = d.detach().norm(dim=1)
        short = (lengths < module.graph_converter.bond_graph_cutoff).nonzero().view(-1)
        one, other = find_angles(centers, torch.cat([short, short + len(i)]))
        angles = _in_float64(
            module.angle_basis_expansion, bond_i=directions[one], bond_j=directions[other]
        )
        dtype = self.model_card.dtype
        return BatchedGraph(
            atomic_numbers=numbers,
            bond_bases_ag=bases.to(dtype),
            bond_bases_bg=short_bases.to(dtype),
            angle_bases=angles.to(dtype),
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


def _in_float64(expansion: nn.Module, **inputs: Tensor) -> Any:
    """Return basis functions in float64, whatever the type of the network.

    Bonds in a line make angles of 0 or 180 degrees, where the derivative of the angle is a thousand
    times that of the cosine: in float32 most of the error of forces and stress is from there.
    """
    own = {name: values.double() for name, values in expansion.state_dict().items()}
    return functional_call(expansion, own, kwargs=inputs)


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
