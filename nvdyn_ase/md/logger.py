"""ASE's log of molecular dynamics."""

from ase.md.logger import MDLogger

__all__ = ["MDLogger"]
