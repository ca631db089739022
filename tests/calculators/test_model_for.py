"""Which model a list of Atoms asks for."""

import pickle

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from loguru import logger

from nvdyn_ase import models
from nvdyn_ase.atoms import batch_from_atoms, partition, write_back
from nvdyn_ase.calculators import CalculatorModel, NoCalculatorError, model_for, unsupported
from nvdyn_ase.calculators.choosing import _say_once
from nvdyn_ase.data import StructureError
from tests.atoms.calculators import CountingEMT, evaluate


def with_calculators(*calculators):
    systems = [bulk("Cu", cubic=True) for _ in calculators]
    for atoms, calculator in zip(systems, calculators, strict=True):
        atoms.calc = calculator
    return systems


SHARED = EMT()


@pytest.mark.parametrize(
    ("calculators", "kind"),
    [
        ([SHARED, SHARED, SHARED], models.EMT),
        ([EMT(), EMT()], models.EMT),
        ([EMT()], models.EMT),
        ([LennardJones(sigma=2.0), LennardJones(sigma=2.0)], models.LennardJones),
        ([MorsePotential(), MorsePotential()], models.Morse),
        ([SumCalculator([EMT(), LennardJones()])] * 2, models.SumModel),
        ([SumCalculator([EMT(), LennardJones()]) for _ in range(2)], models.SumModel),
        ([EMT(), EMT(asap_cutoff=True)], CalculatorModel),
        ([LennardJones(sigma=2.0), LennardJones(sigma=2.1)], CalculatorModel),
        (
            [SumCalculator([EMT(), LennardJones(sigma=s)]) for s in (2.0, 2.1)],
            CalculatorModel,
        ),
        ([SumCalculator([EMT()]), SumCalculator([EMT(), EMT()])], CalculatorModel),
        ([EMT(), LennardJones()], CalculatorModel),
        ([CountingEMT(), CountingEMT()], CalculatorModel),
        ([CountingEMT()], CalculatorModel),
    ],
)
def test_the_model_that_calculators_stand_for(calculators, kind):
    systems = with_calculators(*calculators)
    before = [atoms.calc for atoms in systems]
    model = model_for(systems)
    assert type(model) is kind
    assert all(atoms.calc is calc for atoms, calc in zip(systems, before, strict=True))
    assert not model(_neighbored(model, systems)).failures


def _neighbored(model, systems):
    from nvdyn_ase.neighbors import NeighborList

    batch = batch_from_atoms(systems)
    if model.model_card.neighbor_config is not None:
        NeighborList(**dict(model.model_card.neighbor_config)).update(batch)
    return batch


def test_parameters_arrive():
    model = model_for(with_calculators(*[LennardJones(sigma=2.5, epsilon=0.2) for _ in range(3)]))
    assert isinstance(model, models.LennardJones)
    batch = _neighbored(model, with_calculators(EMT()))
    atoms = bulk("Cu", cubic=True)
    atoms.calc = LennardJones(sigma=2.5, epsilon=0.2)
    assert model(batch)["energy"].item() == pytest.approx(atoms.get_potential_energy())


def test_a_model_that_is_given():
    systems = with_calculators(CountingEMT(), None)
    ours = models.LennardJones(sigma=2.0)
    assert model_for(systems, ours) is ours
    assert isinstance(model_for(systems, EMT()), models.EMT)
    assert isinstance(model_for(systems, CountingEMT()), CalculatorModel)
    with pytest.raises(TypeError):
        model_for(systems, 7)


def test_calculators_that_somebody_changed_are_called_themselves():
    calculators = [EMT(), EMT()]
    calculators[1].calculate = lambda *args, **kwargs: None
    assert isinstance(model_for(with_calculators(*calculators)), CalculatorModel)
    assert isinstance(model_for(with_calculators(calculators[1])), CalculatorModel)


@pytest.mark.parametrize("shared", [True, False])
def test_what_an_earlier_run_left_is_seen_through(shared):
    one = EMT()
    systems = with_calculators(*(one if shared else EMT() for _ in range(3)))
    batch = batch_from_atoms(systems)
    evaluate(batch, systems)
    write_back(batch, systems, momenta=False, results=True)
    assert isinstance(model_for(systems), models.EMT)
    assert isinstance(model_for(systems[:1]), models.EMT)
    assert isinstance(model_for(systems, systems[0].calc), models.EMT)


def test_structures_without_a_calculator():
    systems = with_calculators(EMT(), None, EMT())
    with pytest.raises(
        NoCalculatorError, match=r"^structure 1: it has no calculator; give"
    ) as found:
        model_for(systems)
    error = found.value
    assert isinstance(error, (StructureError, RuntimeError))
    assert error.index == 1
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin)) == (NoCalculatorError, str(error))
    systems[1].calc = SinglePointCalculator(systems[1], energy=1.0)
    with pytest.raises(NoCalculatorError, match=r"^structure 1: .*only stores results"):
        model_for(systems)
    assert isinstance(model_for(systems, EMT()), models.EMT)


def test_elements_that_a_model_does_not_know():
    systems = [bulk("Cu"), bulk("Fe"), molecule("CO"), bulk("NaCl", "rocksalt", a=5.6)]
    with pytest.raises(StructureError, match=r"^structure 1: EMT does not know Fe; leave"):
        model_for(systems, EMT())
    errors = unsupported(systems, models.EMT())
    assert [error.index for error in errors] == [1, 3]
    assert "EMT does not know Na, Cl; leave the structure out" in errors[1].problem
    errors = unsupported(systems, models.EMT(), indices=[10, 20, 30, 40])
    assert [error.index for error in errors] == [20, 40]
    systems[0].numbers[0], systems[1].numbers[0] = 500, -3
    assert "element 500" in unsupported(systems, models.EMT())[0].problem
    assert "element -3" in unsupported(systems, models.EMT())[1].problem
    systems[0].numbers[0], systems[1].numbers[0] = 29, 26
    assert unsupported([], models.EMT()) == []
    assert unsupported(systems, CalculatorModel(EMT())) == []
    # Together with what is wrong with structures themselves:
    rows, _ = partition(systems)
    assert rows == [0, 1, 2, 3]


def test_calling_one_by_one_is_said_once():
    _say_once.cache_clear()
    lines = []
    handle = logger.add(lines.append, format="{message}")
    try:
        for _ in range(3):
            model_for(with_calculators(EMT(), LennardJones()))
        model_for(with_calculators(CountingEMT()))
    finally:
        logger.remove(handle)
    assert len(lines) == 1
    assert "one by one, by their own calculators (EMT, LennardJones)" in lines[0]


def test_calculators_of_the_same_class_keep_apart():
    systems = with_calculators(LennardJones(sigma=2.0), LennardJones(sigma=2.4))
    outputs = model_for(systems)(batch_from_atoms(systems))
    expected = [atoms.get_potential_energy() for atoms in systems]
    assert torch.allclose(outputs["energy"].view(-1), torch.tensor(expected).double())
