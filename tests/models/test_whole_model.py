"""Models of whole systems are not shown what they have no row in their tables for."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed

from nvdyn_ase.calculators import NvdynCalculator
from nvdyn_ase.data import segment_sum
from nvdyn_ase.models import ModelCard
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.models.whole_model import WholeModel
from tests.models.oracles import batch_of


class FromATable(WholeModel):
    """Looks the energy of each atom up, as networks do with what they know of elements."""

    device, _dtype = torch.device("cpu"), torch.float64

    def __init__(self, last):
        self.table = torch.arange(last + 1.0, dtype=torch.float64)
        elements = frozenset(range(1, last + 1))
        self.model_card = ModelCard(supports_stress=True, supported_elements=elements)

    def _evaluate(self, systems, wanted):
        energies = self.table[systems.numbers]
        return {
            "energy": segment_sum(energies, systems.batch.ptr),
            "forces": energies[:, None] * torch.ones_like(systems.positions),
            "stress": torch.ones_like(systems.cell),
        }


def structures():
    return [
        bulk("Cu"),
        bulk("U"),
        molecule("H2O"),
        Atoms("UF", [[0, 0, 0], [0, 0, 2]]),
        bulk("NaCl", "rocksalt", a=5.6),
    ]


def test_unknown_elements_fail_alone():
    model = FromATable(30)
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    everyone = structures()
    outputs = model(batch_of(everyone))
    why = "FromATable has no parameters for U"
    assert outputs.failures == {1: why, 3: why}
    known = [everyone[row] for row in (0, 2, 4)]
    alone = model(batch_of(known))
    owners = np.repeat(np.arange(5), [len(atoms) for atoms in everyone])
    for name, values in outputs.items():
        rows = owners if name == "forces" else np.arange(5)
        good = torch.from_numpy(~np.isin(rows, [1, 3]))
        assert torch.equal(values[good], alone[name]), name
        assert torch.isnan(values[~good]).all(), name


def test_a_list_in_which_one_is_unknown_is_evaluated_but_for_that():
    everyone = structures()[:3]
    with pytest.raises(
        CalculationFailed, match=r"^structure 1: FromATable has no parameters for U$"
    ):
        NvdynCalculator(FromATable(30)).evaluate(everyone)
    assert everyone[0].get_potential_energy() == 29.0
    assert everyone[2].get_potential_energy() == 10.0
    (found,) = NvdynCalculator(FromATable(92)).evaluate([everyone[1].copy()])
    assert found["energy"] == 92.0


def test_nobody_is_known():
    outputs = FromATable(5)(batch_of([bulk("U")]))
    assert list(outputs.failures) == [0]
    assert torch.isnan(outputs["energy"]).all()
