"""``ase.filters`` under this name: the optimizers here take lists that have them in.

``Filter``, ``StrainFilter``, ``UnitCellFilter``, ``FrechetCellFilter`` and ``ExpCellFilter`` are
ASE's own classes. A filter in a list is moved by the engine; see ``nvdyn_ase.atoms.filters``.
"""

from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter

from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["ExpCellFilter", "Filter", "FrechetCellFilter", "StrainFilter", "UnitCellFilter"]

__getattr__ = rest_of_module(__name__)
