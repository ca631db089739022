"""The ways to search for pairs, by name, and which one ``"auto"`` takes."""

from importlib.util import find_spec

import numpy as np
import torch

from nvdyn_ase.neighbors.canonical import Found
from nvdyn_ase.neighbors.search_grid import mark_too_dense, search_grid
from nvdyn_ase.neighbors.search_images import FoundThere, number_of_images, search_images
from nvdyn_ase.neighbors.standard import Standard

BACKENDS = ("auto", "grid", "vesin", "images", "nvalchemi")

# From here on a search on the host, and the copies to and fro, are faster than all images on a GPU.
_MOST_IMAGES_PER_ATOM = 10_000


def check_backend(name: str) -> None:
    """Raise ValueError if there is no such backend, ImportError if it is not installed."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    if name == "nvalchemi" and not _nvalchemi_is_there():
        raise ImportError(
            "backend 'nvalchemi' needs nvalchemi-toolkit-ops: pip install 'nvdyn_ase[cuda]'"
        )
    if name == "vesin" and find_spec("vesin") is None:
        raise ImportError("backend 'vesin' needs vesin: pip install vesin")


def find_on_host(backend: str, form: Standard) -> Found:
    """Return the pairs of systems on the host.

    Parameters
    ----------
    backend
        One of ``BACKENDS``; ``"auto"`` is ``"grid"``.
    form
        The systems. Those with too many pairs get a ``problem``.
    """
    name = "grid" if backend == "auto" else backend
    if name != "grid":
        mark_too_dense(form)
    if name in ("grid", "vesin"):
        return _search_on_host(name, form)
    there = _search_on_device(name, form, torch.device("cpu"))
    system = there.system.numpy()
    ptr = np.searchsorted(system, np.arange(len(form.ptr)))
    base = form.ptr[system]
    return Found(there.i.numpy() - base, there.j.numpy() - base, there.shift.numpy(), ptr)


def find_on_device(backend: str, form: Standard, device: torch.device) -> FoundThere:
    """Return the pairs of systems on a device.

    Parameters
    ----------
    backend
        One of ``BACKENDS``. ``"auto"`` is ``"nvalchemi"`` on CUDA where it is installed; else
        ``"images"``, and ``"grid"`` for systems too large for that.
    form
        The systems. Those with too many pairs get a ``problem``.
    device
        Where the pairs are wanted.
    """
    name = _automatic(form, device) if backend == "auto" else backend
    if name != "grid":
        mark_too_dense(form)
    if name not in ("grid", "vesin"):
        return _search_on_device(name, form, device)
    found = _search_on_host(name, form)
    system = np.repeat(np.arange(len(form.cell)), np.diff(found.ptr))
    base = form.ptr[system]
    arrays = (base + found.i, base + found.j, found.shift.astype(np.int64), system)
    return FoundThere(*(torch.from_numpy(array).to(device) for array in arrays))


def _automatic(form: Standard, device: torch.device) -> str:
    if device.type == "cuda" and _nvalchemi_is_there():
        return "nvalchemi"
    few = number_of_images(form).sum() <= _MOST_IMAGES_PER_ATOM * len(form.positions)
    return "images" if few else "grid"


def _nvalchemi_is_there() -> bool:
    return find_spec("nvalchemiops") is not None


def _search_on_host(name: str, form: Standard) -> Found:
    if name == "grid":
        return search_grid(form)
    from nvdyn_ase.neighbors.search_vesin import search_vesin

    return search_vesin(form)


def _search_on_device(name: str, form: Standard, device: torch.device) -> FoundThere:
    if name == "images":
        return search_images(form, device)
    from nvdyn_ase.neighbors.search_nvalchemi import search_nvalchemi

    return search_nvalchemi(form, device)
