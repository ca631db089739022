"""Taking a batch apart and putting batches together changes no bit of anything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch, Level
from nvdyn_ase.data.fields import FIELDS
from tests.data.strategies import (
    CELLS,
    DTYPES,
    LEVELS,
    Own,
    any_bits,
    assert_holds,
    assert_same_data,
    batch_of,
    indices,
    same_bits,
    system,
    systems,
)

few = settings(max_examples=60, deadline=None)


@given(systems())
@few
def test_round_trip(data):
    assert_holds(Batch.from_data_list(data), data)
    assert_holds(Batch.from_data_list(iter(data), "cpu"), data)


@given(systems(), st.data())
@few
def test_index(data, draw):
    batch = Batch.from_data_list(data)
    index, rows = draw.draw(indices(len(data)))
    for part in (batch[index], batch.index_select(index)):
        assert isinstance(part, Batch)
        assert_holds(part, [data[row] for row in rows])
        again, more = draw.draw(indices(len(part)))
        assert_holds(part[again], [data[rows[row]] for row in more])
    assert_holds(batch, data)


@given(systems(), st.data())
@few
def test_one_system(data, draw):
    batch = Batch.from_data_list(data)
    row = draw.draw(st.integers(-len(data), len(data) - 1))
    for number in (row, np.int64(row), torch.tensor(row), np.array(row)):
        assert isinstance(batch[number], AtomicData)
        assert_same_data(batch[number], data[row])
        assert_same_data(batch.get_data(number), data[row])
        assert_holds(batch.index_select(number), [data[row]])


@given(systems(min_size=2), st.data())
@few
def test_append(data, draw):
    cut = draw.draw(st.integers(1, len(data) - 1))
    batch = Batch.from_data_list(data[:cut])
    other = Batch.from_data_list(data[cut:])
    batch.append(other)
    assert_holds(batch, data)
    assert_holds(other, data[cut:])
    batch.append_data(data[:cut])
    assert_holds(batch, data + data[:cut])
    batch.append_data([])
    batch.append_data(iter(data))
    batch.append(batch)
    assert_holds(batch, 2 * (data + data[:cut] + data))


@given(systems(), st.data())
@few
def test_append_after_index(data, draw):
    batch = Batch.from_data_list(data)
    (first, rows), (second, more) = draw.draw(indices(len(data))), draw.draw(indices(len(data)))
    part = batch[first]
    part.append(batch[second])
    assert_holds(part, [data[row] for row in [*rows, *more]])


@given(systems(), st.sampled_from([[], (), slice(0, 0), np.array([]), torch.tensor([])]))
@few
def test_empty_selection(data, index):
    batch = Batch.from_data_list(data)
    empty = batch[index]
    assert_holds(empty, [])
    assert empty.keys() == batch.keys()
    assert (empty.num_nodes, empty.num_edges, empty.max_num_nodes) == (0, 0, 0)
    assert empty.ptr.tolist() == empty.edge_ptr.tolist() == [0]
    assert empty.batch.tolist() == empty.num_nodes_list == empty.num_edges_list == []
    for key, tensor in empty:
        assert same_bits(tensor, batch[key][:0])
    nobody = torch.zeros(0, dtype=torch.bool)
    for other in (empty[[]], empty[:], empty[nobody], empty.clone(), empty.to("cpu"), empty.cpu()):
        assert_holds(other, [])
        assert other.keys() == batch.keys()
    assert_holds(batch[torch.zeros(len(batch), dtype=torch.bool)], [])
    other = empty.clone()
    other.append(empty)
    assert_holds(other, [])
    other.append(batch)
    assert_holds(other, data)
    batch.append(empty)
    assert_holds(batch, data)
    empty.append_data(data)
    assert_holds(empty, data)
    with pytest.raises(IndexError):
        batch[[]][0]


def test_an_empty_batch_takes_new_fields():
    empty = batch_of(2, edges=2)[[]]
    empty["energy"] = torch.zeros(0)
    empty["change"] = torch.zeros(0, 3)
    empty.add_key("w", torch.zeros(0, dtype=torch.int8))
    empty.set_edges({}, [])
    assert empty["energy"].shape == (0, 1)
    with pytest.raises(ValueError, match="needs 0 rows"):
        empty["energy"] = torch.zeros(1)
    with pytest.raises(ValueError, match="an empty batch needs one tensor whole"):
        empty.add_key("v", [])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, IndexError, "no system 3 among 3"),
        (-4, IndexError, "no system -4 among 3"),
        ([0, 3], IndexError, "no system 3 among 3"),
        (torch.tensor([-4]), IndexError, "no system -4 among 3"),
        (np.array([2, 9]), IndexError, "no system 9 among 3"),
        (torch.ones(2, dtype=torch.bool), IndexError, r"a mask of shape \(2,\) for 3 systems"),
        ([True, False, True, True], IndexError, r"a mask of shape \(4,\)"),
        (True, IndexError, "a mask of shape"),
        (torch.ones(3, 1, dtype=torch.bool), IndexError, r"a mask of shape \(3, 1\)"),
        (torch.zeros(2, 2).long(), IndexError, r"an index of shape \(2, 2\)"),
        (torch.tensor([0.0, 1.0]), TypeError, "by whole numbers or bools, not float64|float32"),
        ([0.5], TypeError, "by whole numbers or bools"),
        (1.0, TypeError, "by whole numbers or bools"),
        (torch.tensor(1.0), TypeError, "by whole numbers or bools"),
        (None, TypeError, "by whole numbers or bools"),
        (["a"], TypeError, "by whole numbers or bools"),
    ],
)
def test_wrong_index(index, error, message):
    with pytest.raises(error, match=message):
        batch_of(1, 2, 3)[index]


def test_no_system_at_all():
    with pytest.raises(ValueError, match="a batch needs at least one system; the list is empty"):
        Batch.from_data_list([])
    with pytest.raises(TypeError, match=r"system 1 is int, not AtomicData; see .*from_atoms"):
        Batch.from_data_list([system(), 3])


def test_every_kind_of_cell_in_one_batch():
    data = [system(cell=cell) for cell in CELLS]
    batch = Batch.from_data_list(data)
    assert_holds(batch, data)
    assert [tuple(pbc) for pbc in batch["pbc"].tolist()] == [pbc for _, pbc in CELLS.values()]


# ---------------------------------------------------------------- fields of the user's


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_user_fields_of_any_type_and_level(dtype, level):
    shape = (2, 3) if dtype.itemsize > 1 else ()
    own = [Own("mark", level, dtype, shape)]
    data = [system(i, n, 2, own=own) for i, n in enumerate((1, 1, 3, 1))]
    batch = Batch.from_data_list(data)
    assert batch["mark"].dtype is dtype
    assert batch["mark"].shape[1:] == shape
    assert batch.level("mark") is level
    assert_holds(batch, data)
    assert_holds(batch[[2, 0]], [data[2], data[0]])
    for other in (batch.clone(), batch.to("cpu"), batch.cpu(), batch.pin_memory(), batch[:]):
        assert_holds(other, data)
    batch.append(batch[1:3])
    batch.append_data(data[:1])
    assert_holds(batch, [*data, *data[1:3], *data[:1]])
    assert same_bits(dict(iter(batch))["mark"], batch.mark)


def test_user_fields_are_read_as_attributes_of_a_system():
    data = Batch.from_data_list([system(own=[Own("mark", LEVELS[0], torch.int8, ())])])[0]
    assert data.mark.dtype is torch.int8
    data.mark = [1, 2, 3]
    assert data.mark.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="'mark' is node-level and needs 3 rows"):
        data.mark = [1, 2]
    with pytest.raises(AttributeError):
        _ = data.unmarked


# ---------------------------------------------------------------- what only one side has


NOT_OF_PAIRS = sorted(key for key, field in FIELDS.items() if field.level is not Level.EDGE)


@pytest.mark.parametrize("key", NOT_OF_PAIRS)
def test_a_declared_field_of_one_side_is_filled_with_its_default(key):
    field = FIELDS[key]
    rows = {Level.NODE: (2, 3), Level.SYSTEM: (1, 1)}[field.level]
    value, filled = (
        torch.full((n, *field.shape), fill, dtype=field.dtype or torch.float64)
        for n, fill in zip(rows, (1, field.default or 0), strict=True)
    )
    there, absent = batch_of(2), batch_of(3)
    there[key] = value
    if key in absent:
        del absent[key]
    for first, second in ((there, absent), (absent, there)):
        whole = first.clone()
        if field.default is None:
            missing = int(first is there)
            with pytest.raises(ValueError, match=f"system {missing} has no '{key}', and it has no"):
                whole.append(second)
            assert whole.keys() == first.keys()
            assert all(same_bits(tensor, first[name]) for name, tensor in whole)
        else:
            whole.append(second)
            pieces = [value, filled] if first is there else [filled, value]
            assert same_bits(whole[key], torch.cat(pieces))


def test_fmax_is_infinite_where_nobody_knows_it():
    batch = batch_of(2, 1)
    batch["fmax"] = torch.tensor([0.5, 0.25])
    batch.append_data([system(5, 4)])
    assert batch["fmax"].tolist() == [[0.5], [0.25], [float("inf")]]
    known = system(1)
    known.fmax = 0.125
    assert Batch.from_data_list([system(0), known])["fmax"].tolist() == [[float("inf")], [0.125]]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("dtype", "default"),
    [(torch.int16, 7), (torch.bool, True), (torch.float32, float("nan")), (torch.uint64, 3)],
)
def test_a_user_field_of_one_side_is_filled_with_its_default(level, dtype, default):
    own = Own("mark", level, dtype, (2,))
    marked, bare = system(1, 2, 3, own=[own]), system(2, 3, 1)
    value = marked.mark
    rows = {"node": 3, "edge": 1, "system": 1}[level]

    def fits(tensor):
        wanted = torch.full((rows, 2), default, dtype=dtype)
        return same_bits(tensor, wanted)

    for pair in ([marked, bare], [bare, marked]):
        with pytest.raises(ValueError, match=f"system {pair.index(bare)} has no 'mark'"):
            Batch.from_data_list(pair)
        batch = Batch.from_data_list(pair[:1])
        with pytest.raises(ValueError, match=f"system {pair.index(bare)} has no 'mark'"):
            batch.append_data(pair[1:])
        assert_holds(batch, pair[:1])
    batch = Batch.from_data_list([marked])
    batch.add_key("mark", value, level=level, overwrite=True, default=default)
    {
        "node": marked.add_node_property,
        "edge": marked.add_edge_property,
        "system": marked.add_system_property,
    }[level]("mark", value, default=default)
    assert_holds(batch, [marked])
    for joined in (batch, Batch.from_data_list([marked]).clone(), batch[[0]], batch[[]]):
        joined.append_data([bare])
        assert fits(joined["mark"][-rows:])
        joined.append(Batch.from_data_list([bare]))
        assert fits(joined["mark"][-rows:])
        assert joined.defaults == {"mark": default} or np.isnan(default)
    front = Batch.from_data_list([bare])
    front.append(batch)
    assert fits(front["mark"][:rows])


def test_nothing_is_filled_where_there_are_no_rows():
    data = system(1, 2)
    data.add_node_property("mark", [1, 2])
    batch = Batch.from_data_list([data, system(2, 0)])
    assert batch["mark"].tolist() == [1, 2]
    batch.append(batch_of(3)[[]])
    assert batch["mark"].tolist() == [1, 2]


@pytest.mark.parametrize("default", [0.5, -1.5])
def test_a_default_must_fit_its_field(default):
    with pytest.raises(ValueError, match=r"'mark' is torch\.int64 and cannot be filled with"):
        system().add_node_property("mark", [1, 2, 3], default=default)
    batch = batch_of(2)
    with pytest.raises(ValueError, match=r"'mark' is torch\.bool and cannot be filled with"):
        batch.add_key("mark", torch.zeros(2, dtype=torch.bool), default=default)
    assert "mark" not in batch
    batch.add_key("mark", torch.zeros(2, dtype=torch.int8), default=2.0)
    batch.append(batch_of(1))
    assert batch["mark"].tolist() == [0, 0, 2]


def test_fields_that_differ_cannot_be_joined():
    one, other = system(1, 2), system(2, 2)
    one.add_node_property("mark", torch.zeros(2))
    other.add_system_property("mark", torch.zeros(1))
    with pytest.raises(ValueError, match="'mark' is system-level here and node-level there"):
        Batch.from_data_list([one, other])
    other = system(2, 2)
    other.add_node_property("mark", torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"rows of 'mark' differ in shape .*: \[\(\), \(3,\)\]"):
        Batch.from_data_list([one, other])
    other = system(2, 2)
    other.add_node_property("mark", torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"'mark' differs in type .*float32, torch\.int64"):
        Batch.from_data_list([one, other])
    other = system(2, 2)
    other.add_node_property("mark", torch.ones(2, dtype=torch.float64))
    batch = Batch.from_data_list([one, other])
    assert batch["mark"].dtype is torch.float64
    assert batch["mark"].tolist() == [0, 0, 1, 1]


# ---------------------------------------------------------------- what does not live on a device


def test_host_and_constraints_ride_along_and_are_not_shared():
    data = [system(i, 2) for i in range(3)]
    batch = Batch.from_data_list(data)
    part = batch[[2, 0]]
    assert [host["name"] for host in part.host] == [2, 0]
    assert part.constraints == [(("held", 2),), (("held", 0),)]
    part.append(batch[1:2])
    assert [host["name"] for host in part.host] == [2, 0, 1]
    for copy in (part, batch.clone(), batch[0], data[0].clone()):
        notes = copy.host if isinstance(copy, AtomicData) else copy.host[0]
        notes["name"] = "changed"
    assert [d.host["name"] for d in data] == [host["name"] for host in batch.host] == [0, 1, 2]


def test_a_selection_is_a_copy():
    batch = batch_of(2, 3, edges=2)
    before = batch.clone()
    for part in (batch[:], batch[[0, 1]], batch[0], batch.to_data_list()[1]):
        items = part if isinstance(part, Batch) else [(k, t) for k, _, t in part.items()]
        for _, tensor in items:
            tensor.zero_()
    assert_holds(batch, before.to_data_list())


def test_batches_need_one_entry_per_system():
    for wrong in ({"num_edges": [1]}, {"constraints": [()]}, {"host": []}):
        with pytest.raises(ValueError, match="need 2 entries, one a system"):
            Batch({}, [1, 2], **wrong)


def test_like_has_the_same_systems_and_other_fields():
    batch = batch_of(2, 1)
    state = batch.like(
        node={"v": any_bits((3, 3), torch.float64, 0)}, system={"dt": torch.ones(2, 1)}
    )
    assert state.keys() == ["v", "dt"]
    assert state.num_nodes_list == [2, 1]
    assert [state.level(key) for key, _ in state] == ["node", "system"]
    assert state[[1]]["v"].shape == (1, 3)
    assert batch.like().keys() == []
    with pytest.raises(ValueError, match="needs 2 rows"):
        batch.like(system={"dt": torch.ones(3, 1)})
