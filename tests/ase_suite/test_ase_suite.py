"""ASE's own tests of optimizers, MD, filters and constraints, with these facades in place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Tests of ASE that fail by design, with the reason, for each mode.
EXCEPTIONS: dict[str, dict[str, str]] = {"as it comes": {}, "always": {}}

#: How many tests pass at least; of 39 of filters many are skipped without asap3.
PACKAGES = {
    "ase.test.optimize": 40,
    "ase.test.md": 40,
    "ase.test.constraints": 40,
    "ase.test.filter": 15,
    "ase.test.test_dimer_method": 0,
}
#: Those in which ASE's own code runs in either mode.
WITHOUT_ENGINE = {"ase.test.test_dimer_method"}
# As they come ASE's own code runs behind the facades; through the engine they run every time.
CASES = [
    pytest.param(package, mode, marks=pytest.mark.slow if mode == "as it comes" else ())
    for package in PACKAGES
    for mode in EXCEPTIONS
]


@pytest.mark.parametrize(("package", "mode"), CASES)
def test_ase_itself_is_content(package, mode, tmp_path):
    own = ("PYTEST_", "NVDYN_ASE_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if mode == "always":
        environment["NVDYN_ASE_ENGINE"] = "always"
    command = [sys.executable, "-m", "pytest", "--pyargs", package, "-q", "-rfE", "--tb=short"]
    command += ["-p", "tests.ase_suite.swap", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    report = done.stdout + done.stderr
    engines = re.search(r"nvdyn_ase stands in for .*; engines made: (\d+)", report)
    moved = mode == "always" and package not in WITHOUT_ENGINE
    assert engines and (int(engines[1]) > 0) == moved, report
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed[1]) > PACKAGES[package], report
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*?([\w.]+::\S+)", report, re.MULTILINE))
    assert failed == set(EXCEPTIONS[mode]), report
    assert done.returncode == bool(failed), report
