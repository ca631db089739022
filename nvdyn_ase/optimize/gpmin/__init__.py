"""Gaussian process minimization, for one Atoms."""
