"""``relax + md``: engines put one after the other."""

from collections.abc import Sequence
from typing import Any

from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.fused import FusedStage


def joined(first: BaseDynamics, second: Any) -> FusedStage:
    """Return two engines, or what they are made of, as stages one after the other.

    Raises
    ------
    TypeError
        One of them is no engine.
    ValueError
        They cannot share a batch, or say different things of what is for all stages.
    """
    if not isinstance(second, BaseDynamics):
        raise TypeError(
            f"an engine can be followed by an engine, not by {type(second).__name__}; "
            "for a pipeline over ranks use |"
        )
    parts = [first, second]
    engines = [own for part in parts for own in _engines(part)]
    fused = [part for part in parts if isinstance(part, FusedStage)]
    options: dict[str, Any] = {
        "sampler": _said("sampler", [part.sampler for part in parts]),
        "n_steps": _said("n_steps", [part.n_steps for part in fused]),
        "init_fn": _said("init_fn", [part.init_fn for part in fused]),
        "sinks": [sink for part in parts for sink in part.given_sinks],
        "hooks": [hook for part in fused for hook in part._registry.all()],
        "compile_step": any(part.compile_step for part in fused),
        "compile_kwargs": {key: v for part in fused for key, v in part.compile_kwargs.items()},
        "refill_frequency": max(part.refill_frequency for part in parts),
        "debug_mode": any(part.debug_mode for part in parts),
        "buffer_config": _said_equal("buffer_config", [part.buffer_config for part in parts]),
        "max_batch_size": max(part.max_batch_size for part in parts),
    }
    whole = FusedStage(list(enumerate(engines)), **options)
    frequencies = [part.convergence_check_frequency for part in fused]
    whole.convergence_check_frequency = max([1, *frequencies])
    return whole


def _said(name: str, values: Sequence[Any]) -> Any:
    """Return the one thing that is said; None if nothing is."""
    said = [value for value in values if value is not None]
    if any(value is not said[0] for value in said):
        raise ValueError(f"both have {name}, and not the same; give it to one of them")
    return said[0] if said else None


def _said_equal(name: str, values: Sequence[Any]) -> Any:
    """Return what is said, once or several times alike; None if nothing is."""
    said = [value for value in values if value is not None]
    if any(value != said[0] for value in said):
        raise ValueError(f"both have {name}, and not the same; give it to one of them")
    return said[0] if said else None


def _engines(part: BaseDynamics) -> list[BaseDynamics]:
    return [own for _, own in part.sub_stages] if isinstance(part, FusedStage) else [part]
