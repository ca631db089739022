"""A field's level is declared, and never guessed from how many rows it has."""

import numpy as np
import pytest
import torch

from nvdyn_ase.data import FIELDS, AtomicData, Batch, Level
from tests.data.strategies import DTYPES, any_bits, batch_of, same_bits, system

F64 = torch.float64


@pytest.fixture
def singles():
    """Three systems of one atom: as many systems as atoms."""
    return batch_of(1, 1, 1)


def test_one_atom_systems_keep_levels_apart(singles):
    singles["energy_change"] = torch.tensor([[1.0], [2.0], [3.0]])
    singles.add_key("charge", torch.tensor([4.0, 5.0, 6.0]), level="node")
    assert singles.level("energy_change") is Level.SYSTEM
    assert singles.level("charge") is Level.NODE
    singles.append(batch_of(2).index_select([]))
    other = batch_of(2)
    other["energy_change"] = torch.tensor([[7.0]])
    other.add_key("charge", torch.tensor([8.0, 9.0]))
    singles.append(other)
    assert singles["energy_change"].view(-1).tolist() == [1, 2, 3, 7]
    assert singles["charge"].tolist() == [4, 5, 6, 8, 9]
    picked = singles[[3, 0]]
    assert picked["energy_change"].view(-1).tolist() == [7, 1]
    assert picked["charge"].tolist() == [8, 9, 4]


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_declared_key_has_its_level(singles, key):
    field = FIELDS[key]
    if field.level is Level.EDGE:
        singles.add_key("edge_index", torch.tensor([[0, 0], [1, 1], [2, 2]]), "edge")
    singles[key] = torch.zeros(3, *field.shape, dtype=field.dtype or F64)
    assert singles.level(key) is field.level
    wrong = next(level for level in Level if level is not field.level)
    with pytest.raises(ValueError, match=f"'{key}' is declared {field.level}-level"):
        singles.add_key(key, singles[key], level=wrong, overwrite=True)
    with pytest.raises(ValueError, match=f"'{key}' is declared {field.level}-level"):
        singles.defer(key, lambda: singles["fmax"], level=wrong)
    with pytest.raises(ValueError, match=f"'{key}' is declared {field.level}-level"):
        Batch({key: (wrong, singles[key])}, [1, 1, 1])


def test_level_follows_the_field_and_not_its_size():
    batch = batch_of(2, 1)
    batch.add_key("w", torch.zeros(3))
    batch["w"] = torch.ones(3)
    assert batch.level("w") is Level.NODE
    with pytest.raises(ValueError, match="'w' is node-level and needs 3 rows"):
        batch["w"] = torch.ones(2)
    with pytest.raises(
        ValueError, match=r"needs 2 rows, not shape \(3,\); other levels need add_key"
    ):
        batch["unknown"] = torch.ones(3)
    with pytest.raises(KeyError, match="no field 'missing'; there are"):
        batch.level("missing")


def test_a_refused_field_leaves_no_trace(singles):
    for level in Level:
        with pytest.raises(ValueError, match=r"'w' is (node|edge|system|block)-level"):
            singles.add_key("w", torch.zeros(7), level=level)
    assert "w" not in singles
    singles["w"] = torch.zeros(3, 1)
    assert singles.level("w") is Level.SYSTEM


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_key_whole_or_per_system(level, dtype):
    batch = batch_of(2, 0, 3, edges=2)
    sizes = {
        Level.NODE: batch.num_nodes_list,
        Level.EDGE: batch.num_edges_list,
        Level.SYSTEM: [1, 1, 1],
        Level.BLOCK: [36, 0, 81],
    }[level]
    whole = any_bits((sum(sizes), 2), dtype, 1)
    batch.add_key("whole", whole, level=level)
    batch.add_key("parts", list(whole.split(sizes)), level=level)
    assert batch.level("whole") is batch.level("parts") is level
    assert same_bits(batch["whole"], whole)
    assert same_bits(batch["parts"], whole)


def test_add_key_system_rows_with_and_without_a_leading_one():
    batch = batch_of(2, 1)
    batch.add_key("a", [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], "system")
    batch.add_key("b", [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])], "system")
    batch.add_key("c", [torch.tensor(1.0), torch.tensor(2.0)], "system")
    batch.add_key("d", [1.5, 2.5], level="system")
    batch.add_key("stress", [np.zeros((3, 3)), np.ones((1, 3, 3))], level="system")
    batch.add_key("energy", [np.array([[1.0]]), np.array([2.0])], level="system")
    assert batch["a"].tolist() == batch["b"].tolist() == [[1, 2], [3, 4]]
    assert batch["c"].tolist() == [1, 2]
    assert batch["d"].tolist() == [1.5, 2.5]
    assert batch["stress"].shape == (2, 3, 3)
    assert batch["energy"].tolist() == [[1], [2]]


def test_add_key_is_node_level_unless_said_otherwise_and_does_not_overwrite():
    batch = batch_of(2, 1)
    batch.add_key("w", torch.zeros(3))
    assert batch.level("w") is Level.NODE
    with pytest.raises(ValueError, match="'w' is there already; pass overwrite=True"):
        batch.add_key("w", torch.ones(3))
    batch.add_key("w", torch.ones(2, 1), level="system", overwrite=True)
    assert batch.level("w") is Level.SYSTEM
    with pytest.raises(ValueError, match="is there already"):
        batch.add_key("velocities", torch.zeros(3, 3, dtype=F64))


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([torch.zeros(2)], "node", "1 tensors for 2 systems"),
        ([torch.zeros(1), torch.zeros(2)], "node", "one row per atom is needed in each system"),
        ([torch.zeros(1), torch.zeros(2)], "edge", "one row per pair is needed in each system"),
        (torch.zeros(3), "edge", "'w' is edge-level and needs 4 rows"),
        (torch.zeros(()), "system", "needs 2 rows"),
        ("text", "system", "'?w'? must be a tensor, an array or numbers"),
    ],
)
def test_add_key_says_what_is_wrong(values, level, message):
    batch = batch_of(2, 1, edges=2)
    with pytest.raises(ValueError, match=message):
        batch.add_key("w", values, level=level)
    with pytest.raises(ValueError, match="'cell vector' is not a valid Level"):
        batch.add_key("w", values, level="cell vector")


# ---------------------------------------------------------------- aliases


@pytest.mark.parametrize(
    ("alias", "key", "row"), [("energies", "energy", (1,)), ("stresses", "stress", (3, 3))]
)
def test_aliases(alias, key, row):
    value = any_bits((2, *row), F64, 3)
    batch = batch_of(2, 1)
    assert alias not in batch
    batch[alias] = value
    assert batch.keys()[-1] == key
    assert alias in batch
    assert key in batch
    for seen in (batch[alias], batch[key], getattr(batch, alias), getattr(batch, key)):
        assert seen is value
    assert batch.level(alias) is Level.SYSTEM
    with pytest.raises(ValueError, match="there already"):
        batch.add_key(alias, value, "system")
    setattr(batch, alias, value.clone())
    assert batch[key] is not value
    del batch[alias]
    assert key not in batch
    batch.add_key(alias, value, "system")
    batch.defer(alias, lambda: value)
    assert batch.deferred(key) is not None
    assert batch[key] is value
    assert Batch({alias: (Level.SYSTEM, value)}, [2, 1])[key] is value

    data = AtomicData(positions=np.zeros((2, 3)), atomic_numbers=[1, 1], **{alias: value[:1]})
    assert same_bits(getattr(data, key), value[:1])
    assert same_bits(getattr(data, alias), value[:1])
    setattr(data, alias, value[1:])
    assert same_bits(getattr(data, key), value[1:])
    with pytest.raises(ValueError, match="given twice"):
        AtomicData(
            positions=np.zeros((2, 3)), atomic_numbers=[1, 1], **{alias: value[:1], key: value[:1]}
        )


# ---------------------------------------------------------------- (B,) for (B, 1)

COLUMNS = sorted(key for key, field in FIELDS.items() if field.shape == (1,) and key != "status")


@pytest.mark.parametrize("key", COLUMNS)
def test_a_flat_column_is_taken(key):
    flat = torch.arange(2).to(FIELDS[key].dtype or F64)
    batch = batch_of(2, 1)
    batch[key] = flat
    assert batch[key].tolist() == [[0], [1]]
    batch.add_key(key, flat, level="system", overwrite=True)
    assert batch[key].tolist() == [[0], [1]]
    batch.defer(key, lambda: flat)
    assert batch[key].tolist() == [[0], [1]]
    assert Batch({key: (Level.SYSTEM, flat)}, [2, 1])[key].tolist() == [[0], [1]]
    for value in (1, [1], [[1]]):
        data = AtomicData(positions=np.zeros((1, 3)), atomic_numbers=[1], **{key: value})
        assert getattr(data, key).tolist() == [[1]]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_status_keeps_the_shape_it_was_given(shape):
    batch = batch_of(2, 1, 3)
    batch["status"] = torch.arange(3).view(shape)
    assert batch["status"].shape == shape
    for other in (
        batch.clone(),
        batch[:],
        batch.to("cpu"),
        Batch.from_data_list(batch.to_data_list()),
    ):
        assert same_bits(other["status"], batch["status"])
    batch.append(batch[[0]])
    assert batch["status"].shape == (4, *shape[1:])
    batch.append_data([system(9, 2)])
    assert batch["status"].view(-1).tolist() == [0, 1, 2, 0, 0]


def test_both_shapes_of_status_meet_in_a_batch():
    flat, column = batch_of(1, 2), batch_of(3)
    flat["status"] = torch.tensor([4, 5])
    column["status"] = torch.tensor([[6]])
    flat.append(column)
    assert flat["status"].tolist() == [4, 5, 6]
    column.append(flat)
    assert column["status"].tolist() == [[6], [4], [5], [6]]


# ---------------------------------------------------------------- shapes and types


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("forces", torch.zeros(3), r"a row of 'forces' is \(3,\), not \(\)"),
        ("stress", torch.zeros(2, 6), r"a row of 'stress' is \(3, 3\), not \(6,\)"),
        ("energy", torch.zeros(2, 2), r"a row of 'energy' is \(1,\), not \(2,\)"),
        ("status", torch.zeros(2, 2).long(), "a row of 'status'"),
        ("positions", torch.zeros(2, 3), "'positions' is node-level and needs 3 rows"),
        ("status", torch.tensor([0.5, 1.0]), "status must be whole numbers"),
        ("pbc", torch.full((2, 3), 2), "pbc must be true or false"),
        ("energy", torch.zeros(2, 1, dtype=torch.complex64), "energy must be real"),
        ("energy", 3.0, "needs 2 rows"),
        ("energy", "low", "energy must be a tensor"),
    ],
)
def test_a_declared_field_must_fit(key, tensor, message):
    batch = batch_of(2, 1)
    before = dict(batch).get(key)
    with pytest.raises(ValueError, match=message):
        batch[key] = tensor
    assert dict(batch).get(key) is before


def test_a_declared_field_gets_its_type():
    batch = batch_of(2, 1)
    batch["status"] = torch.tensor([0, 1], dtype=torch.int32)
    batch["steps"] = torch.tensor([[0.0], [7.0]])
    batch["pbc"] = torch.tensor([[1, 0, 1], [0, 0, 0]])
    batch["energy"] = torch.tensor([[1], [2]])
    batch["forces"] = torch.zeros(3, 3, dtype=torch.float32)
    batch["free_energy"] = np.array([[1.1], [2.2]])
    assert batch["status"].dtype is batch["steps"].dtype is torch.int64
    assert batch["pbc"].dtype is torch.bool
    assert batch["energy"].dtype is F64
    assert batch["forces"].dtype is torch.float32
    assert batch["free_energy"].tolist() == [[1.1], [2.2]]


# ---------------------------------------------------------------- reading and writing


def test_attributes_read_and_write_fields():
    batch = batch_of(2, 1)
    change = torch.ones(2, 1)
    batch.energy_change = change
    assert batch["energy_change"] is batch.energy_change is change
    assert "energy_change" in batch
    batch.energy = [1.5, 2.5]
    assert batch["energy"].tolist() == [[1.5], [2.5]]
    with pytest.raises(ValueError, match="needs 2 rows"):
        batch.energy = 3.0
    assert batch.energy.tolist() == [[1.5], [2.5]]
    with pytest.raises(AttributeError, match="no attribute and no field 'nothing'"):
        _ = batch.nothing
    assert not hasattr(batch, "_nothing")
    batch.note = "for the owner"
    assert batch.note == "for the owner"
    assert "note" not in batch


@pytest.mark.parametrize("name", ["ptr", "batch", "num_nodes", "num_edges", "num_graphs", "append"])
def test_what_follows_from_the_systems_cannot_be_set(name):
    with pytest.raises(AttributeError, match="cannot be set"):
        setattr(batch_of(2, 1), name, torch.zeros(3))


def test_membership_iteration_and_deletion():
    batch = batch_of(2, 1)
    pairs = list(batch)
    assert [key for key, _ in pairs] == batch.keys()
    assert all(tensor is batch[key] for key, tensor in pairs)
    assert set(batch.keys()) == {
        *("positions", "velocities", "atomic_numbers", "atomic_masses", "cell", "pbc")
    }
    for key, _ in batch:
        assert key in batch
        del batch[key]
        assert key not in batch
        with pytest.raises(KeyError, match=f"no field '{key}'; there are"):
            batch[key]
        with pytest.raises(KeyError, match=f"no field '{key}'; there are"):
            del batch[key]
    assert list(batch) == []
    assert len(batch) == 2


def test_a_deleted_field_takes_its_level_and_default_along():
    batch = batch_of(2, 1)
    batch.add_key("w", torch.ones(3), default=7)
    del batch["w"]
    batch["w"] = torch.ones(2, 1)
    assert batch.level("w") is Level.SYSTEM
    with pytest.raises(ValueError, match="has no 'w', and it has no default"):
        batch.append(batch_of(1))


def test_model_dump_and_repr():
    batch = batch_of(2, 1, edges=2)
    batch["energy"] = torch.zeros(2)
    dump = batch.model_dump()
    assert dump.pop("num_nodes") == [2, 1]
    assert dump.pop("num_edges") == [2, 2]
    assert dump.keys() == set(batch.keys())
    assert all(tensor is batch[key] for key, tensor in dump.items())
    for text in (repr(batch), repr(batch[0]), repr(batch[[]])):
        assert "\n" not in text
    assert repr(batch).startswith("Batch(2 systems, 3 atoms, positions,")
    assert repr(batch[0]).startswith("AtomicData(2 atoms, positions,")
