"""What can be asked for of a method, as words of a command or keys of a file of stages."""

import argparse
import ast
from typing import Any


def add_relaxation(group: Any) -> None:
    """Add the options of a relaxation to a parser or a group of its arguments."""
    group.add_argument(
        "--fmax", type=float, default=0.05, help="largest force at the end, eV/Å (%(default)s)"
    )
    group.add_argument(
        "--steps", type=int, default=500, help="at most, for each structure (%(default)s)"
    )
    group.add_argument(
        "--optimizer", default="FIRE", metavar="NAME", help="of nvdyn_ase.optimize (%(default)s)"
    )
    _add_options(group, "--option", "parameter of the optimizer, as maxstep=0.1")
    group.add_argument(
        "--cell-filter",
        metavar="NAME",
        help="relax the cells too, with this class of nvdyn_ase.filters, as FrechetCellFilter",
    )
    _add_options(group, "--filter-option", "parameter of the filter, as scalar_pressure=0.01")


def add_dynamics(group: Any) -> None:
    """Add the options of molecular dynamics to a parser or a group of its arguments."""
    group.add_argument("--steps", type=int, required=True, help="of each structure")
    group.add_argument(
        "--integrator", default="Langevin", metavar="NAME", help="of nvdyn_ase.md (%(default)s)"
    )
    group.add_argument("--timestep", type=float, default=1.0, help="fs (%(default)s)")
    group.add_argument("--temperature", type=float, metavar="T", help="K")
    group.add_argument("--seed", type=int, default=0, help="of random numbers (%(default)s)")
    _add_options(group, "--option", "parameter of the integrator in ASE units, as friction=0.002")


def _add_options(group: Any, name: str, meaning: str) -> None:
    group.add_argument(
        name,
        action="append",
        default=[],
        type=assignment,
        metavar="KEY=VALUE",
        help=f"{meaning}; may be repeated",
    )


def assignment(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is a Python literal, or else a word."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
