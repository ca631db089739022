"""Which batched model stands for an object: ``as_model`` and the tables it looks into.

The tables hold names, of classes and of what makes a model of their objects, so that nothing is
imported before there is such an object. They are looked into in this order: what this process has
registered with :func:`register_model`, what comes with this package, and the entry points of other
packages in the group ``nvdyn_ase.models``, such as ::

    [project.entry-points."nvdyn_ase.models"]
    "potentials.calculator.Potential" = "potentials.batched:from_calculator"
    our-potential = "potentials.batched:Model"

A name with dots is that of a class. Its objects are handed to the function along with the options;
it returns a batched model, or None to decline. A name without dots is one that users give to
:func:`as_model`; the function gets the options alone.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import FunctionType
from typing import Any, NamedTuple

from loguru import logger
from torch import nn

from nvdyn_ase.models.base import BaseModelMixin

Factory = Callable[..., Any]

_ADAPTERS = "nvdyn_ase.models.adapters"


class _Entry(NamedTuple):
    """What makes a model, as ``package.module:name`` or itself, and of whose objects."""

    factory: str | Factory
    exact: bool = False  # of the class itself only: a subclass may calculate something else


_NAMES = {
    "aimnet2": "nvdyn_ase.models.aimnet2:pretrained",
    "chgnet": "nvdyn_ase.models.chgnet:pretrained",
    "coulomb": "nvdyn_ase.models.coulomb:Coulomb",
    "d3": "nvdyn_ase.models.d3:D3",
    "eam": "nvdyn_ase.models.eam:EAM",
    "emt": "nvdyn_ase.models.emt:EMT",
    "fairchem": "nvdyn_ase.models.fairchem:pretrained",
    "harmonic": "nvdyn_ase.models.harmonic:Harmonic",
    "lennard-jones": "nvdyn_ase.models.lennard_jones:LennardJones",
    "lj": "nvdyn_ase.models.lennard_jones:LennardJones",
    "mace": "nvdyn_ase.models.mace:from_file",
    "mattersim": "nvdyn_ase.models.mattersim:pretrained",
    "metatomic": "nvdyn_ase.models.metatomic:from_file",
    "morse": "nvdyn_ase.models.morse:Morse",
    "orb": "nvdyn_ase.models.orb:pretrained",
    "sevennet": "nvdyn_ase.models.sevennet:pretrained",
    "stillinger-weber": "nvdyn_ase.models.stillinger_weber:StillingerWeber",
    "sw": "nvdyn_ase.models.stillinger_weber:StillingerWeber",
    "table": "nvdyn_ase.models.pair_table:PairTable",
    "tersoff": "nvdyn_ase.models.tersoff:Tersoff",
}

_CLASSES = {
    "ase.calculators.eam.EAM": _Entry(f"{_ADAPTERS}:eam", exact=True),
    "ase.calculators.emt.EMT": _Entry(f"{_ADAPTERS}:emt", exact=True),
    "ase.calculators.lj.LennardJones": _Entry(f"{_ADAPTERS}:lennard_jones", exact=True),
    "ase.calculators.morse.MorsePotential": _Entry(f"{_ADAPTERS}:morse", exact=True),
    "ase.calculators.tersoff.Tersoff": _Entry(f"{_ADAPTERS}:tersoff", exact=True),
    **{
        f"ase.calculators.mixing.{kind}Calculator": _Entry(
            f"{_ADAPTERS}:linear_combination", exact=True
        )
        for kind in ("LinearCombination", "Mixed", "Sum", "Average")
    },
    "aimnet.calculators.aimnet2ase.AIMNet2ASE": _Entry(
        "nvdyn_ase.models.aimnet2:from_calculator", exact=True
    ),
    "aimnet.calculators.calculator.AIMNet2Calculator": _Entry(
        "nvdyn_ase.models.aimnet2:AIMNet2Model", exact=True
    ),
    "chgnet.model.dynamics.CHGNetCalculator": _Entry(
        "nvdyn_ase.models.chgnet:from_calculator", exact=True
    ),
    "chgnet.model.model.CHGNet": _Entry("nvdyn_ase.models.chgnet:CHGNetModel", exact=True),
    "mace.calculators.mace.MACECalculator": _Entry(
        "nvdyn_ase.models.mace:from_calculator", exact=True
    ),
    **{
        f"mace.modules.models.{kind}": _Entry("nvdyn_ase.models.mace:MACEModel", exact=True)
        for kind in ("MACE", "ScaleShiftMACE")
    },
    "torch_dftd.torch_dftd3_calculator.TorchDFTD3Calculator": _Entry(
        "nvdyn_ase.models.d3:from_calculator", exact=True
    ),
    "sevenn.calculator.SevenNetCalculator": _Entry(
        "nvdyn_ase.models.sevennet:from_calculator", exact=True
    ),
    "sevenn.nn.sequential.AtomGraphSequential": _Entry(
        "nvdyn_ase.models.sevennet:SevenNetModel", exact=True
    ),
    "metatomic_ase._calculator.MetatomicCalculator": _Entry(
        "nvdyn_ase.models.metatomic:from_calculator", exact=True
    ),
    "metatomic.torch.model.AtomisticModel": _Entry("nvdyn_ase.models.metatomic:MetatomicModel"),
    "nequip.integrations.ase.NequIPCalculator": _Entry(
        "nvdyn_ase.models.nequip:from_calculator", exact=True
    ),
    "nequip.nn.graph_model.GraphModel": _Entry("nvdyn_ase.models.nequip:NequIPModel", exact=True),
    "fairchem.core.calculate.ase_calculator.FAIRChemCalculator": _Entry(
        "nvdyn_ase.models.fairchem:from_calculator", exact=True
    ),
    "fairchem.core.units.mlip_unit.predict.MLIPPredictUnit": _Entry(
        "nvdyn_ase.models.fairchem:FairchemModel", exact=True
    ),
    "mattersim.forcefield.potential.MatterSimCalculator": _Entry(
        "nvdyn_ase.models.mattersim:from_calculator", exact=True
    ),
    **{
        f"mattersim.forcefield.{kind}": _Entry(
            "nvdyn_ase.models.mattersim:MatterSimModel", exact=True
        )
        for kind in ("m3gnet.m3gnet.M3Gnet", "potential.Potential")
    },
    **{
        f"orb_models.forcefield.{place}calculator.ORBCalculator": _Entry(
            "nvdyn_ase.models.orb:from_calculator", exact=True
        )
        for place in ("", "inference.")  # the latter from version 0.6 on
    },
    **{
        f"orb_models.forcefield.{place}{kind.lower()}_regressor.{kind}ForcefieldRegressor": _Entry(
            "nvdyn_ase.models.orb:OrbModel", exact=True
        )
        for place in ("", "models.")
        for kind in ("Conservative", "Direct")
    },
    "torch_sim.models.interface.ModelInterface": _Entry("nvdyn_ase.models.torchsim:TorchSimModel"),
    "nvalchemi.models.base.BaseModelMixin": _Entry("nvdyn_ase.models.nvalchemi:NvalchemiModel"),
    "nvdyn_ase.atoms.proxy.CalculatorProxy": _Entry(f"{_ADAPTERS}:behind_proxy"),
    "nvdyn_ase.calculators.nvdyn_calculator.NvdynCalculator": _Entry(
        f"{_ADAPTERS}:inside", exact=True
    ),
}

# What register_model was told in this process; nothing else writes to it.
_registered: dict[str, Factory] = {}


def register_model(name: str, factory: Factory) -> None:
    """Tell :func:`as_model` what to do with objects of a class, or with a name.

    It holds for this process, from now on, and for every user of it; a package that wants to be
    known everywhere declares an entry point instead.

    Parameters
    ----------
    name
        ``"package.module.Class"``, where the class is defined, for its objects and those of
        subclasses. A name without dots is one for users to give.
    factory
        Called with the object, if the name is a class, and the options of ``as_model``. Returns a
        batched model, or None to leave the object to others.

    Raises
    ------
    ValueError
        The name is registered with another factory.
    """
    if _registered.setdefault(name, factory) is not factory:
        raise ValueError(f"{name!r} is registered already, with {_registered[name]!r}")


def as_model(obj: Any, **options: Any) -> BaseModelMixin:
    """Return the batched model that an object stands for.

    Parameters
    ----------
    obj
        A batched model, which is returned as it is. A name: ``"emt"``, ``"lj"``, ``"morse"``,
        ``"harmonic"``, ``"sw"``, ``"eam"``, ``"tersoff"`` and ``"table"`` (with ``potential=``),
        ``"d3"``, ``"coulomb"``, ``"chgnet"``, ``"sevennet"``, ``"orb"``, ``"mattersim"``,
        ``"fairchem"``, ``"aimnet2"``, ``"mace"`` and ``"metatomic"`` (with ``path=``) or one that
        another package brings. An ASE calculator: ``EMT``, ``EAM``, ``LennardJones``,
        ``MorsePotential``, ``Tersoff``, ``CHGNetCalculator``, ``MACECalculator``,
        ``SevenNetCalculator``, ``NequIPCalculator``, ``ORBCalculator``, ``MatterSimCalculator``,
        ``FAIRChemCalculator``, ``AIMNet2ASE``, ``MetatomicCalculator``, ``TorchDFTD3Calculator``
        and sums of calculators have batched equals, other packages may bring more, and any other
        one is called system by system, which is said once in the log. A calculator counts as one of
        these only if it is of that very class. The network of a calculator will do too, and so does
        a model of torch-sim or of nvalchemi-toolkit.
    **options
        Arguments of the model that is made, such as ``skin``.

    Raises
    ------
    TypeError
        The object is none of these; options for a model that is made already.
    ValueError
        An unknown name; the message lists the known ones.
    ImportError
        The package that it takes is not installed; the message says which extra brings it.
    """
    if isinstance(obj, BaseModelMixin):
        if options:
            raise TypeError(
                f"{', '.join(options)}: {type(obj).__name__} is a model already; give it its "
                "options where it is made"
            )
        return obj
    if isinstance(obj, str):
        return _by_name(obj)(**options)
    model = batched_equal(obj, **options)
    if model is not None:
        return model
    if not _is_calculator(obj):
        raise TypeError(_advice(obj))
    _say_once(_class_names(type(obj))[0])
    return _load("nvdyn_ase.calculators:CalculatorModel")(obj, **options)


def batched_equal(obj: Any, **options: Any) -> BaseModelMixin | None:
    """Return the batched model that an object stands for, or None if it has no batched equal.

    See :func:`as_model`.
    """
    if isinstance(obj, BaseModelMixin):
        return obj
    for factory in _factories(obj):
        model = factory(obj, **options)
        if model is None:
            continue
        if not isinstance(model, BaseModelMixin):
            raise TypeError(
                f"{factory!r} made a {type(model).__name__} of a {type(obj).__name__}; it must "
                "make a batched model, derived from BaseModelMixin, or return None"
            )
        return model
    return None


# -------------------------------------------------------------------- looking up


def _by_name(name: str) -> Factory:
    key = name.lower().replace("_", "-")
    brought = {n: target for n, target in _brought().items() if "." not in n}
    named = {n: factory for n, factory in _registered.items() if "." not in n}
    for table in (named, _NAMES):
        for known in (name, key):
            if known in table:
                return _load(table[known])
    for known in (name, key):
        if known in brought:
            return _load_brought(known)
    names = sorted({*named, *_NAMES, *brought})
    raise ValueError(f"there is no model called {name!r}; there are {', '.join(names)}")


def _factories(obj: Any) -> Iterator[Factory]:
    """Iterate over what may make a model of an object, the nearest class first."""
    for distance, name in enumerate(_class_names(type(obj))):
        if name in _registered:
            yield _registered[name]
        entry = _CLASSES.get(name)
        if entry is not None and not (entry.exact and (distance or is_customised(obj))):
            yield _load(entry.factory)
        if name in _brought():
            yield _load_brought(name)


def _class_names(kind: type) -> list[str]:
    return [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]


def is_customised(obj: Any) -> bool:
    """Say whether a method was replaced on this very object, other than by leaving results."""
    for name, value in getattr(obj, "__dict__", {}).items():
        # What leaves results in a calculator stands in for a method, and says what it replaced.
        value = getattr(value, "replaced", value)
        if value is not None and isinstance(getattr(type(obj), name, None), FunctionType):
            return True
    return False


@cache
def _brought() -> dict[str, str]:
    """Return what the entry points of installed packages bring."""
    return {point.name: point.value for point in entry_points(group="nvdyn_ase.models")}


def _load_brought(name: str) -> Factory:
    target = _brought()[name]
    try:
        return _load(target)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"another package declares {name} = {target} in the entry point group "
            f"nvdyn_ase.models, and that cannot be imported: {error}"
        ) from error


def _load(target: str | Factory) -> Factory:
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


# -------------------------------------------------------------------- everything else


def _is_calculator(obj: Any) -> bool:
    if isinstance(obj, type) or "ase.atoms.Atoms" in _class_names(type(obj)):
        return False
    methods = (getattr(obj, name, None) for name in ("get_potential_energy", "get_forces"))
    return all(map(callable, methods))


def _advice(obj: Any) -> str:
    """Say what to do instead."""
    name = type(obj).__name__
    if isinstance(obj, type):
        return f"{obj.__name__} is a class; make a model or calculator of it: {obj.__name__}(...)"
    if "ase.atoms.Atoms" in _class_names(type(obj)):
        return "an Atoms is not a model; give its calculator, atoms.calc"
    if isinstance(obj, nn.Module):
        return (
            f"{name} is a plain torch module, which does not say what it needs and gives; wrap it "
            "in a class derived from BaseModelMixin, with a model_card and a forward that takes a "
            "Batch and returns ModelOutputs, or give the ASE calculator that belongs to it"
        )
    return (
        f"{name} is neither a batched model nor an ASE calculator; give one of these or a name "
        "such as 'emt', or tell register_model how to make a model of it"
    )


@cache
def _say_once(name: str) -> None:
    logger.info("{} has no batched equal; it is called system by system.", name)
