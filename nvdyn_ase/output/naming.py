"""From the name of the output to what writes it."""

from pathlib import Path

from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

from nvdyn_ase.output.errors import OutputError
from nvdyn_ase.output.per_structure import FilePerStructure
from nvdyn_ase.output.result_file import ResultFile


def result_file(
    name: str,
    form: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    method: str = "relax",
) -> ResultFile:
    """Return what writes results under a name; nothing is created yet.

    Parameters
    ----------
    name
        Of the file; with ``{index}`` in it, or ``{index:04d}``, of one file for each structure.
    form
        ASE's name of the format; by default what ``ase.io.write`` takes the name for.
    overwrite
        Replace what exists.
    resume
        Go on with what exists; pass it to :meth:`ResultFile.open` too.
    method
        What is done to the structures: names of marks begin with it, as ``relax_steps``.

    Raises
    ------
    OutputError
        ASE does not write this format; there is no such directory; something exists already.
    """
    path = Path(name)
    try:
        form = form or filetype(name, read=False)
        able = get_ioformat(form).can_write and "://" not in name
    except UnknownFileTypeError:
        able = False
    if not able or form is None:
        known = f"the format {form!r}" if form else f"the format that {name!r} stands for"
        raise OutputError(f"ase.io cannot write {known}; --output-format names another")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {name}: there is no directory {path.parent}")
    kind = FilePerStructure if FilePerStructure.is_meant_by(name) else ResultFile
    output = kind(path, form, method)
    existing = output.existing()
    if existing and not (overwrite or resume):
        raise OutputError(f"{existing[0]} exists already; --overwrite replaces it")
    return output
