import pytest
import torch

from nvdyn_ase.dynamics import HostMemory
from tests.wells import wells


def test_what_is_written_is_read_in_order_and_kept():
    sink, batch = HostMemory(5), wells(1.0, 2.0, 3.0)
    sink.write(batch)
    sink.write(batch, torch.tensor([True, False, True]))
    assert len(sink) == 5
    assert sink.is_full
    expected = torch.cat([batch["positions"], batch[[0, 2]]["positions"]])
    for _ in range(2):
        assert torch.equal(sink.read()["positions"], expected)
    assert torch.equal(sink.drain()["positions"], expected)
    assert len(sink) == 0


def test_a_copy_is_kept():
    sink, batch = HostMemory(5), wells(1.0)
    before = batch["positions"].clone()
    sink.write(batch)
    batch["positions"].zero_()
    assert torch.equal(sink.read()["positions"], before)


def test_an_empty_sink_cannot_be_read():
    for read in (HostMemory(1).read, HostMemory(1).drain):
        with pytest.raises(RuntimeError, match="empty"):
            read()


def test_what_does_not_fit_is_not_taken():
    sink = HostMemory(2)
    sink.write(wells(1.0))
    with pytest.raises(RuntimeError, match="2 systems do not fit"):
        sink.write(wells(1.0, 2.0))
    assert len(sink) == 1


@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_of_the_wrong_length(length):
    with pytest.raises(ValueError, match="mask"):
        HostMemory(5).write(wells(1.0, 2.0), torch.ones(length, dtype=torch.bool))


def test_zero_and_capacity():
    sink = HostMemory(2)
    sink.write(wells(1.0))
    sink.zero()
    assert len(sink) == 0
    assert repr(sink) == "HostMemory(0 of 2 systems)"
    with pytest.raises(ValueError, match="capacity"):
        HostMemory(0)
