"""What an output says of the run that it is of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvdyn_ase.files import DatabaseFile, StructureFile
from nvdyn_ase.output.errors import OutputError, one_line
from nvdyn_ase.provenance import differences
from nvdyn_ase.replacing import replacing

#: Where it tells with which other parameters failures were tried again.
RETRIED = "retried_with"
#: And which records of the input could not be read, by their position.
UNREADABLE = "unreadable"


class Account:
    """The provenance of a file: in the metadata of a database, and beside any other.

    Parameters
    ----------
    file
        What it is of.
    beside
        Where it is if the file has no place for it.
    name
        What errors call the file.
    """

    def __init__(self, file: StructureFile, beside: Path, name: Path) -> None:
        self._file, self._beside, self._name = file, beside, name

    def __bool__(self) -> bool:
        """Whether a run has come as far as to say what it is."""
        if isinstance(self._file, DatabaseFile):
            return bool(self._file.told())
        return self._beside.exists()

    def tell(self, provenance: Mapping[str, Any]) -> None:
        """Write it down; OutputError if that cannot be done."""
        try:
            if isinstance(self._file, DatabaseFile):
                self._file.tell(provenance)
                self._file.close()  # the thread that writes opens it again
            else:
                with replacing(self._beside) as file:
                    file.write(json.dumps(dict(provenance), indent=1).encode())
        except OSError as error:
            raise OutputError(f"cannot write {self._name}: {one_line(error)}") from error

    def read(self) -> dict[str, Any]:
        """Return it; OutputError if it is gone."""
        if isinstance(self._file, DatabaseFile):
            return self._file.told()
        try:
            found: dict[str, Any] = json.loads(self._beside.read_text())
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self._beside} is gone or damaged, so that one cannot say what {self._name} "
                "is of; start afresh with --overwrite"
            ) from error
        return found

    def compare(self, provenance: Mapping[str, Any], retry: bool = False) -> dict[str, Any]:
        """Return it; OutputError if it is not of this run, or of one that has tried it again.

        Parameters
        ----------
        provenance
            Of this run.
        retry
            Parameters may be others; if they are, they are told beside the first.
        """
        told = self.read()
        runs = [told, *told.get(RETRIED, [])]
        changed = differences(runs[-1], provenance, not retry)
        if changed:
            raise OutputError(
                f"{self._name} is of another run: {'; '.join(changed)}; run with what it was "
                "run with, or start afresh with --overwrite"
            )
        if retry and differences(runs[-1], provenance):
            self.tell({**told, RETRIED: [*runs[1:], dict(provenance)]})
        return told
