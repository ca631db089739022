"""The record of a run of this suite, as rows of a table."""

import os


def record(case, what, samples, statistic, passed):
    """Write a row of a table to the file that NVDYN_ASE_RECORD names, if any."""
    path = os.environ.get("NVDYN_ASE_RECORD")
    if path:
        verdict = "passed" if passed else "failed"
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"| {case} | {what} | {samples} | {statistic} | {verdict} |\n")
