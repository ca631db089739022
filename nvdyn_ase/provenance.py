"""Where results come from: what an output says of the run that made it."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
import torch

import nvdyn_ase
from nvdyn_ase.files.extras import plain
from nvdyn_ase.input_identity import changes, identity
from nvdyn_ase.models import BaseModelMixin

#: What has to be the same for results to belong together. Versions may differ.
_BINDING = ("method", "model", "number")
_PARAMETERS = ("parameters", "seed")
#: What results do not depend on.
UNBINDING = ("versions", "ranks")


def provenance(
    method: str,
    parameters: Mapping[str, Any],
    model: BaseModelMixin | None,
    inputs: Sequence[str],
    *,
    model_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    number: int | None = None,
    ranks: int | None = None,
) -> dict[str, Any]:
    """Return what there is to know of a run, as JSON holds it.

    Parameters
    ----------
    method
        What is done, as ``"relax"``.
    parameters
        Its parameters by name: numbers, texts, lists. What only concerns speed does not belong
        here.
    model
        The model; None if each structure has its own.
    inputs
        Names of the input files.
    model_name, model_options
        As the user gave them.
    seed
        Of random numbers.
    number
        How many structures there are, if that is known.
    ranks
        How many processes share the work; None if it is not shared. Results do not depend on it.

    Returns
    -------
    dict
        ``versions``, ``method``, ``parameters``, ``model`` (name, options, class, hash), ``seed``,
        ``number``, ``input`` (see :func:`nvdyn_ase.input_identity.identity`), and ``ranks`` if
        there are several.

    Raises
    ------
    OSError
        An input file cannot be read.
    TypeError
        A parameter that JSON does not hold.
    """
    of_model = None if model is None else type(model).__name__
    return {
        "versions": {
            "nvdyn_ase": nvdyn_ase.__version__,
            "ase": ase.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "method": method,
        "parameters": plain(parameters, arrays=False),
        "model": {
            "name": model_name,
            "options": plain(model_options or {}, arrays=False),
            "class": of_model,
            "hash": None if model is None else model_hash(model),
        },
        "seed": seed,
        "number": number,
        "input": identity(inputs),
        **({} if ranks is None else {"ranks": ranks}),
    }


def model_hash(model: BaseModelMixin) -> str:
    """Return a hash of what a model is: its class, its card, what it says of itself, its weights.

    It does not depend on the device. Two models with the same hash give the same energies.
    """
    digest = hashlib.sha256()
    digest.update(type(model).__name__.encode())
    digest.update(re.sub(r" at 0x\w+", "", repr(model)).encode())  # not where it is in memory
    for key, value in sorted(model.model_card.model_dump().items()):
        told = sorted(value) if isinstance(value, (set, frozenset)) else value
        digest.update(f"{key}={told!r}".encode())
    state = getattr(model, "state_dict", None)
    for key, tensor in sorted(state().items()) if callable(state) else []:
        digest.update(key.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().view(-1)
            digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
    return digest.hexdigest()


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], parameters: bool = True
) -> list[str]:
    """Say what has changed since a run began, so that it cannot be gone on with.

    Parameters
    ----------
    before, now
        What :func:`provenance` said then and says now.
    parameters
        Whether parameters and seed have to be the same too.

    Returns
    -------
    list of str
        A phrase for each change; nothing if the results belong together, whatever the versions.
    """
    now = json.loads(json.dumps(dict(now)))  # as it was read back
    binding = (*_BINDING, *(_PARAMETERS if parameters else ()))
    missing = [key for key in (*binding, "input") if key not in before]
    if missing:
        return [f"it does not say its {missing[0]}"]
    found = []
    for key in binding:
        found += _differing(key, before[key], now[key])
    return found + changes(before["input"], now["input"])


def _differing(name: str, before: Any, now: Any) -> list[str]:
    """Say which of the parts of something differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [_differing(f"{name}.{key}", before.get(key), now.get(key)) for key in keys]
        return [phrase for part in parts for phrase in part]
    if before == now or (before != before and now != now):
        return []
    if name == "model.hash":
        return ["the model is another one, or has other parameters"]
    stage = re.search(r"\bstages\.(\d+)", name)
    called = name.split(".")[-1] + (f" of stage {stage[1]}" if stage else "")
    return [f"{called} was {before!r}, and is {now!r}"]
