"""Parameters that may have one value per system."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.data.joining import ragged_rows
from nvdyn_ase.dynamics.schedules import Schedule


class PerAtom(NamedTuple):
    """One value per atom instead of one per system: said, and never guessed from a length.

    Parameters
    ----------
    values
        For all atoms of the batch that an engine is given, (V, 1).
    """

    values: Float[Tensor, "V 1"]

    def __repr__(self) -> str:
        """Say how many."""
        return f"PerAtom({len(self.values)} values)"

    def rows(self, name: str, places: "Places") -> Tensor:
        """Return the values of the atoms at these places, (V, 1).

        Raises
        ------
        ValueError
            There is no telling which are theirs, as with a sampler.
        """
        if places.atoms is None:
            raise ValueError(f"{name}: values for single atoms do not go with a sampler")
        return self.values[torch.from_numpy(places.atoms)]


class Places(NamedTuple):
    """Which of the values of a parameter belong to the systems of a batch.

    Parameters
    ----------
    rows
        One for each system.
    total
        Number of values; None if nobody knows how many systems there are, as of a stream, where
        values can be given for all alike only.
    atoms
        Where the values for single atoms stand, one for each atom of the batch; None if there can
        be none.
    """

    rows: np.ndarray
    total: int | None
    atoms: np.ndarray | None = None

    @classmethod
    def of(cls, batch: Batch) -> "Places":
        """Return those of a batch that values are given for in its own order."""
        return cls(np.arange(len(batch)), len(batch), np.arange(batch.num_nodes))

    def part(self, batch: Batch, rows: np.ndarray) -> "Places":
        """Return those of some systems of the batch that these are of."""
        atoms = None if self.atoms is None else self.atoms[ragged_rows(batch.host_ptr, rows)]
        return Places(self.rows[rows], self.total, atoms)

    def among(self, values_of: Callable[[int], Tensor]) -> Tensor:
        """Return the rows that the systems have among what ``values_of`` makes for that many."""
        if self.total is not None:
            return values_of(self.total)[self.rows]
        try:
            return values_of(len(self.rows) + 1000)[: len(self.rows)]  # no list is as long
        except ValueError as error:
            raise ValueError(f"{error}; {_OF_A_STREAM}") from None


_OF_A_STREAM = "nobody knows how many systems a stream has: give one value for all of them"


def parameter_rows(name: str, value: Any, places: Places, device: torch.device) -> Tensor:
    """Return (B, 1) values for systems.

    Parameters
    ----------
    name
        Of the parameter, for the error.
    value
        A number, or one number per system.
    places
        Which of the values belong to the systems.
    device
        Where to put them.

    Raises
    ------
    ValueError
        The number of values is not the number of systems.
    """
    values = np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=float)
    if values.ndim == 0:
        return torch.full((len(places.rows), 1), float(values), dtype=torch.float64, device=device)
    if places.total is None:
        raise ValueError(f"{name}: {values.size} values; {_OF_A_STREAM}")
    if values.size != places.total or values.ndim > 2:
        raise ValueError(
            f"{name}: {values.size} values for {places.total} systems; give one number or one each"
        )
    return torch.as_tensor(values.reshape(-1, 1)[places.rows]).to(device)


class PerSystemParameters:
    """The parameters of an engine, of which systems may have their own values.

    Parameters named in ``_per_system`` are attributes as they were given. Where systems differ, or
    the method wants it so, the values are fields of the engine's state, which come and go with
    their systems. Setting the attribute changes them.

    Those named in ``_follow`` may be a ``Schedule``. Its time is a field of the state, and so is
    what its function is given, so that these too stay with their systems.
    """

    _per_system: ClassVar[tuple[str, ...]] = ()
    _follow: ClassVar[frozenset[str]] = frozenset({"temperature", "pressure", "friction"})
    state: Batch
    _batch: Batch | None
    _places: Places | None = None

    def places(self, batch: Batch) -> Places:
        """Return which values of parameters that were given one by one the systems have."""
        return self._places or Places.of(batch)

    def look_up(self, batch: Batch) -> None:
        """Find what the host has to know of a batch before it is moved.

        It is found when it is first asked for; within a half step that is compiled it cannot be.
        """
        batch.look_up()
        self.state.look_up()

    def parameter(self, name: str) -> Any:
        """Return a parameter: the number itself, or (B, 1) where systems have their own."""
        return self.state[name] if name in self.state else getattr(self, name)

    def node_parameter(self, name: str) -> Any:
        """Return a parameter for the atoms: the number itself, or (V, 1)."""
        value = self.parameter(name)
        if not isinstance(value, Tensor) or self._batch is None:
            return value
        return value if self._is_per_atom(name) else value.index_select(0, self._batch.batch)

    def _is_per_atom(self, name: str) -> bool:
        return name in self.state and self.state.level(name) is Level.NODE

    def initial(self, name: str, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the value that a parameter was given for each system, (B, 1)."""
        value, places = getattr(self, name), self.places(batch)
        if isinstance(value, Schedule):
            return value(*_beginning(name, value, batch, places))
        return parameter_rows(name, value, places, batch.device)

    def check_parameters(self, batch: Batch, places: Places) -> None:
        """Raise ValueError if parameters do not have a value for each of the systems.

        Parameters
        ----------
        batch
            Some of them.
        places
            Which values are theirs.
        """
        for name in self._per_system:
            value = getattr(self, name)
            if isinstance(value, Schedule):
                _beginning(name, value, batch, places)
            elif isinstance(value, PerAtom):
                value.rows(name, places)
            elif not isinstance(value, (int, float, type(None))):
                parameter_rows(name, value, places, batch.device)

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch.

        Setting the attribute is the same.

        Raises
        ------
        ValueError
            The number of values is not the number of systems; nothing is changed.
        """
        setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a parameter that the present batch has in its state changes there.

        Raises
        ------
        TypeError
            A schedule for a parameter that cannot follow one.
        """
        if isinstance(value, Schedule) and name not in self._follow & set(self._per_system):
            able = ", ".join(sorted(self._follow & set(self._per_system))) or "none"
            raise TypeError(
                f"{name} of {type(self).__name__} cannot follow a schedule; those that can: {able}"
            )
        batch = self.__dict__.get("_batch") if name in self._per_system else None
        if batch is not None:
            self._put_parameter(self.state, name, value, batch)
        object.__setattr__(self, name, value)
        if batch is not None:
            self._parameters_changed(batch)

    def _put_parameter(self, state: Batch, name: str, value: Any, batch: Batch) -> None:
        """Put the values of a parameter into the state, if systems need their own."""
        level, beside = Level.SYSTEM, {}
        if isinstance(value, Schedule):
            time, columns = _beginning(name, value, batch, self.places(batch))
            values, beside = value(time, columns), {"time": time, **columns}
        elif isinstance(value, PerAtom):
            values, level = value.rows(name, self.places(batch)).to(batch["positions"]), Level.NODE
        elif name in state or not isinstance(value, (int, float, type(None))):
            values = parameter_rows(name, value, self.places(batch), batch.device)
        else:
            return
        self._drop_schedule(state, name)
        if name in state:
            del state[name]
        state.add_key(name, values, level)
        for key, column in beside.items():
            state.add_key(f"{name}_{key}", column, Level.SYSTEM)

    def _parameters_changed(self, batch: Batch) -> None:
        """Bring up to date what the method has made of its parameters."""

    # ---------------------------------------------------------------- schedules

    def schedules(self) -> dict[str, Schedule]:
        """Return the parameters that follow a schedule."""
        values = {name: self.__dict__.get(name) for name in self._per_system}
        return {name: value for name, value in values.items() if isinstance(value, Schedule)}

    def _begin_schedules(self, state: Batch, batch: Batch) -> None:
        """Put the time of schedules into a state that has the parameters already."""
        for name, schedule in self.schedules().items():
            if f"{name}_time" not in state:
                self._put_parameter(state, name, schedule, batch)

    def _drop_schedule(self, state: Batch, name: str) -> None:
        before = self.__dict__.get(name)
        if isinstance(before, Schedule):
            for key in ("time", *before.columns):
                if f"{name}_{key}" in state:
                    del state[f"{name}_{key}"]

    def follow_schedules(self, batch: Batch) -> None:
        """Give parameters the values for the step that begins, and let their time go on.

        Systems that are within a step, because theirs takes several forward passes, keep both.
        """
        schedules, state = self.schedules(), self.state
        within = self.within_step(batch) if schedules else None
        for name, schedule in schedules.items():
            time = state[f"{name}_time"]
            columns = {key: state[f"{name}_{key}"] for key in schedule.columns}
            fields = {name: schedule(time, columns), f"{name}_time": time + self.parameter("dt")}
            for key, value in fields.items():
                state[key] = value if within is None else torch.where(within, state[key], value)
        if schedules:
            self._schedules_followed(batch)

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that are within a step; None for nobody."""
        return None

    def _schedules_followed(self, batch: Batch) -> None:
        """Bring up to date what the method has made of these; it must not wait for the device."""
        self._parameters_changed(batch)


def _beginning(
    name: str, schedule: Schedule, batch: Batch, places: Places
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the time at which a schedule begins, and what its function is given, (B, 1)."""
    columns = {
        key: parameter_rows(f"{key} of {name}", value, places, batch.device)
        for key, value in schedule.columns.items()
    }
    return torch.zeros(len(batch), 1, dtype=torch.float64, device=batch.device), columns
