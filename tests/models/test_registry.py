import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import ase
import pytest
from ase.build import bulk
from ase.calculators import emt as ase_emt
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.mixing import (
    AverageCalculator,
    LinearCombinationCalculator,
    MixedCalculator,
    SumCalculator,
)
from ase.calculators.morse import MorsePotential
from loguru import logger
from torch import nn

from nvdyn_ase import models
from nvdyn_ase.atoms.proxy import CalculatorProxy
from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.models import (
    EMT,
    BaseModelMixin,
    Harmonic,
    LennardJones,
    Morse,
    StillingerWeber,
    SumModel,
    as_model,
    register_model,
    registry,
)


class Dispersion(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.results = {"energy": 1.0, "forces": 0.0 * self.atoms.positions}


class Deeper(Dispersion):
    pass


class Wrapped(BaseModelMixin):
    def __init__(self, inside, scale=1.0):
        self.inside, self.scale = inside, scale


@pytest.fixture
def table(monkeypatch):
    """Let a test register what it likes."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def said():
    """Collect what is logged."""
    registry._say_once.cache_clear()
    lines = []
    sink = logger.add(lambda message: lines.append(message.record), level="INFO")
    yield lines
    logger.remove(sink)


# -------------------------------------------------------------------------------- ASE's own


def test_a_batched_model_is_returned_as_it_is():
    model = Harmonic()
    assert as_model(model) is model
    with pytest.raises(TypeError, match=r"skin.*Harmonic is a model already"):
        as_model(model, skin=1.0)


def test_calculators_of_ase_become_their_equals():
    model = as_model(AseLennardJones(sigma=2.0, epsilon=0.5, rc=5.0, ro=4.0, smooth=True), skin=0.3)
    assert type(model) is LennardJones
    assert (model.sigma, model.epsilon, model.rc, model.ro) == (2.0, 0.5, 5.0, 4.0)
    assert (model.smooth, model.skin) == (True, 0.3)
    model = as_model(AseLennardJones(sigma=2.0))
    assert (model.rc, model.ro) == (6.0, 0.66 * 6.0)

    model = as_model(MorsePotential(epsilon=0.5, r0=2.0))
    assert type(model) is Morse
    assert (model.epsilon, model.r0, model.rho0) == (0.5, 2.0, 6.0)
    assert (model.rcut1, model.rcut2) == (1.9, 2.7)

    for cutoff in (False, True):
        model = as_model(ase_emt.EMT(asap_cutoff=cutoff))
        assert type(model) is EMT
        assert model.asap_cutoff is cutoff


def test_sums_of_calculators_become_sums():
    parts = [AseLennardJones(rc=3.0), MorsePotential()]
    for calculator, weights in (
        (SumCalculator(parts), [1.0, 1.0]),
        (AverageCalculator(parts), [0.5, 0.5]),
        (MixedCalculator(*parts, 0.3, 0.7), [0.3, 0.7]),
        (LinearCombinationCalculator(parts, [2, -1]), [2.0, -1.0]),
    ):
        model = as_model(calculator)
        assert type(model) is SumModel
        assert [type(part) for part in model.models] == [LennardJones, Morse]
        assert model.weights == weights
    nested = as_model(SumCalculator([SumCalculator(parts), AseLennardJones()]))
    assert [type(part) for part in nested.models] == [SumModel, LennardJones]


def test_a_sum_is_called_part_by_part_only_if_a_part_has_an_equal(said):
    model = as_model(SumCalculator([AseLennardJones(), Dispersion()]))
    assert [type(part) for part in model.models] == [LennardJones, CalculatorModel]
    whole = SumCalculator([Dispersion(), Deeper()])
    model = as_model(whole)
    assert type(model) is CalculatorModel
    assert model.calculators is whole


def test_changed_parameters_are_taken_up():
    calculator = AseLennardJones(sigma=2.0, rc=5.0)
    calculator.set(epsilon=0.7)
    assert as_model(calculator).epsilon == 0.7


# -------------------------------------------------------------------------------- not ASE's own


def test_a_subclass_is_not_taken_for_ase_s_class():
    class Shifted(AseLennardJones):
        def calculate(self, *arguments, **keywords):
            super().calculate(*arguments, **keywords)
            self.results["energy"] += 1.0

    class Unchanged(ase_emt.EMT):
        pass

    assert type(as_model(Shifted())) is CalculatorModel
    assert type(as_model(Unchanged())) is CalculatorModel


def test_an_object_whose_method_was_replaced_is_called():
    calculator = AseLennardJones()
    calculator.calculate = lambda *arguments: None
    assert type(as_model(calculator)) is CalculatorModel


def test_an_object_that_was_filled_with_results_is_still_itself():
    class StandIn:
        replaced = None

    calculator = AseLennardJones()
    calculator.calculate = StandIn()
    assert type(as_model(calculator)) is LennardJones


def test_parameters_that_only_ase_accepts_are_left_to_it():
    for calculator in (
        AseLennardJones(smooth=True, rc=3.0, ro=4.0),
        AseLennardJones(epsilon=-1.0),
        AseLennardJones(sigma="wide", rc=3.0),
        MorsePotential(rcut1=3.0),
    ):
        assert type(as_model(calculator)) is CalculatorModel
    with pytest.raises(ValueError, match="skin"):
        as_model(AseLennardJones(), skin=-1.0)


def test_any_other_calculator_is_called_and_that_is_said_once(said):
    for _ in range(3):
        model = as_model(Dispersion())
        assert type(model) is CalculatorModel
    as_model(Deeper())
    mine = [line for line in said if line["name"] == "nvdyn_ase.models.registry"]
    assert [line["level"].name for line in mine] == ["INFO", "INFO"]
    assert "Dispersion has no batched equal" in mine[0]["message"]


def test_what_asks_like_a_calculator_is_one():
    class Homemade:
        def get_potential_energy(self, atoms):
            return 0.0

        def get_forces(self, atoms):
            return 0.0 * atoms.positions

    assert type(as_model(Homemade())) is CalculatorModel


def test_a_proxy_stands_for_what_is_behind_it():
    assert type(as_model(CalculatorProxy(MorsePotential()))) is Morse


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("emt", EMT), ("EMT", EMT), ("lj", LennardJones), ("lennard-jones", LennardJones)),
        *(("Lennard_Jones", LennardJones), ("morse", Morse), ("harmonic", Harmonic)),
        *(("sw", StillingerWeber), ("stillinger_weber", StillingerWeber)),
    ],
)
def test_names_make_built_in_models(name, kind):
    assert type(as_model(name)) is kind


def test_names_take_options():
    model = as_model("lj", sigma=3.4, epsilon=0.0104, rc=8.5, skin=1.0)
    assert (model.sigma, model.skin) == (3.4, 1.0)
    with pytest.raises(TypeError, match="unexpected"):
        as_model("lj", colour="red")


def test_an_unknown_name_lists_the_known_ones():
    names = "coulomb, d3, eam, emt, .*harmonic, lennard-jones.*mace.*morse.*sw, table, tersoff"
    with pytest.raises(ValueError, match=f"'maze'.*{names}"):
        as_model("maze")


# -------------------------------------------------------------------------------- other packages


def test_a_registered_class_and_its_subclasses(table, said):
    register_model(f"{__name__}.Dispersion", Wrapped)
    calculator = Deeper()
    model = as_model(calculator, scale=2.0)
    assert type(model) is Wrapped
    assert (model.inside, model.scale) == (calculator, 2.0)
    register_model(f"{__name__}.Deeper", lambda calculator: Harmonic())
    assert type(as_model(Deeper())) is Harmonic
    assert type(as_model(Dispersion())) is Wrapped


def test_a_factory_may_decline(table, said):
    register_model(f"{__name__}.Deeper", lambda calculator: None)
    assert type(as_model(Deeper())) is CalculatorModel
    register_model(f"{__name__}.Dispersion", Wrapped)
    assert type(as_model(Deeper())) is Wrapped


def test_a_registered_name(table):
    register_model("springs", Harmonic)
    assert as_model("springs", k=3.0).k == 3.0
    with pytest.raises(ValueError, match=r"morse.*springs"):
        as_model("strings")


def test_a_name_is_registered_once(table):
    register_model("springs", Harmonic)
    register_model("springs", Harmonic)
    with pytest.raises(ValueError, match=r"'springs' is registered already.*Harmonic"):
        register_model("springs", Morse)


def test_a_factory_that_makes_something_else_is_named(table):
    register_model(f"{__name__}.Dispersion", lambda calculator: "a model")
    with pytest.raises(TypeError, match=r"made a str of a Dispersion.*BaseModelMixin"):
        as_model(Dispersion())


def test_a_torch_module_may_be_registered(table):
    register_model("torch.nn.modules.linear.Linear", Wrapped)
    assert type(as_model(nn.Linear(1, 1))) is Wrapped


def test_entry_points_of_packages(tmp_path, monkeypatch, said):
    (tmp_path / "springs_of_ours.py").write_text(
        "from nvdyn_ase.models import Harmonic\n"
        "class Factory:\n"
        "    @staticmethod\n"
        "    def make(calculator, k=4.0):\n"
        "        return Harmonic(k)\n"
    )
    info = tmp_path / "springs_of_ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: springs-of-ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nvdyn_ase.models]\n"
        f"{__name__}.Dispersion = springs_of_ours:Factory.make\n"
        "springs = nvdyn_ase.models:Harmonic\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._brought.cache_clear()
    try:
        assert as_model(Deeper()).k == 4.0
        assert as_model(Dispersion(), k=5.0).k == 5.0
        assert as_model("springs", k=6.0).k == 6.0
    finally:
        registry._brought.cache_clear()
        sys.modules.pop("springs_of_ours", None)


def test_an_entry_point_that_cannot_be_imported_is_named(monkeypatch, said):
    points = {
        f"{__name__}.Dispersion": "springs_that_left:make",
        "springs": "nvdyn_ase.models:Springs",
    }
    found = [EntryPoint(name, target, "nvdyn_ase.models") for name, target in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(found))
    registry._brought.cache_clear()
    try:
        for thing, name in ((Dispersion(), f"{__name__}.Dispersion"), ("springs", "springs")):
            with pytest.raises(ImportError, match=rf"{name} = {points[name]}.*nvdyn_ase\.models"):
                as_model(thing)
    finally:
        registry._brought.cache_clear()


@pytest.mark.parametrize(
    ("package", "extra", "calculator"),
    [
        ("chgnet", "chgnet", "chgnet.model.dynamics.CHGNetCalculator"),
        ("mace", "mace", "mace.calculators.mace.MACECalculator"),
        ("sevenn", "sevennet", "sevenn.calculator.SevenNetCalculator"),
        ("nequip", "nequip", "nequip.integrations.ase.NequIPCalculator"),
        ("metatensor", "metatomic", "metatomic_ase._calculator.MetatomicCalculator"),
        ("orb_models", "orb", "orb_models.forcefield.calculator.ORBCalculator"),
        ("fairchem", "fairchem", "fairchem.core.calculate.ase_calculator.FAIRChemCalculator"),
        ("aimnet", "aimnet2", "aimnet.calculators.aimnet2ase.AIMNet2ASE"),
        ("mattersim", "mattersim", "mattersim.forcefield.potential.MatterSimCalculator"),
        ("torch_sim", "torchsim", "torch_sim.models.interface.ModelInterface"),
        ("nvalchemi", "nvalchemi", "nvalchemi.models.base.BaseModelMixin"),
    ],
)
def test_a_missing_package_names_the_extra(package, extra, calculator, monkeypatch):
    for loaded in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"nvdyn_ase.models.{extra}", raising=False)
    monkeypatch.delattr(models, extra, raising=False)
    module, _, name = calculator.rpartition(".")
    kind = type(name, (Dispersion,), {"__module__": module, "__qualname__": name})
    expected = rf"{package} is not installed.*'nvdyn_ase\[{extra}\]'"
    for thing in (kind(), *({extra} & registry._NAMES.keys())):
        with pytest.raises(ImportError, match=expected):
            as_model(thing)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("d3", "torch_dftd", "d3"), ("coulomb", "torchpme", "pme")]
)
def test_a_missing_package_of_another_name_names_the_extra(name, package, extra, monkeypatch):
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"nvdyn_ase.models.{name}", raising=False)
    monkeypatch.delattr(models, name, raising=False)
    with pytest.raises(ImportError, match=rf"{package} is not installed.*'nvdyn_ase\[{extra}\]'"):
        as_model(name)


# -------------------------------------------------------------------------------- no calculator


def test_what_is_no_model_is_refused_with_advice():
    for thing in (None, 3, [ase_emt.EMT()], {"model": "emt"}, object()):
        with pytest.raises(TypeError, match=r"neither a batched model nor an ASE calculator"):
            as_model(thing)
    with pytest.raises(TypeError, match=r"Linear is a plain torch module.*BaseModelMixin"):
        as_model(nn.Linear(1, 1))
    for kind in (ase_emt.EMT, LennardJones):
        with pytest.raises(TypeError, match=rf"{kind.__name__} is a class.*{kind.__name__}\("):
            as_model(kind)
    with pytest.raises(TypeError, match=r"Atoms.*atoms\.calc"):
        as_model(bulk("Cu"))
    with pytest.raises(TypeError, match=r"atoms\.calc"):
        as_model(type("MyAtoms", (ase.Atoms,), {})())


def test_built_in_models_do_not_import_ase_calculators():
    code = (
        "import sys\n"
        "from nvdyn_ase.models import as_model\n"
        "as_model('lj'), as_model('morse'), as_model('emt')\n"
        "unwanted = 'ase.calculators.', 'chgnet', 'mace', 'sevenn'\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
