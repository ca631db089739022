"""What each system's constraints say of themselves, and how those of a batch act together."""

from nvdyn_ase.dynamics.constraints.batch_constraints import BatchConstraints
from nvdyn_ase.dynamics.constraints.bond_lengths import BondLengths, BondLengthsKind
from nvdyn_ase.dynamics.constraints.cartesian import Cartesian
from nvdyn_ase.dynamics.constraints.centre_of_mass import CentreOfMass
from nvdyn_ase.dynamics.constraints.external_force import ExternalForce
from nvdyn_ase.dynamics.constraints.hookean import Spring, Tether, Wall
from nvdyn_ase.dynamics.constraints.hosted import Constraint
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member
from nvdyn_ase.dynamics.constraints.line_and_plane import Line, Plane
from nvdyn_ase.dynamics.constraints.mode import Mode
from nvdyn_ase.dynamics.constraints.scaled import Scaled
from nvdyn_ase.dynamics.constraints.symmetry import Symmetry

__all__ = [
    "BatchConstraints",
    "BondLengths",
    "BondLengthsKind",
    "Cartesian",
    "CentreOfMass",
    "Constraint",
    "Description",
    "ExternalForce",
    "Kind",
    "Line",
    "Member",
    "Mode",
    "Plane",
    "Scaled",
    "Spring",
    "Symmetry",
    "Tether",
    "Wall",
]
