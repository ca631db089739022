"""AIMNet2 in a batch gives what its own calculator gives, one by one; the networks are random."""

import copy

import ase
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of

pytest.importorskip("aimnet")

from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator
from aimnet.config import build_module

from nvdyn_ase.models.aimnet2 import AIMNet2Model

pytestmark = pytest.mark.filterwarnings("ignore:Switching to DSF Coulomb for PBC")

EVERYTHING = ("energy", "forces", "stress")
LIMITS = (1e-5, 1e-4, 1e-6)
ELEMENTS = [1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17]
MOLECULES = (
    *("H", "N2", "CO", "H2O", "NH3", "CH4", "CO2", "C2H2", "C2H4", "C2H6", "H2CO", "HCN"),
    *("CH3OH", "CH3CH2OH", "CH3COOH", "CH3NO2", "C6H6", "C5H5N", "C4H4NH", "C4H4O", "C4H4S"),
    *("bicyclobutane", "trans-butane", "isobutane", "SiH4", "PH3", "SH2", "HCl"),
)


def network(channels=1, coulomb=True, dispersion=True, seed=1, **said):
    """Return a small network with random weights, large enough for forces to be seen."""
    torch.manual_seed(seed)
    head = {"n_in": 16, "n_out": 1, "key_in": "aim", "key_out": "energy"}
    head["mlp"] = {"activation_fn": "torch.nn.GELU", "hidden": [16]}
    outputs = {"energy_mlp": ("Output", head)}
    for kind in ("AtomicShift", "AtomicSum"):
        outputs[kind] = (kind, {"key_in": "energy", "key_out": "energy"})
    if coulomb:
        short = {"rc": 4.6, "key_in": "charges", "key_out": "energy"}
        outputs["srcoulomb"] = ("SRCoulomb", short)
    module = build_module(
        {
            "class": "aimnet.models.AIMNet2",
            "kwargs": {
                **{"nfeature": 8, "d2features": True, "ncomb_v": 4, "aim_size": 16},
                **{"hidden": [[16], [16], [16, 16]], "aev": {"rc_s": 5.0, "nshifts_s": 8}},
                "num_charge_channels": channels,
                "outputs": {
                    name: {"class": f"aimnet.modules.{kind}", "kwargs": arguments}
                    for name, (kind, arguments) in outputs.items()
                },
            },
        }
    ).eval()
    with torch.no_grad():
        module.outputs["energy_mlp"].mlp[-1].weight *= 20
        module.outputs["AtomicShift"].shifts.weight[1:].normal_()  # the first is of padding
    module._metadata = {
        **{"format_version": 2, "cutoff": 5.0, "implemented_species": ELEMENTS},
        **{"needs_coulomb": coulomb, "needs_dispersion": dispersion},
        **{"coulomb_mode": "sr_embedded" if coulomb else "none", "has_embedded_lr": coulomb},
        **({"coulomb_sr_rc": 4.6, "coulomb_sr_envelope": "exp"} if coulomb else {}),
        "d3_params": {"s8": 0.3908, "a1": 0.5660, "a2": 3.1280},
        **said,
    }
    return module


def calculator(**options):
    return AIMNet2Calculator(network(**options), device="cpu")


def mixed():
    """Return 32 structures of 1 to 27 atoms: molecules, alone and in cells, crystals."""
    structures = [molecule(name) if name != "H" else ase.Atoms("H") for name in MOLECULES]
    structures.append(molecule("CH3OH", cell=[6, 7, 8], pbc=True))
    skewed = bulk("Si", cubic=True)
    skewed.set_cell(skewed.cell.array @ [[1, 0.1, 0], [0, 1.05, 0], [0.07, 0, 1]], scale_atoms=True)
    layer = molecule("C6H6", cell=[8, 8, 12], pbc=[True, True, False])
    structures += [skewed, bulk("Al") * (3, 3, 3), layer]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    structures[29].positions += structures[29].cell[0] * 3  # outside of the cell
    return structures


def check(theirs, structures, limits=LIMITS):
    """Compare what a batch gives with what the calculator gives of each structure."""
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is AIMNet2Model
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        for name, limit in zip(EVERYTHING, limits, strict=True):
            if name == "stress" and not (atoms.pbc.any() and atoms.cell.rank == 3):
                continue
            expected = theirs.get_property(name, own)
            if name == "stress":
                expected = (0.5 * (expected + expected.T)).flat[[0, 4, 8, 5, 2, 1]]
            scale = len(atoms) if name == "energy" else 1
            difference = np.abs(ours[name] - expected).max() / scale
            assert difference < limit, (atoms, name, difference)
    return found


# -------------------------------------------------------------------------------- its numbers


@pytest.mark.parametrize("options", [{}, {"coulomb": False, "dispersion": False}])
def test_the_numbers_of_its_calculator(options):
    structures = mixed()
    assert len(structures) == 32
    assert {1, 27} <= {len(atoms) for atoms in structures}
    found = check(AIMNet2ASE(calculator(**options)), structures)
    assert max(np.abs(one["forces"]).max() for one in found) > 0.1


@pytest.mark.parametrize("method", ["dsf", "ewald", pytest.param("pme", marks=pytest.mark.slow)])
def test_coulomb_energies_by_other_methods(method):
    inside = calculator()
    inside.set_lrcoulomb_method(method)
    structures = [*mixed()[28:31], molecule("H2O", cell=[5, 6, 9], pbc=True)]
    check(AIMNet2ASE(inside), structures)
    assert as_model(inside).module.coulomb_method == method


@pytest.mark.parametrize("channels", [1, 2])
def test_charges_and_spins(channels):
    inside = calculator(channels=channels)
    structures = [molecule(name) for name in ("OH", "H2O", "CH3", "OH")]
    usual = check(AIMNet2ASE(inside), structures)
    other = check(AIMNet2ASE(inside, charge=-1, mult=3), structures)
    for atoms, charge, spin in zip(structures, (0, 1, -1, 0), (2, 1, 1, 4), strict=True):
        atoms.info |= {"charge": charge, "spin": spin}
    given = check(AIMNet2ASE(inside), structures)
    for one, two in ((usual, other), (usual[1:3], given[1:3]), (other[:2], given[:2])):
        assert all(a["energy"] != b["energy"] for a, b in zip(one, two, strict=True))
    assert (given[0]["energy"] == given[3]["energy"]) is (channels == 1)  # but for the spin
    assert (given[0]["energy"] == usual[0]["energy"]) is (channels == 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_who_does_not_say_has_the_calculator_s_charge_in_any_company(channels):
    inside = calculator(channels=channels)
    structures = [molecule(name) for name in ("H2O", "NH3", "H2O", "CH3", "CH3")]
    infos = ({}, {}, {"charge": 0}, {"charge": 0, "spin": 1}, {"spin": 2})
    for atoms, info in zip(structures, infos, strict=True):
        atoms.info |= info
    found = NvdynCalculator(AIMNet2Model(inside, charge=1, mult=2)).evaluate(structures)
    for atoms, ours in zip(structures, found, strict=True):
        # A new one for each: it keeps the charge of the last.
        expected = AIMNet2ASE(inside, charge=1, mult=2).get_property("energy", atoms.copy())
        assert abs(ours["energy"] - expected) < 1e-5 * len(atoms), atoms.info
    assert abs(found[0]["energy"] - found[2]["energy"]) > 1e-3


def test_alone_and_in_a_batch():
    inside, structures = calculator(), mixed()
    together = NvdynCalculator(AIMNet2Model(inside)).evaluate(structures)
    for atoms, ours in zip(structures[::3], together[::3], strict=True):
        (alone,) = NvdynCalculator(AIMNet2Model(inside)).evaluate([atoms.copy()])
        for name, value in alone.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-5)


def test_far_from_the_origin():
    """The package loses digits there: float32 is coarse."""
    model = AIMNet2Model(calculator())
    for here in (molecule("CH3OH"), molecule("CH3OH", cell=[6, 7, 8], pbc=True)):
        there = here.copy()
        there.positions += 1e5
        near, far = NvdynCalculator(model).evaluate([here, there])
        np.testing.assert_allclose(near["forces"], far["forces"], atol=1e-5)


def in_double_precision(**options):
    """Return a calculator made to compute in float64, for numerical derivatives."""
    inside = calculator(**options)
    module = inside.model.double()
    for name in ("keys_in", "keys_in_optional"):
        types = getattr(inside, name).items()
        setattr(inside, name, {key: _doubled(dtype) for key, dtype in types})
    for name in ("_required_keys_dtype", "_optional_keys_dtype"):
        setattr(module, name, [_doubled(dtype) for dtype in getattr(module, name)])
    return inside


def _doubled(dtype):
    return torch.float64 if dtype is torch.float32 else dtype


def test_the_derivatives_are_those_of_the_energy():
    boxed = molecule("NH3", cell=[6, 7, 8])  # not periodic: stress comes from the forces
    boxed.rattle(0.05)
    model = AIMNet2Model(in_double_precision(dispersion=False))
    layer = molecule("H2O", cell=[8, 7, 0], pbc=[True, True, False])  # no third vector
    for atoms in (mixed()[3], boxed, mixed()[28], mixed()[29][:4], layer):
        atoms.calc = NvdynCalculator(model)
        numerical = calculate_numerical_forces(atoms, 1e-4)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-5)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)


# -------------------------------------------------------------------------------- its rules


def test_failures_stay_alone():
    structures = [molecule("CH4"), molecule("CH4"), molecule("CH4"), bulk("Si"), molecule("CH4")]
    structures[1].numbers[0] = 26
    structures[3].numbers[:] = 92
    model = AIMNet2Model(calculator())
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[10, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(batch)
    unknown = "AIMNet2Model has no parameters for"
    assert outputs.failures == {1: f"{unknown} Fe", 3: f"{unknown} U"}
    alone = model(batch_of(structures[:1]))
    assert outputs.keys() == {"energy", "forces"}
    for name, values in outputs.items():
        rows = 5 if name == "forces" else 1
        for own in (values[:rows], values[-rows:]):
            torch.testing.assert_close(own, alone[name], atol=1e-5, rtol=0)
        assert torch.isnan(values[rows:-rows]).all(), name


def test_networks_for_neutral_systems():
    batch = batch_of([molecule("H2O"), molecule("H2O")])
    batch["total_charge"] = torch.tensor([[0.0], [1.0]])
    model = AIMNet2Model(calculator(supports_charged_systems=False))
    outputs = model(batch)
    assert outputs.failures == {1: "this network is for neutral systems; the charge is 1 e"}
    assert torch.isfinite(outputs["energy"][0])


def test_what_it_says_of_itself():
    inside = calculator()
    model = AIMNet2Model(inside)
    assert model.model_card.supported_elements == frozenset(ELEMENTS)
    assert (model.model_card.dtype, model.device.type) == (torch.float32, "cpu")
    module = network()
    del module._metadata
    bare = AIMNet2Model(AIMNet2Calculator(module, device="cpu"))
    assert bare.model_card.supported_elements == frozenset(range(1, 64))
    assert repr(model) == "AIMNet2Model(coulomb_method='simple')"


# -------------------------------------------------------------------------------- the registry


def test_it_is_found():
    inside = calculator()
    for model in (
        as_model(AIMNet2ASE(inside, charge=1, mult=2)),
        as_model(inside, charge=1, mult=2),
    ):
        assert (type(model), model.module) == (AIMNet2Model, inside)
        assert (model.charge, model.mult) == (1, 2)


def test_what_it_cannot_stand_for_is_called():
    class Changed(AIMNet2ASE):
        pass

    class Other(AIMNet2Calculator):
        pass

    inside = calculator()
    assert type(as_model(Changed(inside))) is CalculatorModel
    other = copy.copy(inside)
    other.__class__ = Other
    assert type(as_model(AIMNet2ASE(other))) is CalculatorModel


def test_calculators_with_one_network_are_one_model():
    inside, structures = calculator(), [molecule("H2O"), molecule("CO")]
    for atoms in structures:
        atoms.calc = AIMNet2ASE(inside)
    assert type(model_for(structures)) is AIMNet2Model
    for other in (AIMNet2ASE(inside, charge=1), AIMNet2ASE(calculator(seed=2))):
        structures[1].calc = other
        assert type(model_for(structures)) is CalculatorModel


def test_files(tmp_path):
    (tmp_path / "notes.pt").write_text("a list of things to do")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("notes.pt", "other.pt", "nothing.pt"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint of AIMNet2"):
            as_model("aimnet2", checkpoint=tmp_path / name, device="cpu")


def test_a_list_is_relaxed_as_by_ase():
    inside, ours = calculator(), mixed()[12:16]
    theirs = [atoms.copy() for atoms in ours]
    for atoms in (*ours, *theirs):
        atoms.calc = AIMNet2ASE(inside)
    optimizer = FIRE(ours, logfile=None)
    assert type(optimizer.engine.model) is AIMNet2Model
    optimizer.run(fmax=0.001, steps=5)
    for one, other in zip(ours, theirs, strict=True):
        ase.optimize.FIRE(other, logfile=None).run(fmax=0.001, steps=5)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-4)
