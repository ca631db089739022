"""ASE calculators as a model: called system by system."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from nvdyn_ase.atoms.asking import implements
from nvdyn_ase.atoms.export import batch_to_inputs, input_fields
from nvdyn_ase.atoms.results import PROPERTIES
from nvdyn_ase.atoms.snapshot import is_same, snapshot
from nvdyn_ase.calculators.callers import Callers, answers, forget
from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.data.electrons import INFO
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs

# Systems that are remembered beyond those of the present batch, where one calculator serves all.
_REMEMBERED = 1024

# Asked of every calculator if they are wanted at all; others only of those that have them.
_REQUIRED = ("energy", "forces")

# What a calculator gives for each atom if it says so; EMT, for one, says that it has magnetic
# moments, and has none.
_PER_ATOM = ("energies", "stresses")


@dataclass
class _System:
    """One system: who is asked, about what, and what could not be evaluated."""

    caller: Any
    atoms: ase.Atoms
    failed: ase.Atoms | None = None
    reason: str = ""


class CalculatorModel(BaseModelMixin):
    """Evaluates each system with an ASE calculator; right for any of them, and no faster.

    A calculator is told about a system what the user's Atoms said, but for momenta and constraints.
    It calculates once for each new geometry; a system that has not moved costs nothing. Where
    systems share a calculator, what it said about each of them is remembered here.

    A system whose calculator raises is reported in ``failures`` of the outputs, and not tried again
    until it has moved; the others go on. Whatever a calculator finds beyond what was asked for, and
    ``nvdyn_ase.atoms.PROPERTIES`` lists, is passed on: NaN for a system without.

    Parameters
    ----------
    calculators
        One calculator for all systems; or one each, in a sequence or a mapping, whose position or
        key is the ``system_id``.
    raise_errors
        Let an exception of a calculator pass, instead of reporting the system that it is about.

    Raises
    ------
    ValueError
        In a forward pass: there is no calculator for a ``system_id``.
    """

    def __init__(self, calculators: Any, raise_errors: bool = False) -> None:
        self.calculators = calculators
        self.raise_errors = raise_errors
        self._callers = Callers(calculators)
        self._systems: dict[tuple[int, int], _System] = {}
        self._told: tuple[list[Any], list[Any]] = ([], [])
        self._names: dict[str, None] = dict.fromkeys(["energy"])
        stress = all(implements(calculator, "stress") for calculator in self._callers.all())
        extra = [
            PROPERTIES[name].field
            for name in _PER_ATOM
            if all(implements(calculator, name) for calculator in self._callers.all())
        ]
        per_atom = frozenset(extra)
        self.model_card = ModelCard(
            supports_stress=stress, extra_outputs=per_atom, node_outputs=per_atom
        )

    def __repr__(self) -> str:
        """List the classes of the calculators."""
        kinds = dict.fromkeys(c.__class__.__name__ for c in self._callers.all())
        return f"CalculatorModel({', '.join(kinds)})"

    def forward(self, batch: Batch) -> ModelOutputs:
        """Ask the calculator of each system."""
        outputs = self.model_config.outputs
        wanted = [name for name, kind in PROPERTIES.items() if kind.field in outputs]
        self._names |= dict.fromkeys(wanted)
        found: list[dict[str, np.ndarray]] = []
        failures: dict[int, str] = {}
        for row, system in enumerate(self._current(batch)):
            results, reason = self._evaluate(system, wanted)
            found.append(results)
            if reason:
                failures[row] = reason
        self._names |= dict.fromkeys(name for results in found for name in results)
        values = {}
        for name in self._names:
            field = PROPERTIES[name].field
            values[field] = _laid_out(name, found, batch)
            if field not in FIELDS:
                level = Level.NODE if PROPERTIES[name].per_atom else Level.SYSTEM
                batch.add_key(field, values[field], level, overwrite=True, default=float("nan"))
        return ModelOutputs(values, failures)

    # ---------------------------------------------------------------- one system

    def _evaluate(
        self, system: _System, wanted: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], str]:
        """Return the results of a system, or none and the reason."""
        if system.failed is not None and is_same(system.failed, system.atoms):
            return {}, system.reason
        if not np.isfinite(system.atoms.positions).all():
            return {}, ""  # the numbers are NaN as well, and that says enough
        system.failed = None
        try:
            results = answers(system.caller, system.atoms, _asked(system, wanted))
            return _shaped(results, len(system.atoms), wanted), ""
        except Exception as error:
            forget(system.caller)
            if self.raise_errors:
                raise
            name = system.caller.__class__.__name__
            system.failed = snapshot(system.atoms)
            system.reason = f"{name} raised {type(error).__name__}: {error}"
            return {}, system.reason

    # ---------------------------------------------------------------- what they are asked about

    def _current(self, batch: Batch) -> list[_System]:
        """Return the systems of the batch, with Atoms that are where the batch is."""
        keys = _keys(batch)
        if self._has_news(batch):
            for key, atoms in zip(keys, batch_to_inputs(batch), strict=True):
                system = self._systems.pop(key, None) or _System(self._callers.of(key[0]), atoms)
                system.atoms = atoms
                self._systems[key] = system
            for key in list(self._systems)[: -len(batch) - _REMEMBERED]:
                del self._systems[key]
        systems = [self._systems[key] for key in keys]
        positions = batch["positions"].detach().cpu().numpy()
        cells = batch["cell"].detach().cpu().numpy()
        ptr = batch.host_ptr.tolist()
        for row, system in enumerate(systems):
            system.atoms.positions[:] = positions[ptr[row] : ptr[row + 1]]
            system.atoms.cell[:] = cells[row]
        return systems

    def _has_news(self, batch: Batch) -> bool:
        """Say whether anything but the geometry is not what it was in the last forward pass."""
        names = sorted({*input_fields(batch), "system_id"} - {"positions", "cell", "velocities"})
        tensors = [batch[name] for name in names if name in batch]
        told = [*names, *(tensor._version for tensor in tensors)]
        objects = [*tensors, *(own.get(INFO) for own in batch.host)]
        before, self._told = self._told, (told, objects)
        return (
            told != before[0]
            or len(objects) != len(before[1])
            or any(now is not then for now, then in zip(objects, before[1], strict=True))
        )


def _keys(batch: Batch) -> list[tuple[int, int]]:
    """Return what systems are known by: the ``system_id``, and a count of those that share it."""
    if "system_id" not in batch:
        return [(row, 0) for row in range(len(batch))]
    seen: Counter[int] = Counter()
    keys = []
    for system_id in batch["system_id"].view(-1).tolist():
        keys.append((system_id, seen[system_id]))
        seen[system_id] += 1
    return keys


def _asked(system: _System, wanted: Sequence[str]) -> list[str]:
    """Return what to ask a calculator for: what it must have, and what else it can give."""
    has_volume = system.atoms.cell.rank == 3
    names = ["energy"]
    for name in ("free_energy", *wanted):
        possible = has_volume or not PROPERTIES[name].voigt
        if name in _REQUIRED or (possible and implements(system.caller, name)):
            names.append(name)
    return list(dict.fromkeys(names))


def _shaped(
    results: dict[str, Any], num_atoms: int, wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return copies of the results that are known here, in the shape of a batch."""
    shaped = {}
    for name, kind in PROPERTIES.items():
        if results.get(name) is None:
            continue
        array = np.array(results[name], float)
        shape = (3, 3) if kind.voigt else kind.shape
        if kind.voigt and array.shape[-1:] == (6,):
            array = np.array(voigt_6_to_full_3x3_stress(array))
        shape = (num_atoms, *shape) if kind.per_atom else shape
        if shape == () and array.size == 1:
            array = array.reshape(())
        if array.shape == shape:
            shaped[name] = array
        elif name in _REQUIRED or name in wanted:
            raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    return shaped


def _laid_out(name: str, found: list[dict[str, np.ndarray]], batch: Batch) -> Tensor:
    """Lay one property of all systems end to end; NaN where there is none."""
    kind = PROPERTIES[name]
    row_shape = (3, 3) if kind.voigt else kind.shape
    rows = batch.num_nodes_list if kind.per_atom else [1] * len(batch)
    if not kind.per_atom:
        row_shape = row_shape or (1,)
    whole = np.full((sum(rows), *row_shape), np.nan)
    first = 0
    for results, count in zip(found, rows, strict=True):
        array = results.get(name)
        if array is None and name == "free_energy":
            array = results.get("energy")
        if array is not None:
            whole[first : first + count] = array
        first += count
    if kind.voigt and not kind.per_atom:
        flat = (batch["cell"].detach().cpu().numpy() == 0).all(axis=2).any(axis=1)
        whole[flat] = 0.0
    return torch.from_numpy(whole).to(batch["positions"])
