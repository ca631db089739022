"""``ase.filters`` under this name: the optimizers here take lists that have them in.

``Filter``, ``StrainFilter``, ``UnitCellFilter``, ``FrechetCellFilter`` and ``ExpCellFilter`` are
ASE's own classes. A filter in a list is moved by the engine; see ``nvdyn_ase.atoms.filters``.
"""

from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter

__all__ = ["ExpCellFilter", "Filter", "FrechetCellFilter", "StrainFilter", "UnitCellFilter"]
