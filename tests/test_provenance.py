import json
import os

import pytest
import torch

from nvdyn_ase import input_identity
from nvdyn_ase.input_identity import changes, identity
from nvdyn_ase.models import BaseModelMixin, as_model
from nvdyn_ase.models.base import ModelCard
from nvdyn_ase.provenance import differences, model_hash, provenance
from tests.wells import Well


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.xyz", b"one"), ("b.xyz", b"two")):
        (tmp_path / name).write_bytes(content)


def told(**changes):
    arguments = {
        "method": "relax",
        "parameters": {"fmax": 0.05, "options": {"maxstep": 0.1}},
        "model": as_model("lj", sigma=3.0),
        "inputs": ["a.xyz", "b.xyz"],
        "model_name": "lj",
        "model_options": {"sigma": 3.0},
        "seed": 7,
        "number": 3,
    }
    return provenance(**arguments | changes)


def test_it_is_json_and_the_same_each_time():
    first = told()
    assert json.loads(json.dumps(first)) == told() == first
    assert set(first["versions"]) == {"nvdyn_ase", "ase", "torch", "numpy", "python"}
    assert first["model"]["name"] == "lj"
    assert [own["name"] for own in first["input"]] == ["a.xyz", "b.xyz"]
    assert differences(first, told()) == []


CHANGES = {
    "fmax was 0.05, and is 0.01": {"parameters": {"fmax": 0.01, "options": {"maxstep": 0.1}}},
    "maxstep was 0.1, and is 0.2": {"parameters": {"fmax": 0.05, "options": {"maxstep": 0.2}}},
    "options was {'maxstep': 0.1}, and is None": {"parameters": {"fmax": 0.05}},
    "method was 'relax', and is 'md'": {"method": "md"},
    "seed was 7, and is None": {"seed": None},
    "number was 3, and is 4": {"number": 4},
    "the model is another one, or has other parameters": {"model": as_model("lj", sigma=3.1)},
    "sigma was 3.0, and is 3.5": {"model_options": {"sigma": 3.5}},
    "it had 2 input files, and there are 1": {"inputs": ["a.xyz"]},
    "the input was b.xyz, and is a.xyz": {"inputs": ["a.xyz", "a.xyz"]},
    "the input was a.xyz, and is a.xyz@:5": {"inputs": ["a.xyz@:5", "b.xyz"]},
}


@pytest.mark.parametrize("phrase", CHANGES)
def test_what_changed_is_said(phrase):
    assert differences(told(), told(**CHANGES[phrase])) == [phrase]


def test_versions_may_differ():
    before = told()
    before["versions"]["torch"] = "1.0"
    assert differences(before, told()) == []


def test_something_else_is_not_a_run():
    assert differences({"made by": "hand"}, told()) == ["it does not say its method"]


def test_a_file_is_its_content_and_not_its_date_or_folder(tmp_path):
    before = identity(["a.xyz"])
    os.utime("a.xyz", (1, 1))
    assert identity([str(tmp_path / "a.xyz")]) == before
    (tmp_path / "a.xyz").write_bytes(b"onf")
    assert changes(before, identity(["a.xyz"])) == ["a.xyz has another content"]
    (tmp_path / "a.xyz").write_bytes(b"one more")
    assert changes(before, identity(["a.xyz"])) == ["a.xyz had 3 bytes, and has 8"]


def test_large_files_are_sampled_at_both_ends_and_between(monkeypatch, tmp_path):
    monkeypatch.setattr(input_identity, "_MEGABYTE", 1000)
    monkeypatch.setattr(input_identity, "WHOLE_UP_TO", 3000)
    content = bytearray(os.urandom(200_000))
    (tmp_path / "large").write_bytes(content)
    before = identity(["large"])
    for place in (0, 999, 100_000, 199_000, 199_999):
        other = bytearray(content)
        other[place] ^= 1
        (tmp_path / "large").write_bytes(other)
        assert changes(before, identity(["large"])) == ["large has another content"]
    (tmp_path / "large").write_bytes(content)
    assert identity(["large"]) == before


def test_a_missing_file_is_an_error():
    with pytest.raises(FileNotFoundError):
        identity(["none.xyz"])


class Linear(BaseModelMixin, torch.nn.Module):
    model_card = ModelCard(forces_via_autograd=True)

    def __init__(self, weight):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        with torch.no_grad():
            self.layer.weight.fill_(weight)
            self.layer.bias.zero_()


def test_models_are_told_apart_by_what_they_are():
    assert model_hash(Linear(1.0)) == model_hash(Linear(1.0))
    assert model_hash(Linear(1.0)) != model_hash(Linear(1.0 + 1e-7))
    assert model_hash(as_model("emt")) != model_hash(as_model("lj"))
    assert model_hash(as_model("lj")) == model_hash(as_model("lj"))


def test_the_hash_of_a_model_that_says_nothing_of_itself_is_the_same_each_time():
    models = [Well(), Well()]
    assert repr(models[0]) != repr(models[1])
    assert model_hash(models[0]) == model_hash(models[1])
