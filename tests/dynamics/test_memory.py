"""What histories and Hessians take, counted in bytes: nothing is padded to the largest system."""

import weakref

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nvdyn_ase.dynamics import (
    BFGS,
    LBFGS,
    RFO,
    BFGSLineSearch,
    GoodOldQuasiNewton,
    LBFGSLineSearch,
)
from tests.wells import Well, wells

HESSIANS = [BFGS, RFO, GoodOldQuasiNewton, BFGSLineSearch]
#: Bytes that a step may take on top of the Hessians, in units of these: the new ones, while the old
#: ones are there to undo a step that fails, and what the method makes of them.
MOST = {BFGS: 4.1, RFO: 5.2, GoodOldQuasiNewton: 4.1, BFGSLineSearch: 2.3}


def histories(kind):
    return lambda model: kind(model, scaled=False, memory=8, maxstep=0.02)


METHODS = [*HESSIANS, histories(LBFGS), histories(LBFGSLineSearch)]
NAMES = [kind.__name__ for kind in (*HESSIANS, LBFGS, LBFGSLineSearch)]
methods = pytest.mark.parametrize("make", METHODS, ids=NAMES)


class Bytes(TorchDispatchMode):
    """Notes the most bytes of tensors that were there at once, of those made while it is on."""

    def __init__(self):
        super().__init__()
        self.most, self._made = 0, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        # Views of what was there before do not count.
        before = {storage.data_ptr() for storage in storages((args, kwargs))} - self._now().keys()
        made = operation(*args, **(kwargs or {}))
        self._made += [
            weakref.ref(tensor)
            for tensor, storage in zip(tensors(made), storages(made), strict=True)
            if storage.data_ptr() not in before
        ]
        self.most = max(self.most, sum(self._now().values()))
        return made

    def _now(self):
        """Return the bytes of each piece of memory."""
        self._made = [made for made in self._made if made() is not None]
        there = storages([made() for made in self._made])
        return {storage.data_ptr(): storage.nbytes() for storage in there}


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storages(tree):
    return [tensor.untyped_storage() for tensor in tensors(tree)]


def held_and_taken(make, sizes, steps):
    """Return the bytes of the state, and the most that a step makes on top of it."""
    batch, engine = wells(*[1.0] * len(sizes), sizes=sizes), make(Well())
    engine.run(batch, n_steps=steps)
    held = sum(tensor.numel() * tensor.element_size() for _, tensor in engine.state)
    with Bytes() as taken:
        engine.step(batch)
    return held, taken.most


def of_hessians(sizes):
    return 8 * sum((3 * size) ** 2 for size in sizes)


@methods
def test_a_large_system_does_not_make_the_small_ones_large(make):
    steps = 2 if make in HESSIANS else 10
    held, taken = held_and_taken(make, [8] * 15 + [125], steps)
    small, large = (held_and_taken(make, [size], steps) for size in (8, 125))
    assert held <= 1.2 * (15 * small[0] + large[0])
    assert taken <= 1.2 * (15 * small[1] + large[1])


@pytest.mark.parametrize("make", HESSIANS)
def test_hessians_are_all_that_is_held(make):
    sizes = [32] * 15 + [500]
    batch, engine = wells(*[1.0] * 16, sizes=sizes), make(Well())
    engine.adopt(batch)
    held = sum(tensor.numel() * tensor.element_size() for _, tensor in engine.state)
    assert held <= 1.2 * of_hessians(sizes)


@pytest.mark.parametrize("make", HESSIANS)
@pytest.mark.parametrize(
    "sizes", [[40] * 6, [8] * 15 + [125], [8] * 7 + [125] + [8] * 8], ids=["one", "two", "mixed"]
)
def test_a_step_makes_few_matrices(make, sizes):
    _, taken = held_and_taken(make, sizes, steps=2)
    assert taken <= MOST[make] * of_hessians(sizes)


@pytest.mark.parametrize("kind", [LBFGS, LBFGSLineSearch])
def test_a_step_makes_a_history_and_a_half(kind):
    held, taken = held_and_taken(histories(kind), [8] * 15 + [125], steps=10)
    assert taken <= 1.75 * held
