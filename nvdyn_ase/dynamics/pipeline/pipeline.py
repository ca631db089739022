"""Stages on the ranks of ``torch.distributed``."""

import os
from collections.abc import Mapping
from functools import cache
from itertools import count
from typing import Any, Self

import torch
import torch.distributed as dist
from loguru import logger
from torch.distributed.rendezvous import rendezvous

from nvdyn_ase.data import Batch
from nvdyn_ase.data.messages import Transport
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.communication import is_distributed
from nvdyn_ase.dynamics.pipeline.arrivals import Arrivals
from nvdyn_ase.dynamics.pipeline.departures import Departures
from nvdyn_ase.dynamics.pipeline.post import Post
from nvdyn_ase.dynamics.pipeline.resuming import leave_out_what_is_done
from nvdyn_ase.dynamics.pipeline.stage_run import BufferCheck, StageRun, given
from nvdyn_ase.dynamics.pipeline.watch import PipelineError, Watch
from nvdyn_ase.dynamics.pipeline.wiring import Wiring
from nvdyn_ase.dynamics.sampler import SizeAwareSampler


class DistributedPipeline:
    """Engines on ranks of their own: what one is done with, the next moves on.

    Every rank runs the same script, as ``torchrun`` starts it, and makes the same pipeline; each
    then runs the one stage that is its own. Ranks do not march in step: systems go on when there
    are some and the next stage has room, and where it has none they wait. A stage that is slower
    than the others gets more ranks. What a system does in a stage is what it would do in a run of
    that engine alone.

    Parameters
    ----------
    stages
        The engines by rank; with replicas, by their order. Neighbours are linked, unless
        ``prior_rank`` or ``next_rank`` of an engine say otherwise; so there may be several chains.
    synchronized
        Let all ranks wait for one another after every step, for debugging.
    debug_mode
        Have every engine write detailed debug lines.
    replicas
        On how many ranks a stage is, by its key in ``stages``. The same engine at several keys in
        a row means the same.
    **init_process_group_kwargs
        For ``torch.distributed.init_process_group``, if there is no process group yet. The backend
        is gloo by default and, for tensors on GPUs, NCCL if every rank has one of its own.

    Raises
    ------
    TypeError
        A stage that is no engine.
    ValueError
        Links that contradict one another, or replicas of no stage.
    """

    def __init__(
        self,
        stages: Mapping[int, BaseDynamics],
        synchronized: bool = False,
        debug_mode: bool = False,
        replicas: Mapping[int, int] | None = None,
        **init_process_group_kwargs: Any,
    ) -> None:
        for engine in stages.values():
            if not isinstance(engine, BaseDynamics):
                raise TypeError(f"a stage must be an engine, not {type(engine).__name__}")
        self.stages = dict(stages)
        self.synchronized, self.debug_mode = synchronized, debug_mode
        self.replicas = dict(replicas or {})
        self.init_process_group_kwargs = init_process_group_kwargs
        self.wiring = Wiring(self.stages, self.replicas)
        self._made_group = self._is_set_up = False
        self._before: dict[str, Any] = {}
        self._stepping = False

    def __repr__(self) -> str:
        """Say what the stages are, and on how many ranks."""
        parts = [
            repr(engine) + (f" x {count}" if (count := self.wiring.replicas[key]) > 1 else "")
            for key, engine in self.wiring.stages.items()
        ]
        return f"DistributedPipeline({' | '.join(parts)})"

    # ---------------------------------------------------------------- composing

    @classmethod
    def joined(cls, first: Any, second: Any) -> "DistributedPipeline":
        """Return the stages of both, one behind the other: engines or pipelines.

        Raises
        ------
        TypeError
            One of them is neither.
        RuntimeError
            One is a pipeline whose ranks are at work already.
        """
        parts = [cls._as_pipeline(part) for part in (first, second)]
        wiring = parts[0].wiring.followed_by(parts[1].wiring)
        kwargs = {k: v for part in parts for k, v in part.init_process_group_kwargs.items()}
        whole = cls({}, **kwargs)
        whole.synchronized = any(part.synchronized for part in parts)
        whole.debug_mode = any(part.debug_mode for part in parts)
        whole.wiring, whole.stages, whole.replicas = wiring, dict(wiring.stages), wiring.replicas
        return whole

    @classmethod
    def _as_pipeline(cls, part: Any) -> "DistributedPipeline":
        if isinstance(part, BaseDynamics):
            return cls({0: part})
        if not isinstance(part, DistributedPipeline):
            raise TypeError(
                f"a stage can be followed by an engine or a pipeline, not by {type(part).__name__}"
            )
        if part._is_set_up:
            raise RuntimeError("this pipeline is set up already; compose before that")
        return part

    def __or__(self, other: Any) -> "DistributedPipeline":
        """Return these stages and behind them those of an engine or a pipeline."""
        return self.joined(self, other)

    # ---------------------------------------------------------------- which rank this is

    @property
    def global_rank(self) -> int:
        """Of this process among all."""
        return self._any_engine.global_rank

    @property
    def local_rank(self) -> int:
        """Of this process among those of its machine."""
        return self._any_engine.local_rank

    @property
    def local_stage(self) -> BaseDynamics:
        """The engine of this rank; KeyError if it has none."""
        return self.wiring.stages[self.wiring.stage_of(self.global_rank)]

    @property
    def _any_engine(self) -> BaseDynamics:
        return next(iter(self.wiring.stages.values()))

    # ---------------------------------------------------------------- beginning and ending

    def init_distributed(self) -> None:
        """Make a process group, if there is none.

        Raises
        ------
        RuntimeError
            There are not as many ranks as the stages need, or nobody has started any.
        """
        if not is_distributed():
            given = self.init_process_group_kwargs
            kwargs = {"backend": self._backend(), **given}
            size = kwargs.get("world_size", os.environ.get("WORLD_SIZE"))
            if size is None and not {"init_method", "store"} & given.keys():
                raise RuntimeError(
                    f"the stages need {self.wiring.size} ranks, and there is this process alone: "
                    f"start the script with torchrun --nproc-per-node={self.wiring.size}"
                )
            self._check_size(None if size is None else int(size))
            if not {"init_method", "store", "rank", "world_size"} & given.keys():
                kwargs |= _own_part_of_the_store()
            dist.init_process_group(**kwargs)
            self._made_group = True
        self._check_size(dist.get_world_size())
        if Transport.of(None).header.type == "cuda":
            raise RuntimeError(
                "the process group has NCCL alone, which cannot listen and send at once; make it "
                "with backend='cpu:gloo,cuda:nccl', or leave it to the pipeline"
            )

    def _check_size(self, size: int | None) -> None:
        if size is not None and size not in (-1, self.wiring.size):
            raise RuntimeError(
                f"the stages need {self.wiring.size} ranks, and there are {size}: start as many, "
                "with torchrun --nproc-per-node, or change replicas"
            )

    def _backend(self) -> str:
        """Return NCCL for what is on GPUs if every rank has one of its own, and gloo otherwise."""
        devices = {engine.device.type for engine in self.wiring.stages.values()}
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", self.wiring.size))
        if devices == {"cuda"} and ranks_here <= torch.cuda.device_count():
            return "cpu:gloo,cuda:nccl"
        return "gloo"

    def setup(self) -> None:
        """Make the process group, and this rank's stage ready; once is enough.

        Raises
        ------
        ValueError
            One stage only, or what is wrong with which stage: a buffer that is missing or not that
            of its neighbour, a sampler or sinks where they have no place, nothing that ends it.
        RuntimeError
            Not as many ranks as the stages need, or a model that cannot be moved to a device.
        """
        if self._is_set_up:
            return
        self.wiring.check()
        self.init_distributed()
        rank = dist.get_rank()
        store = dist.distributed_c10d._get_default_store()
        turn = store.add(f"nvdyn_ase/pipelines/{rank}", 1)
        store = dist.PrefixStore(f"nvdyn_ase/pipeline {turn}", store)
        self.watch = Watch(store, rank, dist.get_world_size())
        try:
            self._set_up_stage(rank)
        except BaseException as error:
            self._fail(error)
            raise
        self._is_set_up = True

    def _set_up_stage(self, rank: int) -> None:
        key = self.wiring.stage_of(rank)
        engine = self.wiring.stages[key]
        self._place(engine)
        engine.debug_mode = engine.debug_mode or self.debug_mode
        prior, following = self.wiring.before(key), self.wiring.after(key)
        post = Post(prior, following, engine.device, self.watch)
        self._wire(key, engine, post, prior, following)
        if isinstance(engine.sampler, SizeAwareSampler):
            engine.sampler.share(*self.wiring.share_of(rank))

    def _place(self, engine: BaseDynamics) -> None:
        """Put the model where its stage is: of several GPUs, on this rank's."""
        device = engine.device
        if device.type == "cuda":
            if engine.device_type is None or device.index is None:
                device = torch.device("cuda", self.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(device)
        if not callable(getattr(engine.model, "to", None)):
            raise RuntimeError(f"{type(engine.model).__name__} has no .to, and cannot be moved")
        engine.model.to(device)

    def _wire(
        self, key: int, engine: BaseDynamics, post: Post, prior: list[int], following: list[int]
    ) -> None:
        """Put the other ranks where the engine has its sampler and its sinks."""
        names = ["sampler", "prior_rank", "next_rank"]
        names += ["sinks"] if following else []  # those of a last stage have the results
        self._before = {name: getattr(engine, name) for name in names}
        arrivals = departures = None
        source = self.wiring.stages[self.wiring.first_of(key)].sampler
        if prior or engine.sampler is None:
            dataset = getattr(source, "dataset", None)
            engine.sampler = arrivals = Arrivals(engine, post, prior, dataset)
        if following:
            assert engine.buffer_config is not None
            departures = Departures(engine, post, following, engine.buffer_config)
            engine.sinks = [departures]
        engine._need_sinks()
        engine.prior_rank = prior[0] if prior else None
        engine.next_rank = following[0] if following else None
        engine._arrivals, engine._departures = arrivals, departures
        engine.check_coming = BufferCheck(engine) if following and not prior else None
        self.stage_run = StageRun(engine, post, arrivals, departures)

    def cleanup(self) -> None:
        """Give the engine back what it had, and end the process group if it was made here."""
        if self._is_set_up:
            engine = self.local_stage
            for name, value in self._before.items():
                setattr(engine, name, value)
            engine._arrivals = engine._departures = engine.check_coming = None
            self._is_set_up = False
        if self._made_group and is_distributed():
            dist.destroy_process_group()
        self._made_group = False

    def __enter__(self) -> Self:
        """Set up."""
        self.setup()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Clean up; if something has failed here, tell the other ranks what."""
        if self._is_set_up and error is not None and not isinstance(error, PipelineError):
            self.watch.fail(self.watch.rank, f"{type(error).__name__}: {error}")
        self.cleanup()

    # ---------------------------------------------------------------- running

    def run(self, batch: Batch | None = None, resume: bool = False) -> Batch | None:
        """Run this rank's stage until all systems have gone through, or no sink takes more.

        Parameters
        ----------
        batch
            What the first stages begin with, those that have no sampler; the same on every rank.
        resume
            Leave out systems that the sinks at the end of the chain have already, by their
            ``system_id``, from a start of the same work that was cut off. Whatever was on its way
            begins anew, and as its random numbers are its own, ends as it would have.

        Returns
        -------
        Batch or None
            On the last rank of a chain, what its sinks had no room for; None otherwise.

        Raises
        ------
        StructureError
            A system that is larger than the buffers.
        PipelineError
            Another rank has failed; it is named, with the reason.
        ValueError
            No batch and no sampler.
        TypeError
            ``resume``, and a sampler that cannot leave systems out.
        """
        self.setup()
        try:
            self._begin(batch)
            if resume:
                leave_out_what_is_done(self.stage_run, self.wiring, self.watch)
            engine = self.stage_run.engine
            with engine.entered_hooks():
                try:
                    while self._turn(wait=not self.synchronized):
                        pass
                except BaseException:
                    self.stage_run.abandon()
                    raise
                left = self.stage_run.end()
            self._finish()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self.stage_run.post.close()
        return left

    def step(self) -> bool:
        """Do one turn of this rank's stage; say whether there is more to do.

        It is for debugging: to run to the end use :meth:`run`.

        Raises
        ------
        RuntimeError
            The pipeline is not set up.
        """
        if not self._is_set_up:
            raise RuntimeError("set the pipeline up before stepping it: with pipeline: ...")
        try:
            if not self._stepping:
                self._begin(None)
                self._stepping = True
            if self._turn(wait=False):
                return True
            self.stage_run.end()
            self._finish()
        except BaseException as error:
            self._fail(error)
            raise
        self._stepping = False
        self.stage_run.post.close()
        return False

    def _begin(self, batch: Batch | None) -> None:
        run = self.stage_run
        engine = run.engine
        if self.debug_mode:
            logger.debug("rank {}: {!r} begins", self.global_rank, engine)
        if batch is not None:
            self._give(batch)
        elif not engine.inflight_mode or (
            run.arrivals is not None
            and not run.arrivals.ranks
            and run.arrivals.exhausted
            and not engine.active_batch_size
        ):
            raise ValueError("run needs a batch, or a sampler of the first stage that gives one")
        if engine.check_coming is not None:
            engine.check_coming.check_sampler()
        run.begin()

    def _give(self, batch: Batch) -> None:
        """Hand what the user gives to the first stage, where this is it."""
        arrivals = self.stage_run.arrivals
        if arrivals is None:
            raise ValueError("the first stage has a sampler: run() takes no batch beside it")
        numbers = given(batch := batch.index_select(slice(None)))
        arrivals.dataset = numbers
        if not arrivals.ranks:
            part, parts = self.wiring.share_of(self.global_rank)
            own = batch.index_select(slice(part, None, parts))
            if arrivals.engine.check_coming is not None:
                arrivals.engine.check_coming(own)
            arrivals.add(own.to(arrivals.engine.device))

    def _turn(self, wait: bool) -> bool:
        goes_on = self.stage_run.turn(wait)
        if not self.synchronized:
            return goes_on
        working = torch.tensor([int(goes_on)])
        dist.all_reduce(working)
        return bool(working)

    def _finish(self) -> None:
        """Wait until every rank has ended the run: who holds the store must not leave before."""
        self.watch.wait_for_all(self.stage_run.post.check)

    def _fail(self, error: BaseException) -> None:
        """Tell the others why this rank ends, if it is not because one of them has."""
        if not isinstance(error, PipelineError):
            self.watch.fail(self.watch.rank, f"{type(error).__name__}: {error}")
        self.watch.leave()


#: Numbers of the process groups that pipelines make in this process.
_groups = count()


@cache
def _rendezvous() -> tuple[dist.Store, int, int]:
    """Return the store that all ranks have, this rank and their number, as torchrun says."""
    return next(iter(rendezvous("env://")))


def _own_part_of_the_store() -> dict[str, Any]:
    """Return where a process group begins.

    A second one in the same part of the store would read where the ranks of the first have been.
    """
    store, rank, size = _rendezvous()
    part = dist.PrefixStore(f"nvdyn_ase/group {next(_groups)}", store)
    return {"store": part, "rank": rank, "world_size": size}
