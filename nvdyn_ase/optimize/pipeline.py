"""``relax | md``: optimizers and integrators of the same Atoms, each on ranks of its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nvdyn_ase.atoms import Result, batch_from_atoms
from nvdyn_ase.atoms.filters import Filters
from nvdyn_ase.dynamics import BaseDynamics, BufferConfig, DistributedPipeline
from nvdyn_ase.dynamics.fused import FusedStage
from nvdyn_ase.dynamics.pipeline.gathering import gathered
from nvdyn_ase.optimize.driver import AtomsDriver
from nvdyn_ase.optimize.facade import EngineFacade
from nvdyn_ase.optimize.stages import Stages


class Pipeline:
    """Optimizers and integrators of the same Atoms, each on a rank of its own; made by ``|``.

    ``torchrun --nproc-per-node=2 script.py`` starts a script once for each rank, and every rank
    makes the same list. What a structure is done with on one rank goes on to the next::

        relax = FIRE(systems)
        heat = Langevin(systems, timestep=2 * fs, temperature_K=600, friction=0.01 / fs)
        pipe = relax | heat
        pipe.run(fmax=0.05, steps=[None, 1000])
        print([result.energy for result in pipe.results])

    A structure does what it does in ``relax + heat``, bit for bit on the CPU. When ``run`` returns,
    the Atoms are up to date on every rank, and so is ``results``; whatever else a script does, all
    ranks do.

    Parameters
    ----------
    stages
        Optimizers of ``nvdyn_ase.optimize``, integrators of ``nvdyn_ase.md``, or several of them
        put together by ``+``, which were given the same list, and no observers of their own.
    replicas
        On how many ranks a stage is, by its number from 0; on one by default.

    Attributes
    ----------
    stages, replicas
        As given.
    atoms
        The structures.

    Raises
    ------
    TypeError
        Something else, or one that leaves its Atoms to ASE's own code.
    ValueError
        They have other Atoms, filters that differ, or observers, which no rank could call with all
        Atoms current; a trajectory and the log of an integrator are such.
    """

    def __init__(
        self, stages: Sequence[EngineFacade | Stages], replicas: Mapping[int, int] | None = None
    ) -> None:
        self.stages, self.replicas = list(stages), dict(replicas or {})
        parts = [own.facades if isinstance(own, Stages) else [own] for own in stages]
        self._lengths = [len(own) for own in parts]
        for own in self.stages:
            if own._observers if isinstance(own, Stages) else getattr(own, "observers", ()):
                raise ValueError(
                    f"{type(own).__name__} has observers (attach, a trajectory or a log), and no "
                    "rank of a pipeline has all Atoms as they are in a step; leave them out"
                )
        self._whole = Stages([facade for own in parts for facade in own])
        self.atoms = self._whole.atoms
        self._driver: AtomsDriver | None = None

    def __repr__(self) -> str:
        """Say what follows what, and on how many ranks."""
        names = []
        for number, own in enumerate(self.stages):
            parts = own.facades if isinstance(own, Stages) else [own]
            name = " + ".join(type(facade).__name__ for facade in parts)
            count = self.replicas.get(number, 1)
            names.append((f"({name})" if len(parts) > 1 else name) + f" x {count}" * (count > 1))
        return f"Pipeline({' | '.join(names)}, {len(self.atoms)} structures)"

    def __or__(self, other: Any) -> "Pipeline":
        """Return these stages and, on other ranks behind them, those of another one."""
        more, replicas = [other], {}
        if isinstance(other, Pipeline):
            shift = len(self.stages)
            more = other.stages
            replicas = {number + shift: count for number, count in other.replicas.items()}
        return Pipeline([*self.stages, *more], self.replicas | replicas)

    def run(self, fmax: Any = 0.05, steps: Any = None) -> bool:
        """Move every structure through all stages; say whether each met the last criterion.

        If it raises, the Atoms are as they were before, on every rank.

        Parameters
        ----------
        fmax, steps
            As in :meth:`nvdyn_ase.optimize.stages.Stages.run`: one number, or one for each
            optimizer and integrator.

        Raises
        ------
        ValueError
            Not one value each, an integrator without steps, or one stage only.
        RuntimeError
            There are not as many ranks as stages and replicas.
        PipelineError
            Another rank has failed; it is named, with the reason.
        """
        engines = self._whole.engines(fmax, steps)
        batch = batch_from_atoms(self.atoms, copy_constraints=False)
        Filters(self._whole.items).put(batch)
        room = BufferConfig(len(batch), batch.num_nodes, batch.num_edges)
        stages = dict(enumerate(self._stages(engines)))
        for engine in stages.values():
            engine.buffer_config, engine.max_batch_size = room, len(batch)
        with DistributedPipeline(stages, replicas=self.replicas) as pipeline:
            pipeline.run(batch)
            found = gathered(pipeline)
        if "stage_steps" in found:  # of some stages only
            del found["stage_steps"]
        self._driver = self._whole.driver(engines)
        self._driver.take_over(found)
        return all(result.converged for result in self.results)

    def _stages(self, engines: Sequence[BaseDynamics]) -> Iterator[BaseDynamics]:
        """Yield what each rank moves systems with."""
        first = 0
        for length in self._lengths:
            own = engines[first : first + length]
            yield own[0] if length == 1 else FusedStage(list(enumerate(own)))
            first += length

    @property
    def results(self) -> list[Result]:
        """How each structure has ended in the last run, without steps of single stages."""
        if self._driver is None:
            raise AttributeError("results are there after run")
        return self._driver.results()
