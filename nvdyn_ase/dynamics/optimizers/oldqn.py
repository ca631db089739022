"""GoodOldQuasiNewton: the engine with a Hessian, trusted as far as it predicts the energy."""

from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, Blocks
from nvdyn_ase.dynamics.optimizers.hessian import (
    HessianOptimizer,
    bfgs_change,
    changed,
    finite_step,
)
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.rows import largest_norm
from nvdyn_ase.dynamics.spectra import dots, ends_of, outer, rows_times, spectrum, times_columns
from nvdyn_ase.dynamics.trust import Brackets, brackets, trust_shift
from nvdyn_ase.models.base import BaseModelMixin

# Numbers of ASE's: what counts as nothing, and the smallest trust radius, Å.
_NOTHING, _SMALLEST = 1e-12, 1e-4


class TrustState(NamedTuple):
    """What the trust radius of a system follows from."""

    radius: Float[Tensor, "B 1"]
    maxradius: Float[Tensor, "B 1"]
    last_energy: Float[Tensor, "B 1"]
    energy_estimate: Float[Tensor, "B 1"]
    moved: Bool[Tensor, "B 1"]


class GoodOldQuasiNewton(HessianOptimizer):
    """Quasi-Newton with a trust radius, as ``ase.optimize.GoodOldQuasiNewton``.

    The step is that of Newton, damped by a shift of the eigenvalues where it would be longer than
    the trust radius: A. Banerjee, N. Adams, J. Simons and R. Shepard, J. Phys. Chem. 89, 52 (1985).
    The radius grows and shrinks with how well the Hessian predicted the energy; a step after which
    the energy is higher is taken back, and the next one made from where it came from. ASE's search
    for transition states is not here.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    hessianupdate
        ``"BFGS"``, ``"Powell"`` or ``"Bofill"``.
    forcemin
        Take back steps by which the energy rose by more than 1e-4 eV, and let the radius follow the
        prediction; otherwise by 0.01 eV, and let it grow with every step.
    maxradius
        Largest trust radius, Å: of the whole step of a system. 0.5 times the square root of the
        number of its coordinates by default.
    diagonal
        Curvature of the initial Hessian, eV/Å².
    radius
        First trust radius, Å; 0.005 times the square root of the number of coordinates by default.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        There is no such ``hessianupdate``, or no ``diagonal``.
    """

    __needs_keys__ = frozenset({"energy", "forces"})
    _per_system: ClassVar[tuple[str, ...]] = ("maxradius", "diagonal", "radius")

    def __init__(
        self,
        model: BaseModelMixin,
        hessianupdate: str = "BFGS",
        forcemin: bool = True,
        maxradius: Any = None,
        diagonal: Any = 20.0,
        radius: Any = None,
        **engine: Any,
    ) -> None:
        if hessianupdate not in CHANGES:
            raise ValueError(f"hessianupdate={hessianupdate!r}; there are {', '.join(CHANGES)}")
        if diagonal is None:
            raise ValueError("diagonal=None; give a curvature, eV/Å², or leave it out")
        self.hessianupdate, self.forcemin = hessianupdate, forcemin
        self.maxradius, self.diagonal, self.radius = maxradius, diagonal, radius
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        coordinates, rows = self.coordinates(template_batch), self.rows(template_batch)
        root = rows.num_nodes_per_graph.to(coordinates).view(-1, 1).mul(3.0).sqrt()

        def given(name: str, usual: Tensor) -> Tensor:
            return usual if getattr(self, name) is None else self.initial(name, template_batch)

        largest = given("maxradius", 0.5 * root)
        curvature = self.initial("diagonal", template_batch)
        radius = torch.minimum(given("radius", 0.05 * root / 10.0), largest)
        fields = {"last_coordinates": coordinates, "last_forces": torch.zeros_like(coordinates)}
        system = {
            "maxradius": largest,
            "diagonal": curvature,
            "radius": radius.clamp(min=_SMALLEST),
            "last_energy": torch.zeros_like(root),
            "energy_estimate": torch.zeros_like(root),
            "moved": torch.zeros_like(root, dtype=torch.bool),
        }
        hessian = self.initial_hessian(template_batch, curvature)
        return self.new_state(template_batch, fields, system, block={"hessian": hessian})

    def pre_update(self, batch: Batch) -> None:
        """Learn from the last step or take it back, and make the next one."""
        state, rows = self.state, self.rows(batch)
        trust = TrustState(*(state[key] for key in TrustState._fields))
        rejected, trust = judged(self.energy(batch), trust, self.forcemin, *factors(batch.device))
        forces, coordinates = self.forces(batch), self.coordinates(batch)
        s, y = coordinates - state["last_coordinates"], state["last_forces"] - forces
        hessians = self._learned(rows.blocks, s, y, state["moved"] & ~rejected)

        back = rejected.index_select(0, rows.batch)
        forces = torch.where(back, state["last_forces"], forces)
        state["last_coordinates"] = torch.where(back, state["last_coordinates"], coordinates)
        state["last_forces"] = forces
        step, estimate = self._trusted(rows.blocks, hessians, forces, trust.radius)
        for key, tensor in zip(TrustState._fields, trust, strict=True):
            state[key] = tensor
        state["energy_estimate"] = estimate

        self.put(batch, state["last_coordinates"], where=rejected)
        self.make(batch, self.coordinates(batch), step)

    def _learned(
        self, blocks: Blocks, s: Float[Tensor, "R 3"], y: Float[Tensor, "R 3"], useful: Tensor
    ) -> list[Tensor]:
        """Return the Hessians with what the last step taught, and keep them."""
        groups = zip(
            *(blocks.matrices(self.state["hessian"]), blocks.vectors(s), blocks.vectors(y)),
            *(blocks.systems(useful),),
            strict=True,
        )
        change = CHANGES[self.hessianupdate]
        self.state["hessian"] = blocks.joined_matrices([change(*group) for group in groups])
        return blocks.matrices(self.state["hessian"])

    def _trusted(
        self, blocks: Blocks, hessians: list[Tensor], forces: Float[Tensor, "R 3"], radius: Tensor
    ) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "B 1"]]:
        """Return the steps, and the changes of the energy that they should bring."""
        groups = zip(hessians, blocks.vectors(forces), blocks.systems(radius), strict=True)
        known = brackets(forces.device)
        made = [trusted_step(own, *spectrum(h), r, known) for h, own, r in groups]
        steps, estimates = zip(*made, strict=True)
        return blocks.joined_vectors(steps), blocks.joined_systems(estimates)

    def make(
        self, batch: Batch, coordinates: Float[Tensor, "R 3"], step: Float[Tensor, "R 3"]
    ) -> None:
        """Make a step, whose length the trust radius limits; retire who has none."""
        rows = self.rows(batch)
        step, lost = finite_step(step, largest_norm(step, rows.ptr), rows.batch)
        self.retire(batch, lost.view(-1), Outcome.EXPLODED)
        self.put(batch, coordinates + step)


def judged(
    energy: Float[Tensor, "B 1"],
    trust: TrustState,
    forcemin: bool,
    limits: Float[Tensor, " K"],
    factors: Float[Tensor, " L"],
) -> tuple[Bool[Tensor, "B 1"], TrustState]:
    """Return whose last step is taken back, and the trust that there is for the next.

    Parameters
    ----------
    energy
        Now, eV.
    trust
        What the radius follows from.
    forcemin
        See :class:`GoodOldQuasiNewton`.
    limits, factors
        See :func:`factors`.
    """
    change = energy - trust.last_energy
    rejected = trust.moved & (change > (1e-4 if forcemin else 1e-2))
    if forcemin:
        known = trust.energy_estimate.abs() > _NOTHING
        error = (change / trust.energy_estimate - 1.0).abs()
        factor = torch.where(known, factors[torch.bucketize(error, limits, right=True)], 1.0)
    else:
        factor = torch.full_like(change, 1.5)
    factor = torch.where(rejected, 0.5, factor)
    radius = torch.minimum(trust.radius * factor, trust.maxradius).clamp(min=_SMALLEST)
    return rejected, TrustState(
        torch.where(trust.moved, radius, trust.radius),
        trust.maxradius,
        torch.where(rejected, trust.last_energy, energy),
        trust.energy_estimate,
        torch.ones_like(trust.moved),
    )


@lru_cache
def factors(device: torch.device) -> tuple[Float[Tensor, " K"], Float[Tensor, " L"]]:
    """Return the limits of the error of a predicted energy, and the factor of the radius between.

    Errors count relative to the prediction. The radius grows below 0.4 and shrinks above 0.5.
    """
    limits = np.array([0.01, 0.05, 0.1, 0.4, *np.nextafter([0.5, 0.7, 1.0], np.inf)])
    up, down = np.cumprod([1.4] * 4), np.cumprod([1 / 1.4] * 3)
    table = np.array([*up[::-1], 1.0, *down])
    return torch.from_numpy(limits).to(device), torch.from_numpy(table).to(device)


def trusted_step(
    forces: Float[Tensor, "G d"],
    values: Float[Tensor, "G d"],
    vectors: Float[Tensor, "G d d"],
    radius: Float[Tensor, "G 1"],
    brackets: Brackets,
) -> tuple[Float[Tensor, "G d"], Float[Tensor, "G 1"]]:
    """Return the Newton step that is no longer than the radius, and the energy it should change.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    values, vectors
        Spectrum of the Hessian.
    radius
        Å.
    brackets
        See :func:`nvdyn_ase.dynamics.trust.brackets`.
    """
    ends = ends_of(forces)
    gradient = rows_times(-forces, vectors, ends)
    shift = trust_shift(values, gradient, radius, brackets)
    along = -gradient / (values - shift)
    estimate = dots(along, gradient + 0.5 * values * along, ends)
    return times_columns(vectors, along, ends), estimate


# ---------------------------------------------------------------- what a step teaches


def bfgs(
    hessian: Float[Tensor, "G d d"],
    s: Float[Tensor, "G d"],
    y: Float[Tensor, "G d"],
    useful: Bool[Tensor, "G 1"],
) -> Float[Tensor, "G d d"]:
    """Return the Hessians after a step s with a change y of the gradient, by the BFGS formula.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, equation 6.19.
    Those of systems that are not ``useful``, or whose step has hardly any curvature, stay.
    """
    return _changed(hessian, *bfgs_change(hessian, s, y), useful=useful)


def powell(
    hessian: Float[Tensor, "G d d"],
    s: Float[Tensor, "G d"],
    y: Float[Tensor, "G d"],
    useful: Bool[Tensor, "G 1"],
) -> Float[Tensor, "G d d"]:
    """Return the Hessians after a step, by Powell's symmetric formula.

    R. Fletcher, Practical Methods of Optimization, 2nd ed., Wiley 1987, equation 3.2.27 (there as
    Powell's symmetric Broyden). Parameters as in :func:`bfgs`.
    """
    ends = ends_of(s)
    rest = y - rows_times(s, hessian, ends)
    length, overlap = dots(s, s, ends), dots(rest, s, ends)
    mixed = outer(rest, s) + outer(s, rest)
    change = (mixed - (overlap / length).unsqueeze(2) * outer(s, s)) / length.unsqueeze(2)
    useful = useful & (length >= _NOTHING)
    return _changed(hessian, change, dots(y, s, ends), overlap, useful=useful)


def bofill(
    hessian: Float[Tensor, "G d d"],
    s: Float[Tensor, "G d"],
    y: Float[Tensor, "G d"],
    useful: Bool[Tensor, "G 1"],
) -> Float[Tensor, "G d d"]:
    """Return the Hessians after a step, by Bofill's mixture of two formulas, as ASE has it.

    J. M. Bofill, J. Comput. Chem. 15, 1 (1994). Parameters as in :func:`bfgs`.
    """
    ends = ends_of(s)
    rest = y - rows_times(s, hessian, ends)
    length, overlap, square = (dots(a, b, ends) for a, b in ((s, s), (rest, s), (rest, rest)))
    share = 1.0 - overlap * overlap / (length * square)
    symmetric = (1.0 - share) * length / overlap
    along = share * overlap / length
    change = share.unsqueeze(2) * (outer(rest, s) + outer(s, rest))
    change = change - along.unsqueeze(2) * outer(s, s)
    change = (change + symmetric.unsqueeze(2) * outer(rest, rest)) / length.unsqueeze(2)
    useful = useful & (length >= _NOTHING)
    return _changed(hessian, change, dots(y, s, ends), overlap, useful=useful)


def _changed(
    hessian: Tensor, added: Tensor, first: Tensor, second: Tensor, *, useful: Tensor
) -> Tensor:
    """Return the Hessians, changed where both curvatures are something."""
    useful = useful & (first.abs() > _NOTHING) & (second.abs() > _NOTHING)
    return changed(hessian, added, useful)


CHANGES = {"BFGS": bfgs, "Powell": powell, "Bofill": bofill}
