"""Files of structures that can be added to, and that survive being cut off at any moment."""

from nvdyn_ase.files.database import DatabaseFile
from nvdyn_ase.files.extxyz import ExtxyzFile
from nvdyn_ase.files.structure_file import INDEX, DamagedFileError, StructureFile
from nvdyn_ase.files.trajectory import TrajectoryFile

__all__ = [
    "INDEX",
    "DamagedFileError",
    "DatabaseFile",
    "ExtxyzFile",
    "StructureFile",
    "TrajectoryFile",
]
