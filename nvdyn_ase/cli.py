"""The command ``nvdyn-ase``: what :mod:`nvdyn_ase.workflows` does, from files to files."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from nvdyn_ase import __version__
from nvdyn_ase.method_options import add_dynamics, add_relaxation, assignment

_DESCRIPTION = """\
Relaxation, molecular dynamics and evaluation of structures in files, many at a time, with the
numbers of ASE."""

_RELAX_DESCRIPTION = """\
Relax every structure in the input files, many at a time, and write all of them to one file. Each
ends as it would have alone in ASE.

  nvdyn-ase relax start.extxyz -o relaxed.extxyz --model emt
  nvdyn-ase relax *.cif -o relaxed.traj --model emt --fmax 0.01 --steps 1000
  nvdyn-ase relax start.traj@:100 -o 'POSCAR_{index}' --output-format vasp --model emt
  nvdyn-ase relax argon.xyz -o out.db --model lj --model-option sigma=3.405 \\
      --model-option epsilon=0.0103 --model-option rc=8.5
  nvdyn-ase relax big.extxyz -o out.db --model emt --resume
"""

_MD_DESCRIPTION = """\
Let every structure in the input files move for so many steps, and write all of them, as they are
then, to one file. One that is at rest gets velocities of the temperature first.

  nvdyn-ase md start.extxyz -o after.extxyz --model emt --steps 1000 --temperature 300
"""

_EVALUATE_DESCRIPTION = """\
Compute energy, forces and, where the model has it, stress of every structure in the input files.

  nvdyn-ase evaluate structures.extxyz -o evaluated.db --model emt
"""

_RUN_DESCRIPTION = """\
Let every structure in the input files go through several stages, each as soon as it is done with
the one before, and write all of them, as they are then, to one file.

  nvdyn-ase run anneal.toml start.extxyz -o annealed.db --model emt

anneal.toml has a table for each stage. Its keys are the options of relax or md, without dashes in
front; an option that takes KEY=VALUE is a table.

  [[stage]]
  method = "relax"
  fmax = 0.3

  [[stage]]
  method = "md"
  steps = 1000
  temperature = 600
  option = {friction = 0.002}

  [[stage]]
  method = "relax"
  optimizer = "LBFGS"
  fmax = 0.02

A relaxation that has not converged in its steps goes on to the next stage all the same. Structures
at rest get velocities of the temperature of the first md. The seed of a stage is its number, from
0, unless it says another. A cell filter has to be the same in all relaxations.
"""

_EPILOG = """\
output
  The format follows from the name, as in ase.io. Structures are written as they are done, where the
  format can be added to (extxyz, traj, db), otherwise at the end; input_index is the position in
  the input. Until all is done the file is called NAME.partial.EXT, and it is left under that name
  if something stops the command, so that a file without .partial is complete. A file that exists
  is not replaced unless --overwrite is given. What was run, with which model, versions and input,
  is in NAME.provenance.json or, of a database, in its metadata.

  Energy, forces and stress are stored as usual; info, or of a database the key-value pairs, say how
  each structure ended, with the name of the command for JOB:
    JOB_converged, JOB_steps, JOB_evaluations, JOB_fmax (eV/Å)
    JOB_outcome  converged; budget (steps used up); not_finite, exploded, rejected or error (failed)
    JOB_reason   why it failed
    run_steps_1, run_steps_2, ...  steps in each stage of run
  A structure that failed is written too, as far as it got, without energy and forces.

if it was stopped
  The same command with --resume goes on: what is done is not done again, and what was being moved
  goes on from a checkpoint, at most --checkpoint-every steps old, beside the output. It ends as an
  undisturbed run would have.

on many GPUs or nodes
  torchrun --nproc-per-node=4 -m nvdyn_ase relax ... shares the input over the ranks and writes one
  output. The exit status is 0 then when every structure is in it, however it ended.

exit status
  0 all converged, or did their steps; 1 some did not, or failed; 2 bad usage, unreadable input or
  output that cannot be written; 130 interrupted. Of a complete output --resume says again what the
  run has said, where the format tells how structures ended.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status.

    Parameters
    ----------
    argv
        The words after the command; those of the process by default.
    """
    try:
        with _once():
            arguments = _parsed(argv)
    except SystemExit as leave:  # argparse has said why
        return int(leave.code or 0)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.output is None and not arguments.dry_run:
        parser.error("-o/--output is required, except with --dry-run")
    return arguments


def _is_launched() -> bool:
    """Say whether this process is one of several, as torchrun starts them."""
    said = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(os.environ.get(name) for name in said)


@contextmanager
def _once() -> Iterator[None]:
    """Let only the first of the processes of a job speak: all would say the same."""
    if not _is_launched() or os.environ["RANK"] == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _run(arguments: argparse.Namespace) -> int:
    # Torch takes seconds to import, for which help and typing errors should not wait.
    from nvdyn_ase import commands

    if _is_launched():
        from nvdyn_ase import rank_commands

        return rank_commands.run(arguments)
    try:
        return (commands.plan_files if arguments.dry_run else commands.run_files)(arguments)
    except commands.FOR_THE_USER as error:
        print(f"nvdyn-ase: error: {error}", file=sys.stderr)
        return 2


# -------------------------------------------------------------------- what can be asked for


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nvdyn-ase", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"nvdyn-ase {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_relax(commands)
    _add_md(commands)
    _add_evaluate(commands)
    _add_run(commands)
    return parser


def _add_command(
    commands: Any, name: str, short: str, description: str, first: str | None = None
) -> argparse.ArgumentParser:
    """Add a command with what all of them have: files, a model, batches, what is shown."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(job=name)
    if first is not None:
        parser.add_argument(first, metavar=first.upper(), help="a TOML file that says what to do")
    _add_files(parser)
    _add_energy(parser)
    _add_batches(parser)
    seen = parser.add_argument_group("what is shown")
    seen.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar; by default, if this is a terminal",
    )
    seen.add_argument("--quiet", action="store_true", help="neither bar nor summary")
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
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
        metavar="NAME",
        help="anything that ase.io writes; with {index} in it, or {index:04d}, one file for each "
        "structure",
    )
    files.add_argument(
        "--dry-run",
        action="store_true",
        help="read the input, time a sample, say what a run would take, and write nothing",
    )
    files.add_argument("--input-format", metavar="FORMAT", help="if the name does not tell")
    files.add_argument("--output-format", metavar="FORMAT", help="if the name does not tell")
    files.add_argument("--overwrite", action="store_true", help="replace output that exists")
    files.add_argument(
        "--ordered", action="store_true", help="write in the order of the input; early ones wait"
    )
    files.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    files.add_argument(
        "--retry-failed", action="store_true", help="with --resume, do those that failed again"
    )
    files.add_argument(
        "--checkpoint-every",
        type=_at_least_one,
        default=100,
        metavar="N",
        help="save what is being moved every N steps (%(default)s)",
    )


def _add_energy(parser: argparse.ArgumentParser) -> None:
    energy = parser.add_argument_group("energy and forces")
    energy.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="emt, eam, lj, morse, sw, tersoff, table, d3, coulomb, harmonic, chgnet, mace, "
        "sevennet, orb, mattersim, fairchem, aimnet2, metatomic, or a name that a package has "
        "registered",
    )
    energy.add_argument(
        "--model-option",
        action="append",
        default=[],
        type=assignment,
        metavar="KEY=VALUE",
        help="parameter of the model, as sigma=3.4; may be repeated",
    )
    energy.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; the model's own by default"
    )


def _add_batches(parser: argparse.ArgumentParser) -> None:
    batches = parser.add_argument_group("batches; results do not depend on them")
    batches.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="N",
        help="structures moved together (%(default)s)",
    )
    batches.add_argument(
        "--max-atoms", type=_at_least_one, metavar="N", help="atoms moved together, instead"
    )


def _add_relax(commands: Any) -> None:
    parser = _add_command(commands, "relax", "relax structures", _RELAX_DESCRIPTION)
    add_relaxation(parser.add_argument_group("method"))


def _add_md(commands: Any) -> None:
    parser = _add_command(commands, "md", "molecular dynamics", _MD_DESCRIPTION)
    add_dynamics(parser.add_argument_group("method"))


def _add_evaluate(commands: Any) -> None:
    _add_command(commands, "evaluate", "energies and forces", _EVALUATE_DESCRIPTION)


def _add_run(commands: Any) -> None:
    _add_command(commands, "run", "several stages one after the other", _RUN_DESCRIPTION, "stages")


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value
