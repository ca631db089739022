"""ASE's own tests of ``ase.optimize`` and ``ase.md``, with these facades in place of ASE's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Tests of ASE that fail by design, with the reason, for each mode.
EXCEPTIONS: dict[str, dict[str, str]] = {"as it comes": {}, "always": {}}


@pytest.mark.parametrize("mode", ["as it comes", "always"])
@pytest.mark.parametrize("package", ["ase.test.optimize", "ase.test.md"])
def test_ase_itself_is_content(package, mode, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("NVDYN_ASE_ENGINE", None)
    if mode == "always":
        environment["NVDYN_ASE_ENGINE"] = "always"
    command = [sys.executable, "-m", "pytest", "--pyargs", package, "-rf", "--tb=short"]
    command += ["-p", "tests.ase_suite.swap", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    report = done.stdout + done.stderr
    assert "nvdyn_ase stands in for" in report, report
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed[1]) > 40, report
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*?([\w.]+::\S+)", report, re.MULTILINE))
    assert failed == set(EXCEPTIONS[mode]), report
