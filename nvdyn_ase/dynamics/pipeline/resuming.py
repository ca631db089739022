"""A pipeline that goes on where an earlier start of it was cut off."""

import zlib
from collections.abc import Iterable

import numpy as np

from nvdyn_ase.dynamics.pipeline.stage_run import StageRun
from nvdyn_ase.dynamics.pipeline.watch import Watch
from nvdyn_ase.dynamics.pipeline.wiring import Wiring


def leave_out_what_is_done(run: StageRun, wiring: Wiring, watch: Watch) -> None:
    """Let the first ranks of a chain leave out what the last ones have in their sinks.

    Every rank calls it when a run has begun. Only the ranks that write look into the sinks.

    Raises
    ------
    TypeError
        The sampler of a first stage cannot leave systems out.
    PipelineError
        A rank has failed meanwhile.
    """
    engine, key = run.engine, wiring.stage_of(watch.rank)
    last = wiring.last_ranks(key)
    if watch.rank in last:
        done = [number for sink in engine.sinks for number in sink.system_ids()]
        watch.tell("done", _as_bytes(done))
    if wiring.before(key):
        return
    if not hasattr(engine.sampler, "leave_out"):
        kind = type(engine.sampler).__name__
        raise TypeError(f"resume: a {kind} cannot leave systems out; it needs leave_out(ids)")
    for rank in last:
        engine.sampler.leave_out(_numbers(watch.hear("done", rank, run.post.check)))


def _as_bytes(numbers: Iterable[int]) -> bytes:
    """Return numbers as few bytes: those of ten million structures in a row are 80 kB."""
    return zlib.compress(np.diff(np.sort(np.array([*numbers], np.int64)), prepend=0).tobytes())


def _numbers(packed: bytes) -> set[int]:
    return set(np.cumsum(np.frombuffer(zlib.decompress(packed), np.int64)).tolist())
