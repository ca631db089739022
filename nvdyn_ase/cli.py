"""The command ``nvdyn-ase``: what :mod:`nvdyn_ase.workflows` does, from files to files."""

import argparse
import ast
import sys
from typing import Any

from nvdyn_ase import __version__

_DESCRIPTION = "Batched relaxation of structures in files, with the numbers of ASE."

_RELAX_DESCRIPTION = """\
Relax every structure in the input files, many at a time, and write all of them, in the order of the
input, to one file. Each ends as it would have alone in ASE.

  nvdyn-ase relax start.extxyz -o relaxed.extxyz --model emt
  nvdyn-ase relax *.cif -o relaxed.traj --model emt --fmax 0.01 --steps 1000
  nvdyn-ase relax start.traj@:100 -o 'POSCAR_{index}' --output-format vasp --model emt
  nvdyn-ase relax argon.xyz -o out.xyz --model lj --model-option sigma=3.405 \\
      --model-option epsilon=0.0103 --model-option rc=8.5
"""

_RELAX_EPILOG = """\
output
  The format follows from the name, as in ase.io. Results are written as they come, where the format
  can be added to (extxyz, traj, db), otherwise at the end. Until all is done the file is called
  NAME.partial.EXT, and it is left under that name if something stops the command, so that a file
  without .partial is complete. A file that exists is not replaced unless --overwrite is given.

  Energy, forces and stress are stored as usual; info says how each structure ended:
    relax_converged, relax_steps, relax_evaluations, relax_fmax (eV/Å)
    relax_outcome  converged; budget (steps used up); nan, rejected or error (failed)
    relax_reason   why it failed
  A structure that failed is written too, as far as it got, without energy and forces.

exit status
  0 all converged; 1 some did not converge, or failed; 2 bad usage, unreadable input or output that
  cannot be written; 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status.

    Parameters
    ----------
    argv
        The words after the command; those of the process by default.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as leave:  # argparse has said why
        return int(leave.code or 0)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    # Torch takes seconds to import, for which help and typing errors should not wait.
    from nvdyn_ase import commands

    try:
        return getattr(commands, arguments.command)(arguments)
    except commands.FOR_THE_USER as error:
        print(f"nvdyn-ase: error: {error}", file=sys.stderr)
        return 2


# -------------------------------------------------------------------- what can be asked for


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nvdyn-ase", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"nvdyn-ase {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_relax(commands)
    return parser


def _add_relax(commands: Any) -> None:
    parser = commands.add_parser(
        "relax",
        help="relax structures",
        description=_RELAX_DESCRIPTION,
        epilog=_RELAX_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command="relax_files")
    files = parser.add_argument_group("files")
    files.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="anything that ase.io reads; NAME@START:STOP takes a part of it",
    )
    files.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="NAME",
        help="anything that ase.io writes; with {index} in it, one file for each structure",
    )
    files.add_argument("--input-format", metavar="FORMAT", help="if the name does not tell")
    files.add_argument("--output-format", metavar="FORMAT", help="if the name does not tell")
    files.add_argument("--overwrite", action="store_true", help="replace output that exists")
    energy = parser.add_argument_group("energy and forces")
    energy.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="emt, lj, morse, harmonic, or a name that another package has registered",
    )
    energy.add_argument(
        "--model-option",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="parameter of the model, as sigma=3.4; may be repeated",
    )
    energy.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; the model's own by default"
    )
    method = parser.add_argument_group("method")
    method.add_argument(
        "--fmax", type=float, default=0.05, help="largest force at the end, eV/Å (%(default)s)"
    )
    method.add_argument(
        "--steps", type=int, default=500, help="at most, for each structure (%(default)s)"
    )
    method.add_argument(
        "--optimizer", default="FIRE", metavar="NAME", help="of nvdyn_ase.optimize (%(default)s)"
    )
    method.add_argument(
        "--option",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="parameter of the optimizer, as maxstep=0.1; may be repeated",
    )
    method.add_argument(
        "--cell-filter",
        metavar="NAME",
        help="relax the cells too, with this class of nvdyn_ase.filters, as FrechetCellFilter",
    )
    method.add_argument(
        "--filter-option",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="parameter of the filter, as scalar_pressure=0.01; may be repeated",
    )
    method.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="N",
        help="structures relaxed together (%(default)s); results do not depend on it",
    )
    seen = parser.add_argument_group("what is shown")
    seen.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar; by default, if this is a terminal",
    )
    seen.add_argument("--quiet", action="store_true", help="neither bar nor summary")


def _assignment(text: str) -> tuple[str, Any]:
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


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)
