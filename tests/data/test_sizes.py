"""Sizes and pointers: right, and known without asking the device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from tests.data.strategies import batch_of, system

sizes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5)


@given(sizes)
@settings(max_examples=40, deadline=None)
def test_sizes_and_pointers(sizes):
    data = [system(i, atoms, edges) for i, (atoms, edges) in enumerate(sizes)]
    batch = Batch.from_data_list(data)
    nodes = [atoms for atoms, _ in sizes]
    edges = [edges if atoms else 0 for atoms, edges in sizes]
    assert batch.num_graphs == batch.batch_size == len(batch) == len(sizes)
    assert (batch.num_nodes, batch.num_edges) == (sum(nodes), sum(edges))
    assert (batch.num_nodes_list, batch.num_edges_list) == (nodes, edges)
    assert batch.num_nodes_per_graph.tolist() == nodes
    assert batch.num_edges_per_graph.tolist() == edges
    assert batch.max_num_nodes == max(nodes)
    assert batch.ptr.tolist() == batch.host_ptr.tolist() == [0, *np.cumsum(nodes)]
    assert batch.edge_ptr.tolist() == batch.host_edge_ptr.tolist() == [0, *np.cumsum(edges)]
    assert batch.ptr3.tolist() == [3 * first for first in batch.ptr.tolist()]
    assert batch.batch.tolist() == np.repeat(np.arange(len(sizes)), nodes).tolist()
    pointers = (batch.ptr, batch.edge_ptr, batch.batch, batch.num_nodes_per_graph)
    assert all(p.dtype is torch.int64 and p.device == batch.device for p in pointers)
    for row, part in enumerate(data):
        assert (part.num_nodes, part.num_edges) == (nodes[row], edges[row])


def test_they_follow_the_batch():
    batch = batch_of(2, 3, edges=1)
    assert batch.ptr.tolist() == [0, 2, 5]
    batch.append(batch_of(1, edges=2))
    assert batch.ptr.tolist() == [0, 2, 5, 6]
    assert batch.batch.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.edge_ptr.tolist() == [0, 1, 2, 4]
    batch.set_edges({}, [0, 0, 0])
    assert batch.edge_ptr.tolist() == [0, 0, 0, 0]


def test_writing_into_a_pointer_does_not_reach_the_host():
    batch = batch_of(2, 3, edges=1)
    for pointer in (batch.ptr, batch.num_nodes_per_graph, batch.num_edges_per_graph):
        pointer.zero_()
    assert batch.host_ptr.tolist() == [0, 2, 5]
    assert batch.num_nodes_list == [2, 3]
    assert batch.num_edges_list == [1, 1]


def test_nothing_here_asks_the_device():
    """On the meta device there are no values: whoever asked for one would get an error."""
    batch = batch_of(2, 3, 1, edges=2).to("meta")
    other = batch_of(4, edges=1).to("meta")
    assert batch.device == torch.device("meta")
    with pytest.raises(NotImplementedError):
        batch["positions"].tolist()
    batch["energy"] = torch.zeros(3, device="meta")
    batch.add_key("w", torch.zeros(6, device="meta"))
    other["energy"] = torch.zeros(1, device="meta")
    other.add_key("w", torch.zeros(4, device="meta"))
    assert batch.ptr.shape == batch.edge_ptr.shape == (4,)
    assert batch.batch.shape == (6,)
    assert (batch.num_nodes, batch.num_edges, batch.max_num_nodes) == (6, 6, 3)
    batch.append(other)
    assert batch.num_nodes_list == [2, 3, 1, 4]
    part = batch[[3, 0]]
    assert part["positions"].shape == (6, 3)
    assert part["edge_index"].shape == (3, 2)
    assert part.clone().num_nodes_list == part[:].num_nodes_list == [4, 2]
    assert batch[-1].num_nodes == 4
    assert [d.num_edges for d in batch.to_data_list()] == [2, 2, 2, 1]
    assert repr(batch).startswith("Batch(4 systems, 10 atoms")
