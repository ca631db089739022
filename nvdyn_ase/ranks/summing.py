"""One summary of what all ranks have done."""

from collections.abc import Iterable, Mapping
from typing import Any

from nvdyn_ase.progress import Summary

_COUNTS = ("converged", "not_converged", "failed", "steps", "evaluations")


def facts_of(summary: Summary, problems: Mapping[int, str]) -> dict[str, Any]:
    """Return what a rank tells of its part, as JSON holds it.

    Parameters
    ----------
    summary
        Of its results.
    problems
        What could not be read, by position.
    """
    counts = {name: getattr(summary, name) for name in _COUNTS}
    told = [[index, problem] for index, problem in problems.items()]
    return counts | {
        "most_steps": summary.most_steps,
        "failures": summary.failures,
        "problems": told,
    }


def summed(summary: Summary, parts: Iterable[Mapping[str, Any]], before: int) -> Summary:
    """Make a summary that of all ranks; what failed is in the order of the input.

    Parameters
    ----------
    summary
        The one to be changed; it keeps its time.
    parts
        What the ranks have told, this one too.
    before
        Structures that an earlier run has done.
    """
    parts = list(parts)
    for name in _COUNTS:
        setattr(summary, name, sum(part[name] for part in parts))
    summary.most_steps = max(part["most_steps"] for part in parts)
    summary.before = before
    failures = sorted(tuple(one) for part in parts for one in part["failures"])
    problems = sorted(tuple(one) for part in parts for one in part["problems"])
    summary.failures = failures[: summary.failures_shown]
    for index, problem in problems:
        summary.unreadable(index, problem)
    return summary
