"""Who is near whom: one batched interface, with a skin, over several ways to search."""

from nvdyn_ase.neighbors.neighbor_list import NeighborList
from nvdyn_ase.neighbors.pairs import DevicePairs, FlatPairs, Pairs

__all__ = ["DevicePairs", "FlatPairs", "NeighborList", "Pairs"]
