"""The files that a command writes its results to."""

from nvdyn_ase.output.errors import OutputError
from nvdyn_ase.output.lock import Lock
from nvdyn_ase.output.naming import result_file
from nvdyn_ase.output.per_structure import FilePerStructure
from nvdyn_ase.output.result_file import ResultFile

__all__ = ["FilePerStructure", "Lock", "OutputError", "ResultFile", "result_file"]
