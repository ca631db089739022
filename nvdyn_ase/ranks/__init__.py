"""One job in several processes, as ``torchrun`` starts them: who is there, and who does what."""

from nvdyn_ase.ranks.claims import Claims, Positions, Shares
from nvdyn_ase.ranks.job import RankError, RankJob
from nvdyn_ase.ranks.shared_bar import SharedBar
from nvdyn_ase.ranks.signs_of_life import SignsOfLife, Stopped
from nvdyn_ase.ranks.summing import facts_of, summed

__all__ = [
    "Claims",
    "Positions",
    "RankError",
    "RankJob",
    "SharedBar",
    "Shares",
    "SignsOfLife",
    "Stopped",
    "facts_of",
    "summed",
]
