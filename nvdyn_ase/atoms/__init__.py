"""``ase.Atoms`` to systems and batches and back, with constraints and results."""

from nvdyn_ase.atoms.constraints import HostConstraint
from nvdyn_ase.atoms.convert import batch_from_atoms, from_atoms, partition, validate
from nvdyn_ase.atoms.export import batch_to_atoms, batch_to_inputs, to_atoms
from nvdyn_ase.atoms.origin import field_key
from nvdyn_ase.atoms.proxy import CalculatorProxy, unwrapped
from nvdyn_ase.atoms.reading import Changes, read_back
from nvdyn_ase.atoms.report import Result
from nvdyn_ase.atoms.results import PROPERTIES
from nvdyn_ase.atoms.sinks import DatabaseSink, ExtxyzSink, TrajectorySink
from nvdyn_ase.atoms.writing import write_back

__all__ = [
    "PROPERTIES",
    "CalculatorProxy",
    "Changes",
    "DatabaseSink",
    "ExtxyzSink",
    "HostConstraint",
    "Result",
    "TrajectorySink",
    "batch_from_atoms",
    "batch_to_atoms",
    "batch_to_inputs",
    "field_key",
    "from_atoms",
    "partition",
    "read_back",
    "to_atoms",
    "unwrapped",
    "validate",
    "write_back",
]
