"""Systems and batches of every kind, and what it means that two of them are the same."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch, Level

DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
)

LEVELS = [Level.NODE, Level.EDGE, Level.SYSTEM]  # at which a system by itself takes fields

CELLS = {
    "molecule": (np.zeros((3, 3)), (False, False, False)),
    "bulk": (np.diag([4.0, 5.0, 6.0]), (True, True, True)),
    "left-handed": (np.diag([4.0, 5.0, -6.0]), (True, True, True)),
    "slab": (np.diag([4.0, 5.0, 0.0]), (True, True, False)),
    "wire": (np.array([[0, 0, 0], [0, 0, 0], [1.0, 1.0, 9.0]]), (False, False, True)),
    "box": (np.diag([4.0, 5.0, 6.0]), (False, True, False)),
}

OPTIONAL = {
    "forces": (Level.NODE, torch.float64, (3,)),
    "atomic_stresses": (Level.NODE, torch.float64, (3, 3)),
    "tags": (Level.NODE, torch.int64, ()),
    "fixed": (Level.NODE, torch.bool, ()),
    "energy": (Level.SYSTEM, torch.float64, (1,)),
    "stress": (Level.SYSTEM, torch.float64, (3, 3)),
    "steps": (Level.SYSTEM, torch.int64, (1,)),
    "system_id": (Level.SYSTEM, torch.int64, (1,)),
}


@dataclass(frozen=True)
class Own:
    """A field that the table does not declare."""

    name: str
    level: Level
    dtype: torch.dtype
    shape: tuple[int, ...]


def any_bits(shape, dtype, seed):
    """Return a tensor of random bits: every value of its type may occur, NaN and -0 included."""
    count = int(np.prod(shape))
    if not count:
        return torch.empty(shape, dtype=dtype)
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if dtype is torch.bool:
        raw &= 1
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def system(seed=0, atoms=3, edges=None, cell="bulk", optional=(), own=()):
    """Return a system; ``edges`` pairs of atoms, or None for no field with pairs."""
    rng = np.random.default_rng(seed)
    vectors, pbc = CELLS[cell]
    fields = {
        "positions": rng.normal(size=(atoms, 3)),
        "atomic_numbers": rng.integers(1, 90, atoms),
        "velocities": rng.normal(size=(atoms, 3)),
        "cell": vectors,
        "pbc": pbc,
    }
    for key in optional:
        level, dtype, shape = OPTIONAL[key]
        fields[key] = any_bits((atoms if level is Level.NODE else 1, *shape), dtype, seed)
    if edges is not None:
        edges = edges if atoms else 0
        fields["edge_index"] = rng.integers(0, max(atoms, 1), (edges, 2))
        fields["unit_shifts"] = rng.integers(-2, 3, (edges, 3))
    data = AtomicData(**fields, constraints=[("held", seed)], host={"name": seed})
    add = {
        Level.NODE: (data.add_node_property, atoms),
        Level.EDGE: (data.add_edge_property, data.num_edges),
        Level.SYSTEM: (data.add_system_property, 1),
    }
    for number, field in enumerate(own):
        method, rows = add[field.level]
        method(field.name, any_bits((rows, *field.shape), field.dtype, seed + number))
    return data


def own_fields():
    """Choose up to four fields of the user's, of any level, type and shape."""
    field = st.builds(
        Own,
        st.sampled_from(["charge", "label", "mark", "energy_change", "w"]),
        st.sampled_from(LEVELS),
        st.sampled_from(DTYPES),
        st.sampled_from([(), (1,), (2,), (3,), (2, 3), (0,)]),
    )
    return st.lists(field, max_size=4, unique_by=lambda f: f.name)


@st.composite
def systems(draw, min_size=1, max_size=4):
    """Choose systems that can share a batch."""
    own = draw(own_fields())
    optional = draw(st.sets(st.sampled_from(sorted(OPTIONAL)), max_size=3))
    paired = draw(st.booleans()) or any(field.level is Level.EDGE for field in own)
    seed = draw(st.integers(0, 2**16))
    result = []
    for number in range(draw(st.integers(min_size, max_size))):
        edges = draw(st.integers(0, 4)) if paired else None
        result.append(
            system(
                seed + number,
                draw(st.integers(0, 4)),
                edges,
                draw(st.sampled_from(sorted(CELLS))),
                sorted(optional),
                own,
            )
        )
    return result


def indices(count):
    """Choose an index of several among ``count`` systems, with the rows that it means."""
    rows = st.lists(st.integers(-count, count - 1), max_size=5) if count else st.just([])
    mask = st.lists(st.booleans(), min_size=count, max_size=count)
    bound = st.none() | st.integers(-count - 1, count + 1)
    slices = st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, -1, -2]))

    def chosen(mask):
        return [row for row, bit in enumerate(mask) if bit]

    return st.one_of(
        slices.map(lambda s: (s, list(range(count))[s])),
        *(
            rows.map(lambda r, form=form: (form(r), [i % max(count, 1) for i in r]))
            for form in (list, tuple, _ints, _int32, lambda r: np.array(r, np.int64), _scalars)
        ),
        *(
            mask.map(lambda m, form=form: (form(m), chosen(m)))
            for form in (list, _bools, lambda m: np.array(m, bool))
        ),
    )


def _ints(rows):
    return torch.tensor(rows, dtype=torch.int64)


def _int32(rows):
    return torch.tensor(rows, dtype=torch.int32)


def _scalars(rows):
    return [np.int64(row) for row in rows]


def _bools(mask):
    return torch.tensor(mask, dtype=torch.bool)


def same_bits(a, b):
    """Say whether two tensors are the same in type, shape and every bit."""
    if a.dtype is not b.dtype or a.shape != b.shape:
        return False
    if not a.numel():
        return True
    a, b = (t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(a, b)


def assert_same_data(a, b):
    """Assert that two systems are the same bit for bit, in fields, levels and what rides along."""
    items = [{key: (level, tensor) for key, level, tensor in data.items()} for data in (a, b)]
    assert items[0].keys() == items[1].keys()
    for key, (level, tensor) in items[0].items():
        assert items[1][key][0] is level, key
        assert same_bits(tensor, items[1][key][1]), key
    assert (a.constraints, a.host, a._defaults) == (b.constraints, b.host, b._defaults)


def assert_holds(batch, data):
    """Assert that a batch consists of these systems, bit for bit, and is consistent in itself."""
    assert len(batch) == batch.num_graphs == batch.batch_size == len(data)
    assert batch.num_nodes_list == [d.num_nodes for d in data]
    assert batch.num_edges_list == [d.num_edges for d in data]
    rows = {
        Level.NODE: sum(batch.num_nodes_list),
        Level.EDGE: sum(batch.num_edges_list),
        Level.SYSTEM: len(data),
    }
    for key, tensor in batch:
        assert len(tensor) == rows[batch.level(key)], key
        assert tensor.device == batch.device
    for part, whole in zip(batch.to_data_list(), data, strict=True):
        assert_same_data(part, whole)
    for row, whole in enumerate(data):
        assert_same_data(batch.get_data(row), whole)


def batch_of(*sizes, edges=None, **options):
    """Return a batch of systems with these numbers of atoms."""
    return Batch.from_data_list([system(i, n, edges, **options) for i, n in enumerate(sizes)])


def assert_same_batch(a, b):
    """Assert that two batches are the same bit for bit, in fields, levels and what rides along."""
    assert a.num_nodes_list == b.num_nodes_list
    assert a.num_edges_list == b.num_edges_list
    assert set(a.keys()) == set(b.keys())
    for key, tensor in a:
        assert a.level(key) is b.level(key), key
        assert same_bits(tensor, b[key]), key
    assert (a.constraints, a.host, a.defaults) == (b.constraints, b.host, b.defaults)
