"""Logs of molecular dynamics: ASE's of one Atoms, and of a list one for each or one for all."""

import io

import ase.md
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from nvdyn_ase.md import (
    IsotropicMTKNPT,
    Langevin,
    MDLogger,
    NoseHooverChainNVT,
    VelocityVerlet,
)
from tests.facades.test_lists import Silent
from tests.systems import with_velocities

DT = [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs]


def metals(constrained=False):
    structures = [bulk(metal, cubic=True) * (1, 1, 2) for metal in ("Cu", "Au", "Pd")]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
        if constrained:
            atoms.set_constraint(FixAtoms(range(seed + 1)))
        atoms.calc = EMT()
        with_velocities(atoms, seed)
    return structures


def rows(text):
    return np.array([[float(word) for word in line.split()] for line in text.splitlines()[1:]])


def ases_tables(constrained, **options):
    """Return what ASE writes of each system, moved by itself."""
    for atoms, dt in zip(metals(constrained), DT, strict=True):
        file = io.StringIO()
        dynamics = ase.md.VelocityVerlet(atoms, dt)
        dynamics.attach(ase.md.MDLogger(dynamics, atoms, file, **options), interval=3)
        dynamics.run(9)
        yield file.getvalue()


def test_it_is_ases_class_by_name_and_kind():
    assert issubclass(MDLogger, ase.md.MDLogger)
    assert MDLogger.__name__ == "MDLogger"


@pytest.mark.parametrize("form", ["files", "names", "pattern"])
@pytest.mark.parametrize("options", [{}, {"stress": True}, {"peratom": True, "header": False}])
@pytest.mark.parametrize("constrained", [False, True])
def test_a_file_for_each_has_ases_table_of_it(form, options, constrained, tmp_path):
    structures = metals(constrained)
    paths = [tmp_path / f"md-{i}.log" for i in range(3)]
    files = [io.StringIO() for _ in structures]
    targets = {"files": files, "names": paths, "pattern": str(tmp_path / "md-{index}.log")}
    dynamics = VelocityVerlet(structures, DT)
    dynamics.attach(MDLogger(dynamics, structures, targets[form], **options), interval=3)
    dynamics.run(9)
    if form == "files":
        texts = [file.getvalue() for file in files]
    else:
        texts = [path.read_text() for path in paths]
    assert texts == list(ases_tables(constrained, **options))


@pytest.mark.parametrize("pattern", [False, True])
def test_logfile_of_an_integrator_gives_ases_default_table_of_each(pattern, tmp_path):
    files = [io.StringIO() for _ in DT]
    log = str(tmp_path / "{index}.log") if pattern else files
    VelocityVerlet(metals(), DT, logfile=log, loginterval=3).run(9)
    for row, (atoms, dt) in enumerate(zip(metals(), DT, strict=True)):
        file = io.StringIO()
        ase.md.VelocityVerlet(atoms, dt, logfile=file, loginterval=3).run(9)
        ours = (tmp_path / f"{row}.log").read_text() if pattern else files[row].getvalue()
        assert ours == file.getvalue()


def test_one_atoms_has_ases_log():
    files = io.StringIO(), io.StringIO()
    for logger, file in zip((MDLogger, ase.md.MDLogger), files, strict=True):
        atoms = metals()[0]
        dynamics = VelocityVerlet(atoms, DT[0])
        dynamics.attach(logger(dynamics, atoms, file, stress=True, mode="w"), interval=2)
        dynamics.run(6)
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
def test_the_table_of_a_batch_sums_over_its_systems(per_atom, constrained):
    options = {"peratom": per_atom, "stress": True}
    structures, file = metals(constrained), io.StringIO()
    dynamics = VelocityVerlet(structures, DT)
    dynamics.attach(MDLogger(dynamics, structures, file, **options), interval=3)
    dynamics.run(9)
    table = rows(file.getvalue())
    each = [rows(text) for text in ases_tables(constrained, **options)]
    np.testing.assert_array_equal(table[:, 0], each[0][:, 0])
    np.testing.assert_array_equal(table[:, 1], 3)
    combined = np.mean if per_atom else np.sum  # systems have as many atoms as each other
    np.testing.assert_allclose(table[:, 2:5], combined(each, axis=0)[:, 1:4], atol=2e-4)
    np.testing.assert_allclose(table[:, 7:], np.mean(each, axis=0)[:, 5:], atol=2e-3)
    kinetic = sum(atoms.get_kinetic_energy() for atoms in structures)
    dof = sum(atoms.get_number_of_degrees_of_freedom() for atoms in structures)
    assert table[-1, 5] == pytest.approx(2 * kinetic / dof / units.kB, abs=0.01)


@pytest.mark.parametrize(
    ("method", "arguments", "conserves"),
    [
        (VelocityVerlet, (units.fs,), True),
        (NoseHooverChainNVT, (units.fs, 300.0, 50 * units.fs), True),
        (IsotropicMTKNPT, (units.fs, 300.0, 0.0, 50 * units.fs, 500 * units.fs), True),
        (Langevin, (units.fs,), False),
    ],
)
def test_a_log_has_the_conserved_energy_of_integrators_that_have_one(method, arguments, conserves):
    options = {"temperature_K": 300.0, "friction": 0.01} if method is Langevin else {}
    file, structures = io.StringIO(), metals()
    dynamics = method(structures, *arguments, logfile=file, loginterval=5, **options)
    dynamics.run(40)
    titles, table = file.getvalue().splitlines()[0].split(), rows(file.getvalue())
    assert ("Econs/N[eV]" in titles) == conserves
    if conserves:
        column = titles.index("Econs/N[eV]")
        assert np.ptp(table[:, column]) < 2e-4
        assert np.ptp(table[:, titles.index("Ekin/N[eV]")]) > 2e-3
        engine = dynamics.engine
        expected = engine.conserved_energy(dynamics._driver.together()).sum().item() / 24
        assert table[-1, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("target", ["all", "each"])
def test_a_system_that_fails_ends_its_own_log_and_leaves_that_of_the_others(target):
    structures = metals()
    structures[1].calc = Silent(fail_at=5)
    files = [io.StringIO() for _ in structures]
    log = files[0] if target == "all" else files
    VelocityVerlet(structures, units.fs, logfile=log).run(8)
    if target == "all":
        moving, total = rows(files[0].getvalue())[:, [1, 2]].T
        assert set(moving) == {2, 3} and moving[-1] == 2
        assert np.ptp(total[moving == 2]) < 1e-3
    else:
        assert [len(rows(file.getvalue())) for file in files] == [9, 4, 9]


def test_a_log_without_time_and_of_somebody_elses_systems():
    structures, file = metals(), io.StringIO()
    MDLogger(None, structures, file)()
    assert "Time" not in file.getvalue() and len(file.getvalue().splitlines()) == 2
    dynamics, some = VelocityVerlet(metals(), units.fs), io.StringIO()
    MDLogger(dynamics, structures, some)()
    assert "Econs" not in some.getvalue() and "Time" in some.getvalue()


def test_modes_and_wrong_numbers_of_files(tmp_path):
    structures = metals()
    for mode, lines in (("a", 2), ("a", 4), ("w", 2)):
        MDLogger(None, structures, str(tmp_path / "{index}.log"), mode=mode)()
        assert len((tmp_path / "2.log").read_text().splitlines()) == lines
    with pytest.raises(ValueError, match="2 logs for 3 structures"):
        MDLogger(None, structures, [tmp_path / "a", tmp_path / "b"])


def test_one_of_a_list_has_ases_table_with_its_own_time():
    structures, file = metals(), io.StringIO()
    dynamics = VelocityVerlet(structures, DT)
    dynamics.attach(MDLogger(dynamics, structures[1], file), interval=3)
    dynamics.run(9)
    assert file.getvalue() == list(ases_tables(constrained=False))[1]
    with pytest.raises(ValueError, match="none of them"):
        MDLogger(dynamics, metals()[0], io.StringIO())


@pytest.mark.parametrize("per_atom", [False, True])
def test_a_table_of_each_has_the_conserved_energy_if_asked(per_atom):
    structures, files = metals(), [io.StringIO() for _ in DT]
    dynamics = VelocityVerlet(structures, DT)
    log = MDLogger(dynamics, structures, files, peratom=per_atom, stress=True, conserved=True)
    some = io.StringIO()
    dynamics.attach(MDLogger(dynamics, structures[2], some, conserved=True), interval=3)
    dynamics.attach(log, interval=3)
    alone = io.StringIO()
    single = VelocityVerlet(metals()[1], DT[1], engine=True)
    single.attach(MDLogger(single, single.atoms, alone, peratom=per_atom, conserved=True), 3)
    for moved in (dynamics, single):
        moved.run(9)
    for file, theirs in zip(files, ases_tables(False, peratom=per_atom, stress=True), strict=True):
        lines, others = file.getvalue().splitlines(), theirs.splitlines()
        assert [line[: len(other)] for line, other in zip(lines, others, strict=True)] == others
        assert lines[0].split()[-1] == ("Econs/N[eV]" if per_atom else "Econs[eV]")
        # In NVE what is conserved is the total energy.
        table = rows(file.getvalue().replace(lines[0], ""))
        np.testing.assert_allclose(table[:, -1], table[:, 1], atol=1e-4)
    assert np.array_equal(rows(alone.getvalue())[:, [0, -1]], rows(files[1].getvalue())[:, [0, -1]])
    assert len(rows(some.getvalue())[0]) == 6


def test_what_is_not_conserved_is_not_logged():
    dynamics = Langevin(metals(), units.fs, temperature_K=300.0, friction=0.01)
    for moved in (dynamics, VelocityVerlet(metals()[0], units.fs)):
        with pytest.raises(ValueError, match="conserved"):
            MDLogger(moved, moved.atoms, io.StringIO(), conserved=True)
    file, dynamics = io.StringIO(), VelocityVerlet(metals(), units.fs)
    MDLogger(dynamics, dynamics.atoms, file, conserved=False)()
    assert "Econs" not in file.getvalue()
