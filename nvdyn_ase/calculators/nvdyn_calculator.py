"""``NvdynCalculator``: a batched model as an ASE calculator."""

import weakref
from collections.abc import Sequence
from operator import is_
from typing import Any

import ase
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

from nvdyn_ase.atoms.proxy import CalculatorProxy, unwrapped
from nvdyn_ase.atoms.snapshot import changes
from nvdyn_ase.calculators.evaluation import Evaluation
from nvdyn_ase.data import StructureError
from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.registry import as_model


class NvdynCalculator(Calculator):
    """An ASE calculator over any batched model: for phonons, bands of images, equations of state.

    It gives ``energy``, ``free_energy`` and ``forces``; ``stress`` of an Atoms with three cell
    vectors, if the model has one; and of ``energies``, ``stresses``, ``magmoms`` and the like what
    the ``extra_outputs`` of the model's card name. Everything comes from one forward pass. Results
    are kept by ASE's rules, until positions, elements, cell, pbc, initial charges or magnetic
    moments change, or ``info["charge"]`` or ``info["spin"]``, which some models look at; the pairs
    of atoms are kept until an atom has left the skin.

    Any number of Atoms may share it. ``calc.evaluate(atoms_list)`` evaluates them in one batch, and
    lets them be evaluated together from then on; see there.

    Parameters
    ----------
    model
        What :func:`nvdyn_ase.models.as_model` takes: a batched model, a name, an ASE calculator.
    **options
        Arguments of the model that is made, such as ``skin``.

    Attributes
    ----------
    model
        The batched model.
    implemented_properties
        ASE's names of what it gives.
    """

    name = "nvdyn"

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__()
        self._evaluation = Evaluation(as_model(model, **options))
        self.implemented_properties = self._evaluation.properties
        self._latest: _Together | None = None

    @property
    def model(self) -> BaseModelMixin:
        """The batched model."""
        return self._evaluation.model

    def __repr__(self) -> str:
        """Say which model."""
        return f"NvdynCalculator({self.model!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle without the list that was evaluated last."""
        return {**self.__dict__, "_latest": None}

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return what databases and trajectories note of the calculator: the model, as text."""
        return {"model": repr(self.model)}

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Refuse parameters: what can be chosen is the model's.

        Raises
        ------
        TypeError
            There are any.
        """
        if parameters:
            raise TypeError(
                f"{', '.join(parameters)}: the parameters are those of the model; make a "
                "calculator of another one, NvdynCalculator(model)"
            )
        return {}

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the results were computed."""
        return changes(self.atoms, atoms, tol, self.ignored_changes)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate one Atoms, whichever properties are asked for, and keep the results.

        Raises
        ------
        CalculationFailed
            The model cannot evaluate it; the message says why.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        if self.atoms is None:
            raise ValueError("the calculator has not seen any Atoms yet; give it one")
        self.results = {}
        found = self._evaluation([self.atoms])
        if found.failures:
            raise CalculationFailed(found.failures[0])
        self.results = found.results[0]

    def evaluate(self, atoms_list: Sequence[ase.Atoms]) -> list[dict[str, Any]]:
        """Evaluate Atoms that share this calculator in one batch, now and whenever one is asked.

        Each Atoms gets a proxy of the calculator that holds its results, so that
        ``atoms.get_forces()`` and so on do not calculate. From then on they belong together: when
        one of them is asked for something and has moved, all of them that have moved are evaluated
        in one forward pass, and the others find their results ready. So ASE's ``NEB`` does one
        forward pass a step, whatever the number of images. An Atoms leaves when it is given another
        calculator, ``calc`` itself for example, or belongs to a later list.

        The pairs of atoms are kept for a next call with the same Atoms in the same order.

        Parameters
        ----------
        atoms_list
            Atoms, of any kinds and sizes. Those without a calculator are given this one.

        Returns
        -------
        list of dict
            ASE's properties by name for each, as in ``atoms.calc.results``.

        Raises
        ------
        ValueError
            An Atoms has another calculator.
        CalculationFailed
            The model cannot evaluate some of them; the message says which and why. The others have
            their results.
        """
        for index, atoms in enumerate(atoms_list):
            if atoms.calc is not None and unwrapped(atoms.calc) is not self:
                raise StructureError(
                    index,
                    f"its calculator is another one, {atoms.calc!r}; set atoms.calc = calc for "
                    "those that are to share it",
                )
        if not atoms_list:
            return []
        everyone = list({id(atoms): atoms for atoms in atoms_list}.values())
        together, self._latest = self._latest, None
        members = [] if together is None else together.members_of(everyone)
        if together is None or not members:
            together = _Together(self.model)
            members = [together.join(atoms, self) for atoms in everyone]
        failures = together.evaluate(members)
        self._latest = together
        if failures:
            places = {id(atoms.calc): index for index, atoms in enumerate(atoms_list)}
            reasons = [f"structure {places[id(m)]}: {why}" for m, why in failures.items()]
            raise CalculationFailed("; ".join(reasons))
        return [dict(atoms.calc.results) for atoms in atoms_list]


class _Together:
    """Atoms that are evaluated in one batch, as long as somebody else holds them."""

    def __init__(self, model: BaseModelMixin) -> None:
        self._evaluation = Evaluation(model)
        self._members: list[tuple[weakref.ref[ase.Atoms], _Member]] = []

    def join(self, atoms: ase.Atoms, calculator: NvdynCalculator) -> "_Member":
        """Give an Atoms a proxy that evaluates all."""
        atoms.calc = member = _Member(calculator, self)
        self._members.append((weakref.ref(atoms), member))
        return member

    def members_of(self, everyone: Sequence[ase.Atoms]) -> list["_Member"]:
        """Return the proxies of these Atoms if they are all, in this order; else none."""
        here = [there() for there, _ in self._members]
        same = len(here) == len(everyone) and all(map(is_, here, everyone))
        members = [member for _, member in self._members]
        held = same and all(map(is_, (atoms.calc for atoms in everyone), members))
        return members if held else []

    def moved(self) -> list["_Member"]:
        """Return those whose Atoms are not what they were when last evaluated."""
        return [
            member
            for there, member in self._members
            if (atoms := there()) is not None and atoms.calc is member and member.check_state(atoms)
        ]

    def evaluate(
        self, members: Sequence["_Member"], asked: tuple["_Member", ase.Atoms] | None = None
    ) -> dict["_Member", str]:
        """Evaluate some in one batch; return those that failed, with the reasons.

        Parameters
        ----------
        members
            Whose Atoms are evaluated.
        asked
            One that was asked about this Atoms, which need not be its own.
        """
        atoms = {member: there() for there, member in self._members}
        if asked is not None:
            atoms[asked[0]] = asked[1]
        systems = {member: atoms[member] for member in members}
        held = {member: system for member, system in systems.items() if system is not None}
        found = self._evaluation(list(held.values()))
        for row, (member, system) in enumerate(held.items()):
            if row not in found.failures:
                member.hold(system, found.results[row])
        rows = list(held)
        return {rows[row]: reason for row, reason in found.failures.items()}


class _Member(CalculatorProxy):
    """The calculator of an Atoms that is evaluated together with others."""

    def __init__(self, calculator: NvdynCalculator, together: _Together) -> None:
        super().__init__(calculator)
        self.__dict__["_together"] = together

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = (),
    ) -> None:
        """Evaluate everyone who has moved, and this Atoms in any case."""
        atoms = self.asked_for(atoms)
        moved = self._together.moved()
        members = moved if self in moved else [*moved, self]
        failures = self._together.evaluate(members, (self, atoms))
        if self in failures:
            self.reset_results()
            raise CalculationFailed(failures[self])
