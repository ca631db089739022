"""One system: what it takes, what it refuses and what it says."""

import numpy as np
import pytest
import torch
from ase.data import atomic_masses
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nvdyn_ase.data import FIELDS, AtomicData, Batch, Level
from tests.data.strategies import CELLS, DTYPES, any_bits, assert_same_data, same_bits, system

F64 = torch.float64


def water(**fields):
    given = {"positions": np.eye(3), "atomic_numbers": [8, 1, 1]}
    return AtomicData(**{**given, **fields})


# ---------------------------------------------------------------- what it takes


def test_defaults():
    data = water()
    assert (data.num_nodes, data.num_edges) == (3, 0)
    assert data.device == torch.device("cpu")
    assert data.dtype is F64
    assert same_bits(data.atomic_masses, torch.tensor(atomic_masses[[8, 1, 1]]))
    assert same_bits(data.velocities, torch.zeros(3, 3, dtype=F64))
    assert same_bits(data.cell, torch.zeros(1, 3, 3, dtype=F64))
    assert same_bits(data.pbc, torch.zeros(1, 3, dtype=torch.bool))
    assert data.atomic_numbers.dtype is torch.int64
    assert data.energy is data.edge_index is data.status is None
    assert data.constraints == ()
    assert data.host == {}
    assert not hasattr(data, "charge")


def test_python_numbers_keep_their_precision():
    data = AtomicData(positions=[[0.1, 0.2, 0.3]], atomic_numbers=[1], energy=0.1, fmax=[0.7])
    data.add_system_property("gap", 0.1)
    data.add_node_property("charge", [0.1])
    for value, number in ((data.energy, 0.1), (data.fmax, 0.7), (data.gap, 0.1)):
        assert same_bits(value, torch.tensor([[number]], dtype=F64))
    assert same_bits(data.positions, torch.tensor([[0.1, 0.2, 0.3]], dtype=F64))
    assert same_bits(data.charge, torch.tensor([0.1], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_fields_get_the_type_of_the_positions(dtype):
    data = water(positions=torch.eye(3, dtype=dtype), energy=1, stress=np.eye(3), cell=np.eye(3))
    for key in ("energy", "stress", "cell", "velocities", "atomic_masses", "positions"):
        assert getattr(data, key).dtype is dtype
    assert water(positions=np.eye(3, dtype=int)).dtype is F64


def test_arrays_of_any_kind_are_copied_and_tensors_are_not():
    positions = np.asfortranarray(np.arange(9.0).reshape(3, 3))[::-1]
    frozen = np.array([8, 1, 1], dtype=">i4")
    frozen.flags.writeable = False
    data = water(positions=positions, atomic_numbers=frozen)
    assert data.positions.tolist() == positions.tolist()
    assert data.atomic_numbers.tolist() == [8, 1, 1]
    data.positions.zero_()
    assert positions[0, 0] == 6
    tensor = torch.eye(3, dtype=F64)
    assert water(positions=tensor).positions is tensor


@pytest.mark.parametrize("key", sorted(k for k, f in FIELDS.items() if f.level is Level.SYSTEM))
def test_a_system_row_with_and_without_the_leading_one(key):
    field = FIELDS[key]
    row = torch.ones(field.shape, dtype=field.dtype or F64)
    if key in ("cell", "stress"):
        row = torch.eye(3, dtype=F64)
    for value in (row, row[None], row.tolist(), row[None].numpy()):
        tensor = getattr(water(**{"cell": np.eye(3), key: value}), key)
        if key == "status" and np.ndim(value) == 1:
            assert tensor.shape == (1,)
        else:
            assert same_bits(tensor, row[None])
    if field.shape != (3, 3):
        assert same_bits(getattr(water(**{key: 1, "cell": np.eye(3)}), key), row[None])
        return
    with pytest.raises(ValidationError, match=rf"{key} must be \(1, 3, 3\), or \(3, 3\), not"):
        water(**{key: 1.0})


@pytest.mark.parametrize("cell", CELLS)
def test_every_kind_of_cell_is_legal(cell):
    vectors, pbc = CELLS[cell]
    data = water(cell=vectors, pbc=pbc)
    assert data.cell[0].tolist() == vectors.tolist()
    assert tuple(data.pbc[0].tolist()) == pbc


@given(st.integers(0, 2**16), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=40, deadline=None)
def test_any_cell_with_a_volume_is_legal(seed, pbc):
    vectors = np.random.default_rng(seed).normal(size=(3, 3)) * 5
    for cell in (vectors, -vectors, vectors[::-1], vectors * np.array(pbc)[:, None]):
        assert water(cell=cell, pbc=pbc).cell[0].tolist() == cell.tolist()


def test_no_atoms_at_all():
    data = AtomicData(positions=torch.zeros(0, 3), atomic_numbers=[], edge_index=np.zeros((0, 2)))
    assert (data.num_nodes, data.num_edges) == (0, 0)
    assert Batch.from_data_list([data, water()]).num_nodes_list == [0, 3]


def test_a_model_validates_itself():
    data = water()
    assert AtomicData.model_validate(data) is data
    assert_same_data(AtomicData.model_validate({k: t for k, _, t in data.items()}), data)


# ---------------------------------------------------------------- what it refuses

NAN, INF = float("nan"), float("inf")
TWO = [[0.0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": None}, "positions is missing"),
        ({"atomic_numbers": None}, "atomic_numbers is missing"),
        ({"positions": TWO}, r"atomic_numbers must be \(2,\), one row per atom, not \(3,\)"),
        ({"positions": np.eye(4)}, r"positions must be \(4, 3\), one row per atom, not \(4, 4\)"),
        ({"positions": [1.0, 2, 3]}, r"positions must be \(3, 3\), one row per atom, not \(3,\)"),
        ({"positions": 1.0}, r"positions must be .*, not \(\)"),
        ({"positions": "Ar.xyz"}, "positions must be a tensor, an array or numbers"),
        ({"positions": [[1, 2, 3], [1]]}, "positions must be a tensor, an array or numbers"),
        ({"positions": object()}, "positions must be a tensor, an array or numbers"),
        ({"positions": np.eye(3) * 1j}, r"positions must be real, not torch\.complex128"),
        ({"positions": [*TWO, [0, NAN, 0]]}, "the position of atom 2 is not finite; give it three"),
        ({"positions": [*TWO, [-INF, 0, 0]]}, "the position of atom 2 is not finite"),
        ({"atomic_numbers": ["O", "H", "H"]}, "atomic_numbers must be a tensor, an array or numb"),
        ({"atomic_numbers": [8.5, 1, 1]}, "atomic_numbers must be whole numbers"),
        ({"atomic_numbers": [8, 1, NAN]}, "atomic_numbers must be whole numbers"),
        ({"atomic_numbers": [8, 1, 119]}, "atomic_numbers must be between 0 and 118"),
        ({"atomic_numbers": [8, 1, -1]}, "atomic_numbers must be between 0 and 118"),
        ({"atomic_masses": np.ones((3, 1))}, r"atomic_masses must be \(3,\), .*not \(3, 1\)"),
        ({"velocities": np.ones((2, 3))}, r"velocities must be \(3, 3\), one row per atom"),
        ({"forces": np.ones(9)}, r"forces must be \(3, 3\), one row per atom, not \(9,\)"),
        ({"cell": [4.0, 5, 6]}, r"cell must be \(1, 3, 3\), or \(3, 3\), not \(3,\)"),
        ({"cell": np.eye(3) * NAN}, "the cell is not finite; vectors that do not exist are zero"),
        ({"pbc": True}, "singular along its periodic directions; give lattice vectors that are"),
        ({"cell": np.ones((3, 3)), "pbc": True}, "or switch pbc off there"),
        ({"cell": np.diag([1.0, 2, 0]), "pbc": [0, 0, 1]}, "singular along its periodic"),
        ({"cell": [[1.0, 1, 0], [1, 1, 1e-12], [0, 0, 1]], "pbc": [1, 1, 0]}, "singular"),
        ({"pbc": [True, False]}, r"pbc must be \(1, 3\), or \(3,\), not \(2,\)"),
        ({"pbc": 0.5}, "pbc must be true or false"),
        ({"energy": [1.0, 2.0]}, r"energy must be \(1, 1\), or \(1,\), not \(2,\)"),
        ({"energy": 1j}, "energy must be real"),
        ({"stress": np.zeros(6)}, r"stress must be \(1, 3, 3\), or \(3, 3\), not \(6,\)"),
        ({"status": 0.5}, "status must be whole numbers"),
        ({"edge_index": np.zeros((2, 7))}, r"edge_index must be \(2, 2\), one row per pair"),
        ({"edge_index": 1}, "edge_index must be .*one row per pair, not"),
        ({"edge_index": [[0, 3]]}, "edge_index must be between 0 and 2, its atoms"),
        ({"edge_index": [[0, -1]]}, "edge_index must be between 0 and 2, its atoms"),
        ({"edge_index": [[0, 1]], "shifts": np.zeros((2, 3))}, "pairs of atoms need a row in each"),
        ({"charge": 1.0}, "no field is called charge; add fields of your own .*add_node_property"),
    ],
)
def test_what_it_refuses_and_what_it_says(fields, message):
    with pytest.raises(ValidationError, match=message) as caught:
        water(**fields)
    assert "input_value" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_whole_floats_are_taken_for_whole_numbers():
    assert water(atomic_numbers=[8.0, 1.0, 1.0]).atomic_numbers.dtype is torch.int64
    assert water(pbc=[1.0, 0, 0], cell=np.eye(3)).pbc.tolist() == [[True, False, False]]


# ---------------------------------------------------------------- assigning a field


def test_an_assigned_field_is_brought_to_its_shape_and_type():
    data = water()
    data.energy = -1.5
    data.status = 3
    data.stresses = np.eye(3)
    data.forces = np.zeros((3, 3), dtype=np.float32)
    data.edge_index = [[0, 1], [1, 2]]
    data.shifts = np.zeros((2, 3))
    assert same_bits(data.energy, torch.tensor([[-1.5]], dtype=F64))
    assert same_bits(data.status, torch.tensor([[3]]))
    assert data.stress.shape == (1, 3, 3)
    assert data.forces.dtype is F64
    assert data.num_edges == 2
    with pytest.raises(ValueError, match=r"edge_index must be \(2, 2\), one row per pair"):
        data.edge_index = [[0, 1]]
    data.shifts = None
    data.edge_index = [[0, 1]]
    assert data.num_edges == 1
    with pytest.raises(ValueError, match=r"positions must be \(3, 3\), one row per atom"):
        data.positions = np.zeros((2, 3))
    with pytest.raises(ValueError, match="charge"):
        data.charge = torch.zeros(3)
    assert Batch.from_data_list([data])["energy"].tolist() == [[-1.5]]


# ---------------------------------------------------------------- fields of the user's


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_user_properties_of_any_type(dtype):
    data = system(0, 3, 2)
    values = {
        "n": any_bits((3, 2), dtype, 0),
        "e": any_bits((2,), dtype, 1),
        "s": any_bits((1, 4), dtype, 2),
    }
    data.add_node_property("n", values["n"])
    data.add_edge_property("e", values["e"])
    data.add_system_property("s", values["s"])
    levels = {key: level for key, level, _ in data.items()}
    for key, level in (("n", Level.NODE), ("e", Level.EDGE), ("s", Level.SYSTEM)):
        assert levels[key] is level
        assert same_bits(getattr(data, key), values[key])
    assert [key for key, _, _ in data.items()][-3:] == ["n", "e", "s"]
    assert "n, e, s" in repr(data)


def test_user_system_rows_with_and_without_the_leading_one():
    data = water()
    for value, shape in ((1.5, (1, 1)), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([1], (1,))):
        data.add_system_property("s", value)
        assert data.s.shape == shape
    data.add_system_property("s", np.zeros((3, 3)))
    assert data.s.shape == (1, 3, 3)


def test_a_declared_field_can_be_added_at_its_level():
    data = water()
    data.add_node_property("forces", np.zeros((3, 3)), default=0.0)
    data.add_system_property("energies", 2.0)
    assert data.forces.shape == (3, 3)
    assert data.energy.tolist() == [[2]]
    assert data._user == {}
    with pytest.raises(ValueError, match="'energy' is declared system-level, not node-level"):
        data.add_node_property("energy", np.zeros(3))
    with pytest.raises(ValueError, match=r"stress must be \(1, 3, 3\)"):
        data.add_system_property("stress", np.zeros(6))


def test_properties_need_a_row_for_everything():
    data = system(0, 3, 2)
    with pytest.raises(ValueError, match=r"'n' is node-level and needs 3 rows, not shape \(2,\)"):
        data.add_node_property("n", [1, 2])
    with pytest.raises(ValueError, match=r"'n' is node-level and needs 3 rows, not shape \(\)"):
        data.add_node_property("n", 1)
    with pytest.raises(ValueError, match="'e' is edge-level and needs 2 rows"):
        data.add_edge_property("e", [1, 2, 3])
    with pytest.raises(ValueError, match="s must be a tensor, an array or numbers"):
        data.add_system_property("s", "text")
    with pytest.raises(ValueError, match="'e' is edge-level and needs 0 rows"):
        water().add_edge_property("e", [1])
    assert not {"n", "e", "s"} & {key for key, _, _ in data.items()}


# ---------------------------------------------------------------- the doors to ase


def test_from_and_to_atoms():
    from ase.build import bulk

    atoms = bulk("Cu", cubic=True)
    atoms.set_tags(range(4))
    data = AtomicData.from_atoms(atoms)
    assert isinstance(data, AtomicData)
    assert data.to_atoms() == atoms
    assert Batch.from_data_list([data, water()])[0].to_atoms() == atoms
