"""Whatever an ``ase.Atoms`` can hold, and when two of them are the same."""

import ase
import numpy as np
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixScaled,
    FixSubsetCom,
    Hookean,
    MirrorForce,
)
from ase.io.jsonio import encode
from hypothesis import strategies as st

#: Names that a batch, a system or the table of fields uses too, or that look like a field's.
NAMES = (
    *("a", "a_", "a_3", "a_3_", "a_2x2", "a_int", "a_int_3", "a_bool", "a_complex"),
    *("array_a", "array_a_3", "array_array_a", "_a", "", "my charges", "Å"),
    *("forces", "energy", "energies", "charges", "magmoms", "dipole", "stress", "velocities"),
    *("status", "system_id", "fixed", "append", "num_nodes", "batch", "constraints", "host"),
    *("atomic_numbers", "initial_magmoms_3", "fmax", "edge_index", "free_energy"),
)

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128"),
    *(">f8", ">i4", ">c8", "U5", "S3", "O", "M8[s]"),
)

#: Types that a tensor cannot hold.
HOSTED = {"uint64", "longdouble", "U5", "S3", "O", "M8[s]"}


def values(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random values of a type, with its extremes among them."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.kind in "iu":
        info = np.iinfo(kind)
        picks = np.array([0, 1, info.min, info.max, 7], dtype=kind)
        return rng.choice(picks, shape).astype(kind)
    if kind.kind == "f":
        picks = np.array([0.0, -0.0, 1e-3, np.nan, np.inf, -2.5, rng.normal()])
        return rng.choice(picks, shape).astype(kind)
    if kind.kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind)
    if kind.kind == "M":
        return rng.integers(0, 10**9, shape).astype(kind)
    words = np.array(["", "Cu1", "x y"])
    array = rng.choice(words, shape)
    if kind.kind == "O":
        hollow = np.empty(shape, object)
        hollow.ravel()[:] = [{"word": str(word)} for word in array.ravel()]
        return hollow
    return array.astype(kind)


def cells(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a cell of any handedness, with zero vectors, and a pbc that goes with it."""
    cell = rng.permutation(np.diag(rng.choice([-5.0, 4.0, 6.5], 3))) + 0.3 * rng.normal(size=(3, 3))
    present = rng.random(3) < 0.75
    cell[~present] = 0.0
    return cell, present & (rng.random(3) < 0.7)


def constraint_makers(n: int) -> dict:
    """Return functions that make each kind of constraint for n atoms, and need a generator."""
    makers = {
        "none": lambda rng: [],
        "no atoms": lambda rng: [FixAtoms([])],
        "atoms": lambda rng: [FixAtoms(mask=rng.random(n) < 0.5)],
        "last": lambda rng: [FixAtoms([-1])],
        "twice": lambda rng: [FixAtoms([0]), FixAtoms([0])],
        "apart": lambda rng: [FixAtoms([0]), FixAtoms([n - 1])],
        "cartesian": lambda rng: [FixCartesian([0], mask=(True, False, True))],
        "line": lambda rng: [FixedLine([0], rng.normal(size=3))],
        "plane": lambda rng: [FixedPlane([0], rng.normal(size=3)), FixAtoms([n - 1])],
        "com": lambda rng: [FixCom()],
        "subset": lambda rng: [FixSubsetCom([0])],
        "scaled": lambda rng: [FixScaled([0], mask=(True, True, False))],
        "mode": lambda rng: [FixedMode(rng.normal(size=(n, 3)))],
        "point": lambda rng: [Hookean(0, (0.0, 0.0, 1.0), k=2.0, rt=0.5)],
    }
    if n >= 2:
        makers |= {
            "bonds": lambda rng: [FixBondLengths([[0, 1]])],
            "internals": lambda rng: [FixInternals(bonds=[[None, [0, 1]]], mic=True)],
            "spring": lambda rng: [Hookean(0, 1, k=3.0, rt=1.0), FixAtoms([0])],
            "force": lambda rng: [ExternalForce(0, 1, 0.4)],
            "mirror": lambda rng: [MirrorForce(0, 1)],
        }
    return makers


@st.composite
def structures(draw, constraints: bool = True) -> ase.Atoms:
    """Draw any structure that ASE can hold and that is not nonsense."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 4))
    cell, pbc = cells(rng)
    spread = np.arange(n)[:, None] * 1.1
    atoms = ase.Atoms(
        numbers=rng.integers(0, 119, n),
        positions=spread + 0.3 * rng.normal(size=(n, 3)),
        cell=cell,
        pbc=pbc,
    )
    for setter in draw(st.lists(st.sampled_from(sorted(SETTERS)), unique=True)):
        SETTERS[setter](atoms, rng)
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.sampled_from([(), (3,), (2, 2), (1,), (0,)]))
        array = values(rng, dtype, (n, *shape))
        atoms.arrays[name] = np.asfortranarray(array) if rng.random() < 0.3 else array
    if draw(st.booleans()):
        atoms.info = {"name": "x", "deep": {"list": [1, {"array": np.arange(3)}]}, 7: None}
    if draw(st.booleans()):
        atoms.set_celldisp(rng.normal(size=draw(st.sampled_from([(3, 1), (3,)]))))
    if constraints:
        makers = constraint_makers(n)
        atoms.set_constraint(makers[draw(st.sampled_from(sorted(makers)))](rng))
    return atoms


SETTERS = {
    "momenta": lambda a, rng: a.set_momenta(rng.normal(size=(len(a), 3)), apply_constraint=False),
    "rest": lambda a, rng: a.set_momenta(np.zeros((len(a), 3))),
    "tags": lambda a, rng: a.set_tags(rng.integers(-3, 3, len(a))),
    "no tags": lambda a, rng: a.set_tags(0),
    "short tags": lambda a, rng: a.arrays.update(tags=np.arange(len(a), dtype=np.int16)),
    "real tags": lambda a, rng: a.arrays.update(tags=rng.normal(size=len(a))),
    "masses": lambda a, rng: a.set_masses(rng.uniform(0.5, 90, len(a))),
    "standard masses": lambda a, rng: a.set_masses(),
    "massless": lambda a, rng: a.set_masses([0.0] * len(a)),
    "charges": lambda a, rng: a.set_initial_charges(rng.normal(size=len(a))),
    "single charges": lambda a, rng: a.arrays.update(
        initial_charges=rng.normal(size=len(a)).astype(np.float32)
    ),
    "magmoms": lambda a, rng: a.arrays.update(initial_magmoms=rng.normal(size=len(a))),
    "vector magmoms": lambda a, rng: a.arrays.update(initial_magmoms=rng.normal(size=(len(a), 3))),
    "single positions": lambda a, rng: a.arrays.update(positions=a.positions.astype(np.float32)),
    "whole momenta": lambda a, rng: a.arrays.update(momenta=rng.integers(-3, 3, (len(a), 3))),
    "whole masses": lambda a, rng: a.arrays.update(masses=rng.integers(1, 99, len(a))),
    "whole positions": lambda a, rng: a.arrays.update(positions=a.positions.astype(int)),
    "short numbers": lambda a, rng: a.arrays.update(numbers=a.numbers.astype(np.uint8)),
}


def assert_same(a: ase.Atoms, b: ase.Atoms) -> None:
    """Check that two structures are the same to the last bit, order and types included."""
    assert list(a.arrays) == list(b.arrays)
    for name, array in a.arrays.items():
        other = b.arrays[name]
        assert array.dtype == other.dtype, name
        assert array.shape == other.shape, name
        if array.dtype.kind == "O":
            assert (array == other).all(), name
        elif array.dtype.char == "g":  # of its sixteen bytes, six are filled with anything
            assert np.array_equal(array, other, equal_nan=True), name
        else:
            assert array.tobytes() == other.tobytes(), name
        assert not np.shares_memory(array, other), name
    assert a.cell.array.tobytes() == b.cell.array.tobytes()
    assert (a.pbc == b.pbc).all()
    assert a.get_celldisp().shape == b.get_celldisp().shape
    assert (a.get_celldisp() == b.get_celldisp()).all()
    assert a.info.keys() == b.info.keys()
    assert all(a.info[key] is b.info[key] for key in a.info)
    assert [type(c) for c in a.constraints] == [type(c) for c in b.constraints]
    for one, other in zip(a.constraints, b.constraints, strict=True):
        assert one is not other
        assert encode(one.todict()) == encode(other.todict())
