"""Which stage is on which ranks, and who sends to whom."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

#: The stages before and after one: a key, None for an end of the chain, -1 for the neighbour.
Ends = tuple[int | None, int | None]


class Wiring:
    """Lays stages out over ranks.

    Stages have keys, in whose order they get their ranks. Stages that stand side by side are
    linked, unless one of them says otherwise with ``prior_rank`` or ``next_rank``, which are keys.
    Neighbouring keys of one and the same engine are one stage on several ranks.

    Parameters
    ----------
    stages
        The engines by key.
    replicas
        On how many ranks a stage is, by key; one by default.
    ends
        What the engines say of their neighbours, by key.

    Attributes
    ----------
    ranks
        The ranks of each stage, by key.
    links
        Pairs of keys: who sends, who receives.

    Raises
    ------
    ValueError
        Replicas of a stage that is not there or fewer than one, a link to a stage that is not
        there, or two engines that do not agree on whether they are neighbours.
    """

    def __init__(
        self,
        stages: Mapping[int, "BaseDynamics"],
        replicas: Mapping[int, int] | None = None,
        ends: Mapping[int, Ends] | None = None,
    ) -> None:
        self.stages = dict(sorted(stages.items()))
        self.ends = dict(ends or {k: (e.prior_rank, e.next_rank) for k, e in self.stages.items()})
        self.replicas = self._counted(dict(replicas or {}))
        self.ranks: dict[int, range] = {}
        first = 0
        for key in self.stages:
            self.ranks[key] = range(first, first + self.replicas[key])
            first += self.replicas[key]
        self.size = first
        self.links = self._linked()

    def _counted(self, replicas: dict[int, int]) -> dict[int, int]:
        """Return on how many ranks each stage is, and merge keys of the same engine."""
        for key, count in replicas.items():
            if key not in self.stages:
                raise ValueError(f"replicas: there is no stage {key}")
            if count < 1:
                raise ValueError(f"replicas: stage {key} needs at least 1 rank, not {count}")
        counts: dict[int, int] = {}
        last: int | None = None
        for key, engine in list(self.stages.items()):
            if last is not None and self.stages[last] is engine:
                counts[last] += replicas.get(key, 1)
                del self.stages[key]
                continue
            counts[key], last = replicas.get(key, 1), key
        return counts

    def _linked(self) -> list[tuple[int, int]]:
        keys = list(self.stages)
        links = set()
        for key in keys:
            prior, following = self.ends[key]
            links |= {(key, following)} if following not in (None, -1) else set()
            links |= {(prior, key)} if prior not in (None, -1) else set()
        for before, after in pairwise(keys):
            if self.ends[before][1] == -1 and self.ends[after][0] == -1:
                links.add((before, after))
        for before, after in links:
            for key, other, side in ((before, after, 1), (after, before, 0)):
                if key not in self.stages:
                    raise ValueError(f"stage {other} is to be linked to {key}: no such stage")
                if self.ends[key][side] not in (other, -1):
                    raise ValueError(
                        f"stages {before} and {after} do not agree: stage {key} has "
                        f"{('prior_rank', 'next_rank')[side]}={self.ends[key][side]}"
                    )
        return sorted(links)  # type: ignore[arg-type]

    def followed_by(self, other: "Wiring") -> "Wiring":
        """Return both, the stages of the other behind these; only their numbers change."""
        shift = max(self.stages) + 1 - min(other.stages)
        moved = {key + shift: engine for key, engine in other.stages.items()}
        ends = dict(self.ends)
        for key, own in other.ends.items():
            prior, following = (r if r in (None, -1) else r + shift for r in own)  # type: ignore[operator]
            ends[key + shift] = prior, following
        replicas = self.replicas | {key + shift: n for key, n in other.replicas.items()}
        return Wiring({**self.stages, **moved}, replicas, ends)

    # ---------------------------------------------------------------- of one rank

    def stage_of(self, rank: int) -> int:
        """Return the key of the stage that a rank has; KeyError if it has none."""
        for key, ranks in self.ranks.items():
            if rank in ranks:
                return key
        raise KeyError(f"rank {rank} has no stage; there are {self.size} ranks")

    def share_of(self, rank: int) -> tuple[int, int]:
        """Return which of the ranks of its stage a rank is, from 0, and of how many."""
        ranks = self.ranks[self.stage_of(rank)]
        return rank - ranks.start, len(ranks)

    def before(self, key: int) -> list[int]:
        """Return the ranks that a stage receives from."""
        return [rank for a, b in self.links if b == key for rank in self.ranks[a]]

    def after(self, key: int) -> list[int]:
        """Return the ranks that a stage sends to."""
        return [rank for a, b in self.links if a == key for rank in self.ranks[b]]

    def first_of(self, key: int) -> int:
        """Return the key of the stage with which the chain of a stage begins."""
        prior = [a for a, b in self.links if b == key]
        return self.first_of(prior[0]) if prior else key

    def last_ranks(self, key: int) -> list[int]:
        """Return the ranks with which the chain of a stage ends."""
        ends = [own for own in self.stages if not self.after(own)]
        first = self.first_of(key)
        return [rank for own in ends if self.first_of(own) == first for rank in self.ranks[own]]

    # ---------------------------------------------------------------- whether it can be

    def check(self) -> None:
        """Raise ValueError if these stages are no pipeline, and say which one is at fault."""
        if len(self.stages) < 2:
            raise ValueError(
                f"a pipeline needs two stages, not {len(self.stages)}; a single engine runs alone"
            )
        for before, after in self.links:
            self._check_buffers(before, after)
        for key, engine in self.stages.items():
            self._check_stage(key, engine)

    def _check_buffers(self, before: int, after: int) -> None:
        here, there = (self.stages[key].buffer_config for key in (before, after))
        for key, own in ((before, here), (after, there)):
            if own is None:
                raise ValueError(f"stage {key} has a neighbour and no buffer_config; give it one")
        if here != there:
            raise ValueError(
                f"the buffers of stages {before} and {after} must be equal: {here!r}, {there!r}"
            )

    def _check_stage(self, key: int, engine: Any) -> None:
        if self.before(key) and engine.sampler is not None:
            raise ValueError(f"stage {key} has a sampler, and receives; only a first stage has one")
        if self.after(key) and engine.given_sinks:
            raise ValueError(f"stage {key} has sinks, and sends; only a last stage has them")
        if len([1 for _, b in self.links if b == key]) > 1:
            raise ValueError(f"two stages send to stage {key}; give one of them replicas instead")
        if len([1 for a, _ in self.links if a == key]) > 1:
            raise ValueError(f"stage {key} sends to two stages; give one of them replicas instead")
        if not engine._ends(engine.n_steps):
            raise ValueError(
                f"nothing ends stage {key}: give it n_steps or a convergence_hook ({engine!r})"
            )
