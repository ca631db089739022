"""All constraints of a batch, in the order in which each system has them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max, segment_sum
from nvdyn_ase.dynamics.constraints.hosted import Hosted, HostedKind, Raised
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member


class BatchConstraints:
    """The constraints of one batch.

    Atoms marked in the field ``fixed`` are held first. Then come the constraints that ride in
    ``batch.constraints``, round after round: in each round those of one kind act at once, for all
    systems. A constraint is in the first round after all that come before it in its system and act
    on an atom that it acts on too, so that those of a system act as if one after the other. Objects
    that are no ``Description`` act on the host, one system at a time: correct, and slower.

    Parameters
    ----------
    batch
        The batch; what it has is looked up once, here.

    Attributes
    ----------
    fixed
        Atoms that are held by the field of that name, (V, 1); None if there are none.
    constrained
        Whether the system of an atom has constraints, (V, 1); None if no system has.
    """

    def __init__(self, batch: Batch) -> None:
        self._source = self._sources(batch)
        self.fixed: Bool[Tensor, "V 1"] | None = None
        if "fixed" in batch and bool(batch["fixed"].any()):
            self.fixed = batch["fixed"].view(-1, 1)
        self._descriptions = [[_described(own) for own in each] for each in batch.constraints]
        self._kinds = _kinds(batch, self._descriptions)
        self._hosted = [kind for kind in self._kinds if isinstance(kind, HostedKind)]
        self.constrained = self._constrained(batch) if self else None
        self._dof: Float[Tensor, "B 1"] | None = None
        self._uncounted: dict[int, Raised] = {}  # who cannot say how many of these are taken
        self._raised: dict[int, Raised] = {}

    def _constrained(self, batch: Batch) -> Bool[Tensor, "V 1"]:
        has = torch.tensor([bool(own) for own in self._descriptions], device=batch.device)
        if self.fixed is not None:
            has = has | (segment_max(self.fixed.view(-1).double(), batch.ptr) > 0)
        return has.index_select(0, batch.batch).view(-1, 1)

    @staticmethod
    def _sources(batch: Batch) -> tuple[Any, ...]:
        if "fixed" not in batch:
            return None, None, batch.constraints
        return batch["fixed"], batch["fixed"]._version, batch.constraints

    def are_of(self, batch: Batch) -> bool:
        """Say whether they are still those of the batch, as far as the host can tell."""
        now, version, objects = self._sources(batch)
        return now is self._source[0] and version == self._source[1] and objects is self._source[2]

    def __bool__(self) -> bool:
        """Whether anything is constrained."""
        return self.fixed is not None or bool(self._kinds)

    def forces(self, batch: Batch, md: bool = False) -> Float[Tensor, "V 3"]:
        """Return the forces that an optimizer sees or, with ``md``, an integrator.

        As in ASE an integrator sees the forces of constraints that have a potential only: those
        that hold atoms act on its positions and momenta.
        """
        forces = batch["forces"]
        if self.fixed is not None and not md:
            forces = torch.where(self.fixed, 0.0, forces)
        for kind in self._kinds:
            if kind.has_potential or not md:
                forces = kind.forces(batch, forces, md)
        return forces

    def steps_of_forces(
        self, batch: Batch
    ) -> Iterator[tuple[Kind, Float[Tensor, "V 3"], Float[Tensor, "V 3"]]]:
        """Yield what acts on the forces that an optimizer sees, and these before and after it."""
        forces = batch["forces"]
        if self.fixed is not None:
            forces = torch.where(self.fixed, 0.0, forces)
        for kind in self._kinds:
            before, forces = forces, kind.forces(batch, forces)
            yield kind, before, forces

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Return where a move from old to new is allowed to end."""
        if self.fixed is not None:
            new = torch.where(self.fixed, old, new)
        for kind in self._kinds:
            new = kind.positions(batch, old, new)
        return new

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return the velocities that are allowed at the present positions."""
        if self.fixed is not None:
            velocities = torch.where(self.fixed, 0.0, velocities)
        for kind in self._kinds:
            velocities = kind.velocities(batch, velocities)
        return velocities

    def noise(self, batch: Batch, noise: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return random forces as an integrator has to use them."""
        for kind in self._kinds:
            noise = kind.noise(batch, noise)
        return noise

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Return the energy with what the constraints add to it."""
        for kind in self._kinds:
            if kind.has_potential:
                energy = kind.energy(batch, energy)
        return energy

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
        """Return the stress that a relaxation of the cell sees; the very same if nobody cares."""
        for kind in self._kinds:
            if kind.adjusts_stress:
                stress = kind.stress(batch, stress)
        return stress

    def cell(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B 3 3"]:
        """Return the cell that a change from old to new is allowed to end at.

        It is what ``ase.Atoms.set_cell`` would store; the very same as new if nobody cares.
        """
        allowed = new
        for kind in self._kinds:
            if kind.adjusts_cell:
                allowed = kind.cell(batch, old, allowed)
        if allowed is new:
            return new
        # A cell that nobody moves is not touched, whoever shares its batch.
        moves = (new != old).view(-1, 9).any(1).view(-1, 1, 1)
        return torch.where(moves, allowed, new)

    def degrees_of_freedom(self, batch: Batch, needed: bool = True) -> Float[Tensor, "B 1"]:
        """Return the number of degrees of freedom of each system, as ASE counts them.

        A constraint that cannot say how many it takes away, as ``FixSymmetry`` cannot, counts as
        taking none. If the number is needed, that is a failure of its own system, which
        :meth:`take_raised` tells.
        """
        if self._dof is None:
            counts = 3.0 * np.asarray(batch.num_nodes_list, float)
            for row, own in enumerate(self._descriptions):
                counts[row] -= sum(self._removed_dof(batch, row, one) for one in own)
            dof = torch.from_numpy(counts).to(batch["positions"])
            if self.fixed is not None:
                dof = dof - 3.0 * segment_sum(self.fixed.view(-1).to(dof), batch.ptr)
            self._dof = dof.view(-1, 1)
        if needed and self._uncounted:
            self._raised = {**self._uncounted, **self._raised}
        return self._dof

    def _removed_dof(self, batch: Batch, row: int, description: Description) -> int:
        try:
            return description.removed_dof(batch.num_nodes_list[row])
        except Exception as error:
            raised = Raised.by(description, "get_removed_dof", error)
            self._uncounted.setdefault(row, raised)
            return 0

    def note_failures(self) -> list[Bool[Tensor, " B"] | None]:
        """Return who could not be held so far, for :meth:`only_failures_of`."""
        return [kind.failed for kind in self._kinds]

    def only_failures_of(
        self, moving: Bool[Tensor, "B 1"], before: list[Bool[Tensor, " B"] | None]
    ) -> None:
        """Forget failures, since those noted before, to hold systems that did not move."""
        for kind, old in zip(self._kinds, before, strict=True):
            if kind.failed is not None and kind.failed is not old:
                since = kind.failed & moving.view(-1)
                kind.failed = since if old is None else since | old

    @property
    def act_on_host(self) -> bool:
        """Whether some of them do."""
        return bool(self._hosted)

    def take_raised(self) -> dict[int, Raised]:
        """Return what constraints could not do or say on the host, by row; forget it."""
        raised, self._raised = self._raised, {}
        for kind in self._hosted:
            raised, kind.raised = {**kind.raised, **raised}, {}
        return raised

    def failures(self) -> list[tuple[Bool[Tensor, " B"], str]]:
        """Return which systems could not be held so far, on the device, and why."""
        return [(kind.failed, kind.reason) for kind in self._kinds if kind.failed is not None]


def _described(constraint: Any) -> Description:
    return constraint if isinstance(constraint, Description) else Hosted(constraint)


def _kinds(batch: Batch, descriptions: list[list[Description]]) -> list[Kind]:
    """Return what acts, in order."""
    rounds: list[dict[type[Description], list[Member[Any]]]] = []
    for row, (own, size) in enumerate(zip(descriptions, batch.num_nodes_list, strict=True)):
        if not own:
            continue
        next_round = np.zeros(size, int)  # for whatever acts on an atom
        for description in own:
            atoms = description.atoms()
            if atoms is not None and not len(atoms):
                continue
            where: Any = slice(None) if atoms is None else atoms
            place = int(next_round[where].max())
            next_round[where] = place + 1
            if place == len(rounds):
                rounds.append({})
            rounds[place].setdefault(type(description), []).append(Member(row, description))
    kinds = []
    for each in rounds:
        # In an order that does not depend on who is in the batch.
        for described, members in sorted(each.items(), key=lambda item: item[0].__name__):
            kind = described.together(batch, members)
            kind.members = members
            kinds.append(kind)
    return kinds
