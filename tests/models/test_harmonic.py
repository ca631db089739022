import numpy as np
import pytest
import torch

from nvdyn_ase.models import Harmonic
from tests.models import oracles


def test_energy_and_forces_are_those_of_wells():
    batch = oracles.batch_of(oracles.crystals(5))
    model = Harmonic(k=2.5, centre=(0.1, -0.2, 0.3))
    values = oracles.per_system(oracles.outputs(model, batch), batch)
    for system, atoms in enumerate(oracles.crystals(5)):
        d = atoms.positions - [0.1, -0.2, 0.3]
        assert values[system]["energy"][0] == pytest.approx(1.25 * (d**2).sum(), rel=1e-14)
        assert np.allclose(values[system]["forces"], -2.5 * d, rtol=1e-14)
        assert np.allclose(values[system]["atomic_energies"], 1.25 * (d**2).sum(1), rtol=1e-14)


def test_anchors_are_where_atoms_belong():
    batch = oracles.batch_of(oracles.crystals(3))
    batch.add_key("anchors", batch["positions"] + 1.0)
    values = Harmonic(k=2.0)(batch)
    assert torch.allclose(values["forces"], torch.full_like(values["forces"], 2.0))
    expected = 3.0 * batch.num_nodes_per_graph.double().view(-1, 1)
    assert torch.allclose(values["energy"], expected)


def test_it_gives_no_stress_and_needs_no_pairs():
    model = Harmonic()
    assert model.model_card.neighbor_config is None
    assert not model.model_card.supports_stress
    assert set(oracles.outputs(model, oracles.batch_of(oracles.crystals(3)))) == {
        *("energy", "forces", "atomic_energies")
    }


def test_a_system_does_not_know_its_neighbours_in_the_batch():
    structures = oracles.crystals(6)
    batch = oracles.batch_of(structures)
    batch["positions"][batch.host_ptr[2]] = float("nan")
    together = oracles.per_system(oracles.outputs(Harmonic(), batch), batch)
    assert np.isnan(together[2]["energy"]).all()
    for system, atoms in enumerate(structures):
        alone = oracles.batch_of([atoms])
        (expected,) = oracles.per_system(oracles.outputs(Harmonic(), alone), alone)
        if system != 2:
            oracles.assert_same_bits(together[system], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": -1.0}, "k must not be negative"),
        ({"k": float("nan")}, "k must"),
        ({"centre": (0.0, 1.0)}, "centre must be three"),
        ({"centre": (0.0, 1.0, float("inf"))}, "centre must be three"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Harmonic(**arguments)


def test_parameters_are_attributes_and_shown():
    model = Harmonic(2, [1, 2, 3])
    assert (model.k, model.centre) == (2.0, (1.0, 2.0, 3.0))
    assert repr(model) == "Harmonic(k=2.0, centre=(1.0, 2.0, 3.0))"
