"""Whether constraints, applied a second time to the same move, move atoms again."""

import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max
from nvdyn_ase.dynamics.constraints.batch_constraints import BatchConstraints

# Å. That of a trial move is about what molecular dynamics does in a step; constraints that are
# done when they are applied once leave 1e-15 of it, and the others 1e-6 and more.
_TRIAL = 0.01
_SAME = 1e-9


def move_again(batch: Batch) -> Bool[Tensor, " B"]:
    """Return the systems whose constraints do not leave alone what they have allowed already.

    They are tried with a move that every atom makes. Those that hold coordinates leave alone what
    they allowed, and so do several if their order does not matter. Bond lengths are corrected
    along the bonds as they were before, which are others the second time; a centre of mass takes
    along an atom that is held.

    Parameters
    ----------
    batch
        The systems. They are not moved, and nobody is noted to have failed.
    """
    constraints, old = BatchConstraints(batch), batch["positions"]
    place = torch.arange(len(old), device=old.device) - batch.ptr[:-1].index_select(0, batch.batch)
    axes = torch.arange(3, device=old.device)
    wanted = old + _TRIAL * torch.sin(7.3 * (3 * place.view(-1, 1) + axes).to(old) + 1.0)
    once = constraints.positions(batch, old, wanted)
    twice = constraints.positions(batch, once, wanted)
    constraints.take_raised()
    return segment_max((twice - once).abs().amax(1), batch.ptr).view(-1) > _SAME
