"""What a model and constraints say of a batch, for whoever moves it."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.constraints import BatchConstraints
from nvdyn_ase.dynamics.counts import count
from nvdyn_ase.dynamics.evaluated import Evaluated
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import PerSystemParameters
from nvdyn_ase.dynamics.rows import largest_norm
from nvdyn_ase.dynamics.splitting import Splitting
from nvdyn_ase.models.base import BaseModelMixin, ModelOutputs
from nvdyn_ase.neighbors import NeighborList


class ForwardPass(PerSystemParameters):
    """Evaluates a batch, keeps what it says current, and applies constraints to it.

    Parameters
    ----------
    model
        A batched model.
    """

    __needs_keys__: ClassVar[Iterable[str]] = frozenset()

    def __init__(self, model: BaseModelMixin) -> None:
        self.use_model(model)
        self.outputs: frozenset[str] = frozenset()
        self.splitting = Splitting()
        self._batch: Batch | None = None
        self._constraints: BatchConstraints | None = None
        self._looked_at: tuple[Batch, BatchConstraints] | None = None
        self._fmax_source: Tensor | None = None
        self._arriving: Bool[Tensor, "B 1"] | None = None
        self._arrived: Bool[Tensor, "B 1"] | None = None

    def use_model(self, model: BaseModelMixin) -> None:
        """Go on with another model, and with the pairs of atoms that it needs."""
        self.model = model
        config = model.model_card.neighbor_config
        self._neighbors = None if config is None else NeighborList(**dict(config))

    @property
    def finds_pairs(self) -> bool:
        """Whether the pairs in a batch are the engine's; otherwise they are the user's own."""
        return self._neighbors is not None

    @property
    @abstractmethod
    def takes_failures(self) -> bool:
        """Whether a system that cannot be evaluated or moved leaves alone; otherwise it raises."""

    @abstractmethod
    def active(self, batch: Batch) -> ActiveMask | None:
        """Return who moves, or None if the host knows that everyone does."""

    @abstractmethod
    def retire(self, batch: Batch, mask: Tensor, outcome: Outcome) -> None:
        """Freeze the masked systems that still move, and record how they ended."""

    @abstractmethod
    def fail(self, batch: Batch, rows: Mapping[int, str], outcome: Outcome) -> None:
        """Retire the systems in these rows, each with the reason in its ``host``."""

    @abstractmethod
    def _fire(self, stage: HookStageEnum, batch: Batch) -> None:
        """Call the hooks of a stage."""

    # ---------------------------------------------------------------- the forward pass

    def needs(self, batch: Batch) -> frozenset[str]:
        """Return the fields that the model has to give for this batch."""
        return frozenset(self.__needs_keys__)

    def may_need(self, batch: Batch) -> frozenset[str]:
        """Return the fields that it may need for systems of this batch once it moves them."""
        return frozenset(self.__needs_keys__)

    def compute(self, batch: Batch) -> ModelOutputs:
        """Evaluate the model and write what it gives into the batch.

        Raises
        ------
        RuntimeError
            The model does not give a field that the method needs, or gives one that has not as many
            rows as are declared; the message names it.
        """
        failures: dict[int, str] = {}
        if self._neighbors is not None:
            self._neighbors.update(batch)
            failures = self._neighbors.failures
        needs = self.needs(batch)
        with self.model.computing(self.outputs | needs):
            outputs = self.splitting.forward(
                self.model, batch, self._neighbors, self.takes_failures
            )
        missing = sorted(needs - outputs.keys())
        if missing:
            raise RuntimeError(
                f"{type(self).__name__} needs {', '.join(missing)}, and "
                f"{type(self.model).__name__} gives {', '.join(outputs)} only"
            )
        dtype = batch["positions"].dtype
        for key, values in outputs.items():
            other = values.is_floating_point() and values.dtype is not dtype
            values = values.to(dtype) if other else values
            if key in batch:
                batch[key] = values
            else:
                self._add_output(batch, key, values)
        batch.evaluated = Evaluated.now(batch, self.model, outputs)
        failures = outputs.failures | failures
        new = {row: why for row, why in failures.items() if "failure" not in batch.host[row]}
        if new:
            self._note_failures(batch, new)
        return outputs

    def _add_output(self, batch: Batch, key: str, values: Tensor) -> None:
        """Write an output that the batch has not had, at the level that is declared for it."""
        level = self.model.model_card.level_of(key)
        if not values.ndim or len(values) != batch.num_rows(level):
            raise RuntimeError(
                f"{type(self.model).__name__} gives {key!r} of shape {tuple(values.shape)} for "
                f"{len(batch)} systems with {batch.num_nodes} atoms, and it is declared to have a "
                f"row for each {'atom' if level is Level.NODE else 'system'}; "
                "ModelCard.node_outputs names what has one for each atom"
            )
        batch.add_key(key, values, level)

    def _note_failures(self, batch: Batch, failures: dict[int, str]) -> None:
        """Retire systems that could not be evaluated, with the reason in their ``host``."""
        finite = torch.isfinite(batch["positions"]).all(1).cpu().numpy()
        spans = {row: slice(*batch.host_ptr[row : row + 2]) for row in failures}
        broken = {row for row, span in spans.items() if not finite[span].all()}
        for outcome in (Outcome.NAN, Outcome.ERROR):
            is_nan = outcome is Outcome.NAN
            rows = {row: why for row, why in failures.items() if (row in broken) is is_nan}
            if rows:
                self.fail(batch, rows, outcome)

    def _evaluate(self, batch: Batch) -> None:
        """Compute with its hooks; ``fmax`` is then current, with what hooks did to forces."""
        self._fire(HookStageEnum.BEFORE_COMPUTE, batch)
        active = self.active(batch)
        self.compute(batch)
        count(batch, "evaluations", active)
        if "forces" not in self.__needs_keys__:
            self._fire(HookStageEnum.AFTER_COMPUTE, batch)
            return
        self._defer_fmax(batch)
        forces, version = batch["forces"], batch["forces"]._version
        self._fire(HookStageEnum.AFTER_COMPUTE, batch)
        if batch["forces"] is not forces or forces._version != version:
            self._defer_fmax(batch)

    def _forces_have_come(self) -> None:
        """Note that newcomers have forces now: the next test is the one before their first step."""
        self._arriving, self._arrived = None, self._arriving

    def _defer_fmax(self, batch: Batch) -> None:
        self._fmax_source = batch["forces"]
        batch.defer("fmax", lambda: self.largest_force(batch))

    def prime(self, batch: Batch) -> None:
        """Make forces current if the method needs them and they are not."""
        if "forces" not in self.__needs_keys__:
            return
        if not self.is_arranged(batch):
            self.forget_constraints()
        if not self.is_current(batch):
            self._evaluate(batch)
            self._forces_have_come()
        elif self._fmax_source is not batch["forces"]:
            self._defer_fmax(batch)

    def is_current(self, batch: Batch) -> bool:
        """Say whether energy and forces are those of this model for the present geometry."""
        return batch.evaluated is not None and batch.evaluated.holds(
            batch, self.model, self.needs(batch)
        )

    # ---------------------------------------------------------------- constraints

    def constraints(self, batch: Batch) -> BatchConstraints:
        """Return the constraints of the batch being moved."""
        if self._batch is not batch:  # somebody looks at another one in between
            if self._looked_at is None or self._looked_at[0] is not batch:
                self._looked_at = batch, BatchConstraints(batch)
            return self._looked_at[1]
        if self._constraints is None:
            self._constraints = BatchConstraints(batch)
        return self._constraints

    def look_up(self, batch: Batch) -> None:
        """Find what the host has to know of a batch before it is moved."""
        super().look_up(batch)
        self.constraints(batch)

    def is_arranged(self, batch: Batch) -> bool:
        """Say whether what was looked up of constraints is still so, as far as is known here."""
        return self.constraints(batch).are_of(batch)

    def forget_constraints(self) -> None:
        """Look the constraints of the batch up again, because somebody may have changed them."""
        self._constraints = self._fmax_source = self._looked_at = None

    def coordinates(self, batch: Batch) -> Float[Tensor, "V 3"]:
        """Return what is moved, Å."""
        return batch["positions"]

    def forces(self, batch: Batch) -> Float[Tensor, "V 3"]:
        """Return the forces on it with constraints applied, as an optimizer sees them, eV/Å."""
        return self.constraints(batch).forces(batch)

    def largest_force(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the largest norm among the forces of each system, eV/Å."""
        return largest_norm(self.forces(batch), batch.ptr)

    def energy(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the energy whose gradient the forces are, with that of constraints, eV."""
        key = "free_energy" if "free_energy" in batch else "energy"
        return self.constraints(batch).energy(batch, batch[key])
