"""What holds for the repository as a whole: imports, names, and the public interface."""

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import nvdyn_ase

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "nvdyn_ase").rglob("*.py"))
PACKAGES = [
    *("data", "neighbors", "models", "dynamics", "dynamics.hooks", "dynamics.integrators"),
    *("dynamics.constraints", "dynamics.sinks"),
    *("dynamics.optimizers", "atoms", "calculators", "optimize", "mep", "md", "workflows"),
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ["data", "neighbors", "models", "dynamics"])
def test_the_engine_knows_ases_units_and_tables_only(package):
    doors = {"data/atomic_data.py": {"ase"}}  # a type: its from_atoms opens nvdyn_ase.atoms
    for path in (ROOT / "nvdyn_ase" / package).rglob("*.py"):
        allowed = doors.get(str(path.relative_to(ROOT / "nvdyn_ase")), set())
        for name in imported(path):
            if name.split(".")[0] == "ase" and name not in allowed:
                assert name.startswith(("ase.units", "ase.data")), f"{path.name} imports {name}"


def test_no_module_is_a_drawer_for_odds_and_ends():
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc", "tools", "manager"}


def documented():
    """Return the names that docs/api.md lists, with what it says of them, by module."""
    found, module = {}, None
    for line in (ROOT / "docs" / "api.md").read_text().splitlines():
        if heading := re.match(r"## `(nvdyn_ase[\w.]*)`", line):
            module = heading[1]
            found[module] = {}
        elif module and (item := re.match(r"- `(\w+)`: (.*)", line)):
            found[module][item[1]] = item[2]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_the_documented_interface_is_the_public_one(package):
    module = importlib.import_module(f"nvdyn_ase.{package}")
    assert sorted(module.__all__) == sorted(documented()[module.__name__])
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_documented_in_the_same_words(package):
    module = importlib.import_module(f"nvdyn_ase.{package}")
    for name, words in documented()[module.__name__].items():
        item = getattr(module, name)
        described = inspect.isclass(item) or inspect.isfunction(item)
        if described and not words.startswith(("another name of", "ASE's own")):
            assert inspect.getdoc(item).splitlines()[0] == words, f"{package}.{name}"


def public_of_a_file(module):
    """Return the public classes and functions of a module, with what they say of themselves."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return {
        node.name: ast.get_docstring(node).splitlines()[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
    }


def adapters():
    """Return the modules of models that have the name of an extra."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = told["project"]["optional-dependencies"]
    folder = ROOT / "nvdyn_ase" / "models"
    return [f"nvdyn_ase.models.{name}" for name in extras if (folder / f"{name}.py").exists()]


@pytest.mark.parametrize(
    "module", [*adapters(), "nvdyn_ase.models.coulomb", "nvdyn_ase.optimize.pipeline"]
)
def test_what_may_not_be_imported_is_documented_in_the_same_words(module):
    assert public_of_a_file(module) == documented()[module]


def test_the_version_is_in_the_changelog():
    assert f"## {nvdyn_ase.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_has_two_commands():
    text = (ROOT / "README.md").read_text()
    for marker in ("main", "test"):
        block = re.search(rf"<!-- {marker} command -->\n```sh\n(.*)\n```\n", text)
        assert block, marker
        assert len(block[1].splitlines()) == 1
