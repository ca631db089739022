import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics import ConvergenceCriterion, ConvergenceHook


def batch_of(*sizes):
    systems = [
        AtomicData(positions=torch.randn(n, 3).double(), atomic_numbers=[1] * n) for n in sizes
    ]
    return Batch.from_data_list(systems)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.floats(0.1, 2.0), st.booleans())
def test_norm_of_forces_is_max_reduced_per_system(sizes, threshold, strict):
    batch = batch_of(*sizes)
    batch["forces"] = torch.randn(batch.num_nodes, 3).double()
    criterion = ConvergenceCriterion(
        key="forces", threshold=threshold, reduce_op="norm", strict=strict
    )
    largest = [f.norm(dim=1).max() for f in batch["forces"].split(sizes)]
    assert criterion.mask(batch).tolist() == [bool(f <= threshold) for f in largest]


@pytest.mark.parametrize(("strict", "expected"), [(False, [True, True]), (True, [True, False])])
def test_the_threshold_itself(strict, expected):
    batch = batch_of(1, 2)
    batch["fmax"] = torch.tensor([[0.04], [0.05]], dtype=torch.float64)
    criterion = ConvergenceCriterion(key="fmax", threshold=0.05, strict=strict)
    assert criterion.mask(batch).tolist() == expected


def test_nan_never_converges():
    batch = batch_of(1, 1)
    batch["fmax"] = torch.tensor([[float("nan")], [0.0]]).double()
    assert ConvergenceHook().evaluate_mask(batch).tolist() == [False, True]


@pytest.mark.parametrize("reduce_op", ["min", "max", "mean", "sum"])
def test_reductions_of_a_system_field(reduce_op):
    batch = batch_of(1, 2, 3)
    batch["stress"] = torch.arange(27.0).view(3, 3, 3)
    criterion = ConvergenceCriterion(
        key="stresses", threshold=100.0, reduce_op=reduce_op, reduce_dims=(-1, -2)
    )
    expected = {"min": [1] * 3, "max": [1] * 3, "mean": [1] * 3, "sum": [1, 0, 0]}[reduce_op]
    assert criterion.mask(batch).tolist() == [bool(e) for e in expected]


def test_three_one_atom_systems_are_told_from_three_atoms():
    batch = batch_of(1, 1, 1)
    batch["forces"] = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 3.0]]).double()
    assert ConvergenceHook.from_forces(1.5).evaluate(batch).tolist() == [0, 1]


def test_a_custom_op_decides_alone():
    batch = batch_of(2, 2)
    batch["energy"] = torch.tensor([[-1.0], [1.0]]).double()
    criterion = {"key": "energies", "custom_op": lambda energy: energy.view(-1) < 0}
    assert ConvergenceHook(criterion).evaluate_mask(batch).tolist() == [True, False]


def test_criteria_are_anded_and_counted():
    batch = batch_of(1, 1, 1)
    batch["fmax"] = torch.tensor([0.01, 0.01, 1.0]).double()
    batch["energy"] = torch.tensor([-1.0, 1.0, -1.0]).double()
    hook = ConvergenceHook([{"key": "fmax", "threshold": 0.05}, {"key": "energy"}])
    assert hook.num_criteria == 2
    assert hook.evaluate(batch).tolist() == [0]


def test_one_threshold_per_system():
    batch = batch_of(1, 1)
    batch["fmax"] = torch.tensor([0.1, 0.1]).double()
    batch["target"] = torch.tensor([[0.2], [0.05]]).double()
    assert ConvergenceHook.from_fmax("target").evaluate(batch).tolist() == [0]


def test_a_missing_key_lists_what_is_there():
    with pytest.raises(KeyError, match=r"temperature.*positions"):
        ConvergenceHook({"key": "temperature"}).evaluate_mask(batch_of(1))


@pytest.mark.parametrize("criteria", [3, "fmax", [3], [], {"fmax", "energy"}])
def test_criteria_of_another_kind(criteria):
    with pytest.raises(TypeError):
        ConvergenceHook(criteria)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_called_it_moves_converged_systems_between_statuses(shape):
    batch = batch_of(1, 1, 1)
    batch["fmax"] = torch.tensor([0.01, 0.01, 1.0]).double()
    batch["status"] = torch.tensor([0, 1, 0]).view(shape)
    ConvergenceHook(source_status=0, target_status=5)(batch, None)
    assert batch["status"].shape == shape
    assert batch["status"].view(-1).tolist() == [5, 1, 0]


def test_called_without_a_status_on_the_batch_it_does_nothing():
    batch = batch_of(1)
    batch["fmax"] = torch.zeros(1).double()
    ConvergenceHook(source_status=0, target_status=5)(batch, None)
    assert "status" not in batch
    ConvergenceHook()(batch, None)


def test_the_default_is_fmax_at_most_five_hundredths():
    assert repr(ConvergenceHook()) == "ConvergenceHook(fmax <= 0.05)"
    assert repr(ConvergenceHook.from_fmax(0.1, strict=True)) == "ConvergenceHook(fmax < 0.1)"


@pytest.mark.parametrize("frequency", [0, -1, 1.5, True])
def test_a_bad_frequency_is_refused(frequency):
    with pytest.raises(ValueError, match="frequency"):
        ConvergenceHook(frequency=frequency)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_custom_test_may_return_rows(shape):
    batch = batch_of(1, 2, 3)
    batch["energy"] = torch.tensor([[1.0], [-1.0], [-2.0]])
    hook = ConvergenceHook({"key": "energy", "custom_op": lambda e: (e < 0).view(shape)})
    assert hook.evaluate_mask(batch).tolist() == [False, True, True]


@pytest.mark.parametrize("returned", [torch.ones(6, dtype=torch.bool), torch.ones(3)])
def test_a_custom_test_that_returns_something_else_is_told(returned):
    batch = batch_of(1, 2, 3)
    hook = ConvergenceHook({"key": "positions", "custom_op": lambda _: returned})
    with pytest.raises(ValueError, match="one bool for each of the 3"):
        hook.evaluate_mask(batch)
