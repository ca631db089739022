"""The driver's side of the benchmark: worker processes and what they answer."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class NotInstalledError(Exception):
    """The interpreter or the package of an engine is not there."""


class WorkerError(Exception):
    """An engine failed at what it was told to do."""


class Worker:
    """One engine in a process of its own, on the CPU, with one thread.

    Parameters
    ----------
    label
        Its name in the tables.
    interpreter
        Python of the environment that has the engine.
    script
        File of this folder that serves the engine.
    arguments
        For the script.

    Attributes
    ----------
    version
        Version of the engine's package.
    shifted
        Whether its energies are zero at the cutoff.

    Raises
    ------
    NotInstalledError
        No such interpreter, or the engine cannot be imported there.
    """

    def __init__(
        self, label: str, interpreter: str, script: str, arguments: Sequence[str] = ()
    ) -> None:
        self.label = label
        environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": ""}
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            try:
                self._process = subprocess.Popen(
                    [interpreter, str(FOLDER / script), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=environment,
                    text=True,
                )
            except OSError as error:
                raise NotInstalledError(f"{interpreter}: {error.strerror}") from None
            stack.callback(self._end)
            try:
                hello = self._answer()
            except WorkerError as error:
                raise NotInstalledError(str(error)) from None
            self.version: str = hello["version"]
            self.shifted: bool = hello["shifted"]
            self._open = stack.pop_all()

    def ask(self, todo: str, **order: Any) -> dict[str, Any]:
        """Give an order, wait, and return the answer.

        Raises
        ------
        WorkerError
            It could not be done; the message says why.
        """
        try:
            self._process.stdin.write(json.dumps({"do": todo, **order}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with status {self._process.returncode}"

    def _end(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def stop(self) -> None:
        """End the process."""
        self._open.close()
