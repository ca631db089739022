"""What every optimizer moves: the coordinates of atoms, and of cells where there are filters."""

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.cell_filters import voigt
from nvdyn_ase.dynamics.matrices import symmetric
from nvdyn_ase.dynamics.rows import Rows, largest_norm
from nvdyn_ase.dynamics.together import put_together


class Optimizer(BaseDynamics):
    """An engine that sees rows of coordinates and the forces on them, whatever they stand for.

    A method reads :meth:`coordinates`, :meth:`forces` and, for sums over a system, :meth:`rows`,
    and calls :meth:`move` or :meth:`put`. Rows are the atoms, or what filters make of atoms and
    cell; see :func:`nvdyn_ase.dynamics.filter_cells`. Node fields of the state belong to rows.
    """

    __needs_keys__ = frozenset({"forces"})
    _mutable_fields = ("positions", "cell", "strain")
    _writes_in_place: ClassVar[bool] = False

    _rows: Rows | None = None
    _rows_looked_at: tuple[Batch, Rows] | None = None
    _row_forces: tuple[Any, Tensor] | None = None

    # ---------------------------------------------------------------- rows

    def rows(self, batch: Batch) -> Rows:
        """Return which rows the batch has."""
        if self._batch is not batch:  # somebody looks at another one in between
            if self._rows_looked_at is None or self._rows_looked_at[0] is not batch:
                self._rows_looked_at = batch, Rows(batch)
            return self._rows_looked_at[1]
        if self._rows is None:
            self._rows = Rows(batch)
        return self._rows

    def new_state(
        self,
        batch: Batch,
        rows: dict[str, Tensor],
        system: dict[str, Tensor],
        block: dict[str, Tensor] | None = None,
    ) -> Batch:
        """Return a state of the systems of a batch, with fields per row, system and matrix."""
        fields = {key: (Level.NODE, tensor) for key, tensor in rows.items()}
        fields |= {key: (Level.SYSTEM, tensor) for key, tensor in system.items()}
        fields |= {key: (Level.BLOCK, tensor) for key, tensor in (block or {}).items()}
        return Batch(fields, self.rows(batch).num_nodes_list, device=batch.device)

    def follow(self, batch: Batch, state: Batch, kept: np.ndarray | None) -> None:
        """Go on with another batch and the state that belongs to it."""
        super().follow(batch, state, kept)
        self._rows = self._rows_looked_at = self._row_forces = None

    def look_up(self, batch: Batch) -> None:
        """Find what the host has to know of a batch before it is moved."""
        super().look_up(batch)
        self.rows(batch).look_up()

    def is_arranged(self, batch: Batch) -> bool:
        """Say whether what was looked up of constraints and filters is still so."""
        return super().is_arranged(batch) and self.rows(batch).are_of(batch)

    def forget_constraints(self) -> None:
        """Look constraints and filters up again, because somebody may have changed them."""
        super().forget_constraints()
        self._rows = self._rows_looked_at = self._row_forces = None
        if self._batch is not None:
            self._renew_state(self._batch)

    def _init_state(self, batch: Batch) -> None:
        super()._init_state(batch)
        if "cell_filter" in batch:
            self.state["cell_filter"] = batch["cell_filter"]  # what its rows stand for

    def _renew_state(self, batch: Batch) -> None:
        """Give systems whose rows stand for something else now a new state."""
        rows, before = self.rows(batch), self.state
        kinds = np.zeros(len(batch), int)
        if "cell_filter" in before:
            kinds = before["cell_filter"].view(-1).cpu().numpy()
        changed = kinds != rows.kinds
        changed |= np.not_equal(before.num_nodes_list, rows.num_nodes_list)
        if changed.any():
            self.begin_anew(batch, np.flatnonzero(changed))

    def begin_anew(self, batch: Batch, rows: np.ndarray) -> None:
        """Give some systems a new state; the others keep theirs."""
        if batch is not self._batch or not len(rows):
            return
        before = self.state
        self._init_state(batch)
        if len(rows) == len(batch):
            return
        if "cell_filter" in self.state and "cell_filter" not in before:
            before["cell_filter"] = torch.zeros_like(self.state["cell_filter"])
        kept = np.setdiff1d(np.arange(len(batch)), rows)
        parts = [before.index_select(kept), self.state.index_select(rows)]
        self.align_states(parts)
        self.state = put_together(parts, np.argsort(np.concatenate([kept, rows])))

    def needs(self, batch: Batch) -> frozenset[str]:
        """Return what the model has to give: the stress too, where a cell moves."""
        own = super().needs(batch)
        return own | {"stress"} if self.rows(batch).has_cells else own

    def may_need(self, batch: Batch) -> frozenset[str]:
        """Return what it may need for systems of this batch: the stress too, if cells may move."""
        own = super().may_need(batch)
        return own | {"stress"} if "cell_filter" in batch else own

    def largest_force(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the largest norm among the forces on the rows of each system."""
        return largest_norm(self.forces(batch), self.rows(batch).ptr)

    # ---------------------------------------------------------------- what a method reads

    def coordinates(self, batch: Batch) -> Float[Tensor, "R 3"]:
        """Return the coordinates."""
        rows, atoms = self.rows(batch), batch["positions"]
        deformed, strained = rows.deformed, rows.strained
        if deformed is not None:
            back = deformed.deformation(batch).inverse.transpose(1, 2)
            atoms = deformed.transformed(batch, atoms, back)
        return rows.joined(
            atoms,
            None if deformed is None else deformed.coordinates(batch),
            None if strained is None else strained.coordinates(batch),
        )

    def forces(self, batch: Batch) -> Float[Tensor, "R 3"]:
        """Return minus the derivative of the energy with respect to the coordinates."""
        rows = self.rows(batch)
        if rows.are_atoms:
            return super().forces(batch)
        keys = ("forces", "positions", "cell", *(("stress",) if rows.has_cells else ()))
        present = (rows, *((batch[key], batch[key]._version) for key in keys))
        if self._row_forces is None or not _same(self._row_forces[0], present):
            # The optimizer asks for them, and so does the convergence test.
            self._row_forces = present, self._forces_on(rows, batch)
        return self._row_forces[1]

    def _forces_on(self, rows: Rows, batch: Batch) -> Float[Tensor, "R 3"]:
        constraints, deformed, strained = self.constraints(batch), rows.deformed, rows.strained
        atoms = constraints.forces(batch)
        if not rows.has_cells:
            return rows.joined(atoms)
        stress = constraints.stress(batch, batch["stress"])
        if deformed is not None:
            atoms = deformed.transformed(batch, atoms, deformed.deformation(batch).F)
        return rows.joined(
            atoms,
            None if deformed is None else deformed.forces(batch, stress),
            None if strained is None else strained.forces(batch, stress),
        )

    def energy(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the energy whose gradient the forces are: under pressure the enthalpy, eV."""
        energy, deformed = super().energy(batch), self.rows(batch).deformed
        return energy if deformed is None else deformed.energy(batch, energy)

    def stress_of_filters(self, batch: Batch) -> Float[Tensor, "D 6"] | None:
        """Return the stress as ASE's filters of cells tell it, eV/Å³; None if there are none.

        There is a row for each system whose cell has rows beside those of its atoms, in Voigt's
        order: what may change of the stress, with the pressure, and constraints applied.
        """
        deformed = self.rows(batch).deformed
        if deformed is None:
            return None
        stress = self.constraints(batch).stress(batch, batch["stress"])
        return voigt(symmetric(deformed.stress(batch, stress)))

    # ---------------------------------------------------------------- how a method moves

    def move(self, batch: Batch, step: Float[Tensor, "R 3"]) -> None:
        """Change the coordinates by a step, as far as constraints allow."""
        self.put(batch, self.coordinates(batch) + step)

    def put(
        self,
        batch: Batch,
        coordinates: Float[Tensor, "R 3"],
        where: Bool[Tensor, "B 1"] | None = None,
    ) -> None:
        """Move to these coordinates, as far as constraints allow; only the systems ``where``."""
        rows = self.rows(batch)
        fields = ("positions", "cell", "strain") if rows.has_cells else ("positions",)
        old = {key: batch[key] for key in fields if key in batch}
        if rows.has_cells:
            self._put_with_cells(rows, batch, coordinates)
        else:
            new = rows.of_atoms(coordinates, unseen=old["positions"])
            batch["positions"] = self.constraints(batch).positions(batch, old["positions"], new)
        if where is None:
            return
        for key, tensor in old.items():
            mask = where.index_select(0, batch.batch) if key == "positions" else where
            mask = mask.view(len(mask), *[1] * (tensor.ndim - 1))
            batch[key] = torch.where(mask, batch[key], tensor)

    def _put_with_cells(self, rows: Rows, batch: Batch, new: Float[Tensor, "R 3"]) -> None:
        constraints, deformed, strained = self.constraints(batch), rows.deformed, rows.strained
        old_cell = cell = batch["cell"]
        old = batch["positions"]
        if deformed is not None:
            transformation = deformed.transformation(rows.of_deformed(new))
            cell = deformed.systems.into(cell, deformed.orig @ transformation)
        if strained is not None:
            strains = strained.allowed(rows.of_strained(new))
            batch["strain"] = strained.systems.into(batch["strain"], strains)
            cell = strained.systems.into(cell, strained.orig @ strained.transformation(strains))
        batch["cell"] = cell = constraints.cell(batch, old_cell, cell)
        if constraints or strained is not None:
            old = rows.following(batch, old_cell, cell)
        atoms = rows.of_atoms(new, unseen=old)
        if deformed is not None:
            atoms = deformed.transformed(batch, atoms, transformation)
        atoms = constraints.positions(batch, old, atoms)
        if strained is not None:
            atoms = torch.where(strained.atoms, old, atoms)
        batch["positions"] = atoms


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Say whether these are the same objects, unchanged."""
    return len(a) == len(b) and all(
        x is y or (isinstance(x, tuple) and x[0] is y[0] and x[1] == y[1])
        for x, y in zip(a, b, strict=True)
    )
