"""Messages: what one rank sends, another has bit for bit, in two messages whatever it is."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.data.messages import packed, unpacked
from tests.data.strategies import DTYPES, Level, Own, assert_same_batch, system, systems
from tests.data.test_buffers import with_matrices
from tests.ranks import results, run_ranks

EVERY_TYPE = [
    Own(f"{level}_{dtype}".replace(".", "_"), level, dtype, shape)
    for level in (Level.NODE, Level.EDGE, Level.SYSTEM)
    for dtype in DTYPES
    for shape in [(3,)]
]


@settings(max_examples=30)
@given(systems(1, 4), st.booleans())
def test_bytes_are_the_batch(data, is_empty):
    batch = with_matrices(Batch.from_data_list(data), 3)
    batch = batch.index_select([]) if is_empty else batch
    assert_same_batch(unpacked(packed(batch), batch.device), batch)


def test_what_cannot_be_pickled_names_its_structure():
    batch = Batch.from_data_list([system(0), system(1)])
    batch.host[1]["callback"] = lambda: None
    with pytest.raises(StructureError, match="structure 1"):
        packed(batch)


def echo(rank):
    """Rank 1 sends back what it receives; rank 0 compares."""
    if rank == 1:
        while len(batch := Batch.recv(0)) or "last" not in batch:
            batch.send(0)
        return None

    def returned(batch):
        count = counted()
        batch.isend(1, tag=0).wait()
        assert counted() - count == 2
        assert_same_batch(Batch.irecv(1, "cpu", batch).wait(), batch)

    @settings(max_examples=25)
    @given(systems(1, 4), st.booleans())
    def any_batch(data, is_empty):
        batch = Batch.from_data_list(data)
        returned(batch.index_select([]) if is_empty else with_matrices(batch, 5))

    counted = counting()
    any_batch()
    returned(Batch.from_data_list([system(s, 2, 3, own=EVERY_TYPE) for s in range(2)]))
    returned(Batch.from_data_list([system(0, 1, edges=0)]))
    returned(Batch.empty(3, 9, 9, system(0)))
    handles = [Batch.from_data_list([system(s, 2 + s)]).isend(1) for s in range(3)]
    awaited = [Batch.irecv(1) for _ in range(3)]
    for seed, handle in reversed(list(enumerate(awaited))):  # in whatever order they are asked
        assert_same_batch(handle.wait(), Batch.from_data_list([system(seed, 2 + seed)]))
        assert handle.is_completed()
    for handle in handles:
        handle.wait()
        assert handle.is_completed()
    template = Batch.from_data_list([system(0)]).to(dtype=torch.float32)
    Batch.from_data_list([system(0)]).send(1)
    with pytest.raises(ValueError, match="positions"):
        Batch.recv(1, "cpu", template)
    last = Batch.from_data_list([system(0)]).index_select([])
    last["last"] = torch.zeros(0)
    last.send(1)
    return True


def counting():
    """Count the messages that this rank sends from now on."""
    sent, real = [], dist.isend

    def isend(*arguments, **options):
        sent.append(1)
        return real(*arguments, **options)

    dist.isend = isend
    return lambda: len(sent)


def test_what_is_sent_arrives_bit_for_bit_in_two_messages():
    assert results(run_ranks(echo, 2))[0]
