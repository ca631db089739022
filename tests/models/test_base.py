import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nvdyn_ase.models import (
    BaseModelMixin,
    Harmonic,
    ModelCard,
    ModelConfig,
    ModelOutputs,
    NeighborConfig,
)


class Network(BaseModelMixin, nn.Module):
    model_card = ModelCard(supported_elements=frozenset({1, 8}))

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch):
        return ModelOutputs({"energy": batch})


def test_outputs_go_by_their_declared_names():
    outputs = ModelOutputs({"energies": torch.ones(2, 1), "stresses": torch.zeros(2, 3, 3)})
    assert set(outputs) == {"energy", "stress"}
    assert outputs.failures == {}
    assert ModelOutputs(failures={1: "no"}).failures == {1: "no"}


def test_a_config_is_a_model_s_own():
    one, two = Harmonic(), Harmonic()
    one.model_config.outputs = frozenset({"energy"})
    assert two.model_config.outputs == {"energy", "forces"}
    one.model_config = ModelConfig(outputs=frozenset({"stress"}))
    assert one.model_config.outputs == {"stress"}


def test_asking_for_more_lasts_for_a_while():
    model = Harmonic()
    with model.computing({"stress"}):
        assert model.model_config.outputs == {"energy", "forces", "stress"}
    assert model.model_config.outputs == {"energy", "forces"}
    with pytest.raises(AttributeError), model.computing({"stress"}):
        model.no_such_method()
    assert model.model_config.outputs == {"energy", "forces"}


def test_a_torch_module_is_called_through_the_contract():
    model = Network()
    tensor = torch.ones(1, 1)
    assert isinstance(model(tensor), ModelOutputs)
    assert model.device == torch.device("cpu")
    assert model.to("meta") is model
    assert model.device.type == "meta"
    assert model.layer.weight.device.type == "meta"
    assert model.to(torch.float32).device.type == "meta"


def test_a_model_without_parameters_is_where_it_was_sent():
    model = Harmonic()
    assert model.device == torch.device("cpu")
    assert model.to(device="meta").device.type == "meta"
    assert model.to(torch.float64).device.type == "meta"


def test_unknown_elements_are_listed():
    assert Network().elements_unknown([8, 1, 6, 7, 6]) == [6, 7]
    assert Harmonic().elements_unknown([8, 1]) == []


def test_adapting_is_the_identity_unless_a_model_says_otherwise():
    model = Network()
    assert model.adapt_input("batch") == "batch"
    assert model.adapt_output({"energies": torch.ones(1, 1)}, None).keys() == {"energy"}


@pytest.mark.parametrize(
    "arguments",
    [
        *({"cutoff": 0.0}, {"cutoff": -1.0}, {"cutoff": float("inf")}, {"cutoff": float("nan")}),
        *({"cutoff": 1.0, "skin": -0.1}, {"cutoff": 1.0, "skin": float("inf")}, {}),
    ],
)
def test_impossible_lists_of_pairs_are_refused(arguments):
    with pytest.raises(ValidationError):
        NeighborConfig(**arguments)


def test_cards_do_not_change():
    card = ModelCard(neighbor_config=NeighborConfig(cutoff=3.0))
    with pytest.raises(ValidationError, match="frozen"):
        card.supports_stress = True
    with pytest.raises(ValidationError, match="frozen"):
        card.neighbor_config.skin = 1.0
