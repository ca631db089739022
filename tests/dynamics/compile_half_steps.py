"""Compiles the half-steps of integrators whole, and prints how many kernels they are.

``python -m tests.dynamics.compile_half_steps BACKEND NAME ...`` compares each half-step with itself
without the compiler. It prints name, ``pre_update`` or ``post_update`` and, with ``inductor`` as
the backend, how many kernels were made and how many other operations are called beside them.
"""

import pickle
import re
import sys
import warnings

import torch
from torch._inductor.utils import run_and_get_code

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.models import EMT
from tests.dynamics.integrating import integrator
from tests.dynamics.test_parameters import trios

HALVES = ("pre_update", "post_update")


def compare(name: str, half: str, backend: str) -> tuple[int, int]:
    """Do a half-step with and without the compiler, and count what the compiler made of it."""
    batch, engine = batch_from_atoms(trios()), integrator(name, EMT())
    engine.run(batch, n_steps=2)
    again, state = pickle.loads(pickle.dumps((batch, engine.state)))
    other = integrator(name, EMT())
    other.follow(again, state, None)
    torch.compiler.reset()
    compiled = torch.compile(getattr(engine, half), fullgraph=True, backend=backend)
    _, sources = run_and_get_code(compiled, batch)
    getattr(other, half)(again)
    for mine, its in ((batch, again), (engine.state, other.state)):
        for key, tensor in mine:
            if key in its:
                options = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
                torch.testing.assert_close(tensor, its[key], **options, msg=f"{half}: {key}")
    calls = "".join(text[text.rindex("def call(") :] for text in sources)
    kernels = re.findall(r"^ +(?:kernels\.)?(?:cpp|triton)_\w+[.(]", calls, re.MULTILINE)
    others = re.findall(r"(?:extern_kernels|torch\.ops\.\w+)\.[\w.]+\(", calls)
    return len(kernels), len(others)


def main(backend: str, *names: str) -> None:
    """Go through integrators."""
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    for name in names:
        for half in HALVES:
            print(name, half, *compare(name, half, backend), sep=";")


if __name__ == "__main__":
    main(*sys.argv[1:])
