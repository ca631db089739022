import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.mixing import LinearCombinationCalculator, SumCalculator
from ase.calculators.morse import MorsePotential
from ase.calculators.tip3p import TIP3P
from hypothesis import given

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator
from nvdyn_ase.models import (
    EMT,
    BaseModelMixin,
    Harmonic,
    LennardJones,
    ModelCard,
    ModelOutputs,
    Morse,
    NeighborConfig,
    SumModel,
    as_model,
)
from tests.models import oracles

LJ = {"sigma": 1.9, "epsilon": 0.8, "rc": 4.7}
MORSE = {"epsilon": 0.7, "rho0": 5.0, "r0": 2.1, "rcut1": 1.3, "rcut2": 1.8}


class Counting(BaseModelMixin):
    """Its energy is the number of pairs that it is given, within a cutoff or all."""

    def __init__(self, half=False, cutoff=4.0, skin=0.0, **extras):
        config = NeighborConfig(cutoff=cutoff, half_list=half, skin=skin)
        self.model_card = ModelCard(neighbor_config=config, supported_elements=frozenset({18, 36}))
        self.extras = extras

    def forward(self, batch):
        assert batch.neighbors.half == self.model_card.neighbor_config.half_list
        energy = torch.as_tensor(batch.neighbors.num_pairs).double().view(-1, 1)
        forces = torch.zeros_like(batch["positions"])
        return ModelOutputs({"energy": energy, "forces": forces, **self.extras})


def summed(model, structures):
    return oracles.evaluated(model, structures)


@oracles.examples
@given(structures=oracles.batches())
def test_a_sum_is_that_of_ase(structures):
    model = SumModel([LennardJones(**LJ), Morse(**MORSE)], [0.3, -1.7])
    for atoms, values in zip(structures, summed(model, structures), strict=True):
        parts = [AseLennardJones(**LJ), MorsePotential(**MORSE)]
        reference = oracles.asked_of_ase(atoms, LinearCombinationCalculator(parts, [0.3, -1.7]))
        oracles.assert_close(values, reference, scale=20.0)


def test_pair_potentials_and_emt_share_a_list():
    structures = [bulk("Cu") * (2, 1, 1), bulk("Au"), molecule("CO")]
    for half in (True, False):
        members = [EMT(), LennardJones(1.9, 0.3, rc=3.0), Counting(half, cutoff=5.0, skin=0.3)]
        members[-1].model_card = ModelCard(neighbor_config=members[-1].model_card.neighbor_config)
        model = SumModel(members)
        assert model.model_card.neighbor_config.half_list is half
        alone = [oracles.evaluated(member, structures) for member in members[:2]]
        for a, b, both in zip(*alone, summed(model, structures), strict=True):
            assert np.array_equal(both["forces"], a["forces"] + b["forces"])


def test_members_leave_out_what_is_beyond_their_cutoff():
    structures = oracles.crystals(6)
    short, long = Morse(**MORSE), LennardJones(**LJ)
    config = SumModel([short, long]).model_card.neighbor_config
    assert config.cutoff == 4.7
    assert config.skin == long.model_card.neighbor_config.skin
    alone = [oracles.evaluated(model, structures) for model in (short, long)]
    for a, b, both in zip(*alone, summed(SumModel([short, long]), structures), strict=True):
        for key, value in both.items():
            assert np.array_equal(value, a[key] + b[key]), key


def test_one_list_serves_those_that_want_both_kinds():
    structures = oracles.crystals(6)
    full = SumModel([LennardJones(**LJ), Counting(half=False, skin=0.5)])
    half = SumModel([LennardJones(**LJ), Counting(half=True, skin=0.5)])
    assert not full.model_card.neighbor_config.half_list
    assert half.model_card.neighbor_config.half_list
    alone = oracles.evaluated(LennardJones(**LJ), structures)
    for a, f, h in zip(alone, summed(full, structures), summed(half, structures), strict=True):
        assert np.array_equal(f["forces"], a["forces"])
        assert np.array_equal(h["forces"], a["forces"])
    with pytest.raises(ValueError, match=r"each pair once.*both ways"):
        SumModel([Counting(half=True), Counting(half=False)])


def test_a_model_without_a_skin_gets_the_list_that_it_asks_for():
    config = SumModel([LennardJones(rc=3.0, skin=1.0), Counting(cutoff=4.0)]).model_card
    assert dict(config.neighbor_config) == {"cutoff": 4.0, "half_list": False, "skin": 0.0}
    with pytest.raises(ValueError, match=r"Counting has a cutoff of 4.0.*no skin"):
        SumModel([LennardJones(rc=5.0), Counting(cutoff=4.0)])
    config = SumModel([LennardJones(rc=5.0, skin=0.4), Counting(cutoff=4.0, skin=0.6)]).model_card
    assert dict(config.neighbor_config) == {"cutoff": 5.0, "half_list": False, "skin": 0.6}


def test_sums_of_sums():
    inner = SumModel([LennardJones(**LJ), Harmonic(0.1)])
    assert inner.any_neighbor_list
    outer = SumModel([inner, Counting(half=False, skin=0.2)], [2.0, 0.0])
    assert not outer.any_neighbor_list
    structures = oracles.crystals(5)
    one = summed(SumModel([LennardJones(**LJ), Harmonic(0.1)], [2.0, 2.0]), structures)
    for a, b in zip(summed(outer, structures), one, strict=True):
        assert np.allclose(a["forces"], b["forces"], rtol=1e-14)


def test_what_not_all_give_is_left_out():
    structures = oracles.crystals(4)
    no_stress = SumModel([LennardJones(**LJ), Harmonic()])
    assert not no_stress.model_card.supports_stress
    assert set(summed(no_stress, structures)[0]) == {"energy", "forces", "atomic_energies"}
    assert SumModel([LennardJones(**LJ), Morse()]).model_card.supports_stress


def test_extras_and_free_energies():
    batch = oracles.batch_of(oracles.crystals(3))
    dipole, count = torch.ones(3, 3), torch.ones(3, 1, dtype=torch.int64)
    entropy = torch.full((3, 1), 5.0, dtype=torch.float64)
    one = Counting(cutoff=4.0, dipole=dipole, count=count, free_energy=entropy)
    two = Counting(cutoff=4.0, dipole=2 * dipole, count=count)
    model = SumModel([one, two], [1.0, 3.0])
    values = model(oracles.with_pairs(batch, model))
    assert set(values) == {"energy", "forces", "dipole", "free_energy"}
    assert torch.equal(values["dipole"], 7 * dipole)
    assert torch.equal(values["free_energy"], entropy + 3 * two(batch)["energy"])


def test_failures_of_any_member_are_failures_of_the_sum():
    class Failing(Harmonic):
        def forward(self, batch):
            values = super().forward(batch)
            values.failures[1] = f"{self.k} is too stiff"
            return values

    batch = oracles.batch_of(oracles.crystals(3))
    values = SumModel([Failing(2.0), Harmonic(), Failing(3.0)])(batch)
    assert values.failures == {1: "2.0 is too stiff; 3.0 is too stiff"}


def test_the_card_is_what_all_can_do():
    class Needy(Harmonic):
        model_card = ModelCard(
            needs_pbc=True,
            supports_pbc=True,
            conservative=False,
            required_inputs=frozenset({"charge"}),
            dtype=torch.float32,
            supported_elements=frozenset({18, 54}),
        )

    card = SumModel([Needy(), Counting(), LennardJones()]).model_card
    assert card.needs_pbc and not card.conservative
    assert card.required_inputs == {"charge"}
    assert card.dtype is torch.float64
    assert card.supported_elements == {18}
    assert SumModel([Harmonic()]).model_card.neighbor_config is None


def test_members_keep_what_they_were_asked_for():
    member = LennardJones(**LJ)
    model = SumModel([member])
    batch = oracles.with_pairs(oracles.batch_of(oracles.crystals(2)), model)
    with model.computing({"stress"}):
        assert "stress" in model(batch)
    assert member.model_config.outputs == {"energy", "forces"}
    assert set(member(batch)) == {"energy", "forces"}


@pytest.mark.parametrize(
    ("models", "weights", "message"),
    [
        ([], None, "at least one"),
        ([Harmonic()], [1.0, 2.0], "2 weights for 1 models"),
        ([Harmonic()], [float("nan")], "finite"),
    ],
)
def test_bad_sums_are_refused(models, weights, message):
    with pytest.raises(ValueError, match=message):
        SumModel(models, weights)


def test_models_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="cpu, meta"):
        SumModel([Harmonic(), Harmonic().to("meta")])
    model = SumModel([Harmonic(), Harmonic()]).to("meta")
    assert model.device.type == "meta"
    assert all(member.device.type == "meta" for member in model.models)


def test_it_shows_what_it_sums():
    model = SumModel([Harmonic(2.0), AseLennardJones(sigma=2.0)], [1.0, 0.5])
    assert repr(model) == (
        "SumModel(Harmonic(k=2.0, centre=(0.0, 0.0, 0.0)) + 0.5 * LennardJones(sigma=2.0, "
        "epsilon=1.0, rc=6.0, ro=3.96, smooth=False))"
    )


# -------------------------------------------------------------------------------- equal sums


class Springs(Harmonic):
    def gives_same_as(self, other):
        return type(other) is Springs and self.k == other.k


def test_sums_are_the_same_if_their_parts_and_weights_are():
    one = SumModel([Springs(1.0), Springs(2.0)], [0.5, 0.5])
    assert one.gives_same_as(one)
    assert one.gives_same_as(SumModel([Springs(1.0), Springs(2.0)], [0.5, 0.5], skin=1.0))
    for other in (
        SumModel([Springs(1.0), Springs(2.0)]),
        SumModel([Springs(2.0), Springs(1.0)], [0.5, 0.5]),
        SumModel([Springs(1.0)], [0.5]),
        SumModel([Springs(1.0), Harmonic(2.0)], [0.5, 0.5]),
        Springs(1.0),
    ):
        assert not one.gives_same_as(other)
        assert not other.gives_same_as(one)


# -------------------------------------------------------------------------------- the skin


def test_a_skin_may_be_chosen():
    parts = [AseLennardJones(**LJ), MorsePotential(**MORSE)]
    structures = oracles.crystals(5)
    usual = as_model(LinearCombinationCalculator(parts, [1.0, 2.0]))
    for skin in (0.0, 1.3):
        model = as_model(LinearCombinationCalculator(parts, [1.0, 2.0]), skin=skin)
        config = model.model_card.neighbor_config
        assert (model.skin, config.skin) == (skin, skin)
        assert config.cutoff == usual.model_card.neighbor_config.cutoff
        for found, expected in zip(
            summed(model, structures), summed(usual, structures), strict=True
        ):
            oracles.assert_close(found, expected, scale=20.0)
    assert SumModel([Harmonic()], skin=1.0).model_card.neighbor_config is None
    with pytest.raises(ValueError, match=r"skin=1.0: Counting has a neighbor_config without"):
        SumModel([Counting(), LennardJones(rc=4.0)], skin=1.0)


# -------------------------------------------------------------------------------- devices


def test_parts_without_weights_are_moved_to_the_device_of_others():
    on_device = NvdynCalculator(Morse(**MORSE).to("cuda:0"))
    one = AseLennardJones(**LJ)
    for others in ([one], [one, TIP3P()], [SumCalculator([one, one])]):
        model = as_model(SumCalculator([*others, on_device]))
        assert {str(part.device) for part in model.models} == {"cuda:0"}


def test_weights_stay_where_they_are():
    class Network(BaseModelMixin, torch.nn.Linear):
        model_card = ModelCard()

    calculators = [NvdynCalculator(Network(1, 1)), NvdynCalculator(Morse().to("cuda:0"))]
    model = as_model(SumCalculator(calculators))
    assert type(model) is CalculatorModel
    assert calculators[0].model.weight.device.type == "cpu"
    with pytest.raises(ValueError, match="on cpu, cuda:0; move them to one"):
        SumModel([calculator.model for calculator in calculators])


@pytest.mark.parametrize("current", [0, 1])
def test_a_device_without_a_number_is_the_current_one(monkeypatch, current):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    model = LennardJones(**LJ).to("cuda")
    assert SumModel([model, Morse().to(f"cuda:{current}")]).device.type == "cuda"
    with pytest.raises(ValueError, match=f"cuda, cuda:{1 - current}"):
        SumModel([model, Morse().to(f"cuda:{1 - current}")])
