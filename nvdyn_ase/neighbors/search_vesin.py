"""The search of vesin, a library in C++, for the CPU: G. Fraux and others, https://luthaf.fr/vesin."""

import numpy as np
import vesin

from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.neighbors.canonical import Found
from nvdyn_ase.neighbors.standard import FINE, Standard


def search_vesin(form: Standard) -> Found:
    """Return the pairs within reach, each once.

    It takes one system at a time, on one thread.

    Parameters
    ----------
    form
        The systems.
    """
    parts = []
    for b in range(len(form.cell)):
        atoms = form.positions[form.ptr[b] : form.ptr[b + 1]]
        if form.problem[b] != FINE or not len(atoms):
            parts.append((np.empty((0, 2), np.int32), np.empty((0, 3), np.int32)))
            continue
        finder = vesin.NeighborList(cutoff=form.reach[b], full_list=False, n_threads=1)
        pairs, shifts = finder.compute(atoms, form.cell[b], form.pbc[b], "PS", copy=False)
        parts.append((pairs.astype(np.int32), shifts.copy()))
    pairs = np.concatenate([pairs for pairs, _ in parts] or [np.empty((0, 2), np.int32)])
    shift = np.concatenate([shifts for _, shifts in parts] or [np.empty((0, 3), np.int32)])
    ptr = boundaries(np.array([len(pairs) for pairs, _ in parts], np.int64))
    return Found(pairs[:, 0].copy(), pairs[:, 1].copy(), shift, ptr)
