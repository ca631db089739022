"""Batched relaxation and molecular dynamics for people who use ASE.

``nvdyn_ase.optimize`` and ``nvdyn_ase.md`` have the classes of ``ase.optimize`` and ``ase.md``, and
take lists of Atoms; ``nvdyn_ase.workflows`` runs over streams of structures; ``nvdyn_ase.dynamics``
is the engine below, ``nvdyn_ase.models`` what gives it energies and forces.
"""

__version__ = "0.1.0"
