"""What the output says of how each structure ended."""

import math
from typing import Any

from nvdyn_ase.atoms import Result
from nvdyn_ase.files import INDEX


def marks_of(result: Result, method: str) -> dict[str, Any]:
    """Return what is written beside a structure, by name.

    Parameters
    ----------
    result
        The structure and how it ended.
    method
        What was done: the names begin with it, as ``relax_steps``.
    """
    marks = {
        INDEX: result.index,
        "outcome": result.outcome.word,
        "converged": result.converged,
        "steps": result.steps,
        "evaluations": result.evaluations,
    }
    if math.isfinite(result.fmax):
        marks["fmax"] = result.fmax
    for place, steps in enumerate(result.stage_steps, 1):
        marks[f"steps_{place}"] = steps
    if result.reason:
        marks["reason"] = " ".join(result.reason.split())
    return {key if key == INDEX else f"{method}_{key}": value for key, value in marks.items()}
