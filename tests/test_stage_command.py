"""``nvdyn-ase run``: relax, then heat, then relax, from a file of stages."""

import re
from pathlib import Path

import ase.db
import ase.io
import pytest

from nvdyn_ase.cli import main
from nvdyn_ase.reading import structures
from tests.systems import mixed

ROOT = Path(__file__).parents[1]
#: The file of stages that the page about screening shows.
STAGES = re.search(r"^```toml\n(.*?)^```", (ROOT / "docs/screening.md").read_text(), re.M | re.S)[1]
#: And what has to be the same, command by command.
COMMANDS = [
    "relax --fmax 0.3",
    "md --steps 20 --timestep 2 --temperature 600 --seed 1 --option friction=0.002",
    "relax --optimizer LBFGS --fmax 0.02",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("anneal.toml").write_text(STAGES)
    ase.io.write("in.traj", mixed(5))


def run(line):
    return main(f"{line} --model emt --quiet".split())


def test_each_structure_ends_as_by_one_command_after_the_other():
    assert run("run anneal.toml in.traj -o out.traj --batch-size 2") == 0
    for place, command in enumerate(COMMANDS):
        name = "in.traj" if place == 0 else f"{place}.traj"
        assert run(f"{command} {name} -o {place + 1}.traj --ordered") == 0
    steps = [dict(structures([f"{place}.traj"])) for place in (1, 2, 3)]
    found = dict(structures(["out.traj"]))
    assert len(found) == 5
    for atoms in found.values():
        index = int(atoms.info["input_index"])
        last = steps[-1][index]
        assert atoms.positions.tobytes() == last.positions.tobytes()
        assert atoms.get_momenta().tobytes() == last.get_momenta().tobytes()
        assert atoms.get_potential_energy() == last.get_potential_energy()
        in_stages = [atoms.info[f"run_steps_{place}"] for place in (1, 2, 3)]
        methods = ("relax", "md", "relax")
        assert in_stages == [
            own[index].info[f"{method}_steps"] for own, method in zip(steps, methods, strict=True)
        ]
        assert atoms.info["run_steps"] == sum(in_stages)
        assert atoms.info["run_outcome"] == "converged"


def test_the_stages_are_in_the_provenance_and_have_to_be_the_same(capsys):
    assert run("run anneal.toml in.traj -o out.db") == 0
    told = ase.db.connect("out.db").metadata["parameters"]["stages"]
    assert [own["method"] for own in told.values()] == ["relax", "md", "relax"]
    assert (told["1"]["fmax"], told["2"]["temperature"], told["2"]["seed"]) == (0.3, 600.0, 1)
    assert run("run anneal.toml in.traj -o out.db --resume") == 0
    Path("anneal.toml").write_text(STAGES.replace("fmax = 0.3", "fmax = 0.2"))
    capsys.readouterr()
    assert run("run anneal.toml in.traj -o out.db --resume") == 2
    assert "fmax of stage 1 was 0.3, and is 0.2" in capsys.readouterr().err


def test_stages_have_random_numbers_of_their_own():
    heat = '[[stage]]\nmethod = "md"\nsteps = 1\ntemperature = 9\n'
    Path("heat.toml").write_text(f"{heat}{heat}{heat}seed = 7")
    assert run("run heat.toml in.traj -o out.db") == 0
    told = ase.db.connect("out.db").metadata["parameters"]["stages"]
    assert [own["options"]["seed"] for own in told.values()] == [0, 1, 7]


def test_a_dry_run_counts_the_steps_of_all_stages(capsys):
    assert main(["run", "anneal.toml", "in.traj", "--dry-run", "--model", "emt"]) == 0
    assert "if each does 1020 steps" in capsys.readouterr().out


def test_cells_are_relaxed_in_all_stages():
    periodic = [atoms for atoms in mixed(14) if atoms.pbc.all()]
    ase.io.write("in.traj", periodic)
    cells = STAGES.replace("fmax", 'cell-filter = "FrechetCellFilter"\nfmax')
    Path("anneal.toml").write_text(cells)
    assert run("run anneal.toml in.traj -o out.traj") == 0
    Path("anneal.toml").write_text(cells + '[[stage]]\nmethod = "md"\nsteps = 9\ntemperature = 9')
    assert run("run anneal.toml in.traj -o moved.traj") == 0
    moved = dict(structures(["moved.traj"]))
    for atoms in dict(structures(["out.traj"])).values():
        assert atoms.info["run_fmax"] < 0.02
        assert abs(atoms.get_stress()).max() * atoms.get_volume() / len(atoms) < 0.021
        index = atoms.info["input_index"]
        assert abs(atoms.cell.array - periodic[index].cell.array).max() > 0.01
        later = next(own for own in moved.values() if own.info["input_index"] == index)
        assert (later.cell.array == atoms.cell.array).all()
        assert (later.positions != atoms.positions).any()


RELAX, MD = '[[stage]]\nmethod = "relax"\n', '[[stage]]\nmethod = "md"\nsteps = 3\n'
WRONG = {
    "": "needs tables [[stage]]",
    "stage = 3": "needs tables [[stage]]",
    "stage = [3]": "stage 1 is no table",
    "[[stage]]\nmethod": "is not TOML",
    f"steps = 3\n{RELAX}": "needs tables [[stage]], and not 'steps'",
    "[[stage]]\nsteps = 3": "stage 1: method is None, and has to be 'relax' or 'md'",
    f'{RELAX}[[stage]]\nmethod = "heat"': "stage 2: method is 'heat'",
    f"{MD}fmax = 0.1": "stage 1 (md): there is no 'fmax'; there are steps, integrator",
    f"{MD}{RELAX}temperature = 3": "stage 2 (relax): there is no 'temperature'",
    f'{RELAX}[[stage]]\nmethod = "md"': "stage 2 (md): the following arguments are required: steps",
    f'{RELAX}fmax = "low"': "stage 1 (relax): fmax: invalid float value: 'low'",
    f"{RELAX}fmax = [0.1]": "stage 1 (relax): fmax is [0.1]",
    f"{RELAX}fmax = -0.1": "stage 1 (relax): fmax must be a positive number",
    f"{RELAX}steps = -1": "stage 1 (relax): steps must be a whole number, 0 or more",
    f"{RELAX}steps = 2.5": "stage 1 (relax): steps: invalid int value: '2.5'",
    f"{RELAX}option = 0.1": "stage 1 (relax): option is 0.1, and has to be a table",
    f'{RELAX}optimizer = "FIER"': "stage 1 (relax): there is no optimizer 'FIER'",
    f"{MD}temperature = -3": "stage 1 (md): temperature must be a number, 0 or more",
    f'{MD}integrator = "Verlet"': "stage 1 (md): there is no integrator 'Verlet'",
    f'{RELAX}{MD}{RELAX}cell-filter = "FrechetCellFilter"': "stage 3 (relax): cell-filter and",
    f"{RELAX}{MD}temperature = 3\noption = {{fricton = 0.1}}": "stage 2 (md): Langevin",
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_name_the_stage_and_the_key(text, capsys):
    Path("anneal.toml").write_text(text)
    assert run("run anneal.toml in.traj -o out.db") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("nvdyn-ase: error: anneal.toml")
    assert WRONG[text] in said


def test_a_file_that_is_not_there_is_named(capsys):
    assert run("run none.toml in.traj -o out.db") == 2
    assert "cannot read none.toml: No such file" in capsys.readouterr().err
