"""Words and numbers of files with parameters, and errors that say where what is missing."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

FilePath = str | PathLike[str]


class PotentialFileError(ValueError):
    """A file is not what it should be; the message says what was expected."""


class Words:
    """The words of a file, taken one after the other.

    Parameters
    ----------
    name
        Of the file, for messages.
    lines
        Its lines.
    format
        What it should be, for messages.
    """

    def __init__(self, name: FilePath, lines: Iterable[str], format: str) -> None:
        self.name, self.format = str(name), format
        self._words = [word for line in lines for word in line.split()]
        self._at = 0

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._words) - self._at

    def word(self, what: str) -> str:
        """Take the next word, which should be this."""
        if not len(self):
            raise self.error(f"it ends where {what} should be")
        self._at += 1
        return self._words[self._at - 1]

    def whole(self, what: str, least: int = 1) -> int:
        """Take a whole number."""
        word = self.word(what)
        try:
            number = int(word)
        except ValueError:
            raise self.error(f"{what} should be a whole number, not {word!r}") from None
        if number < least:
            raise self.error(f"{what} should be at least {least}, not {number}")
        return number

    def number(self, what: str, positive: bool = False) -> float:
        """Take a finite number."""
        number = float(self.numbers(what, 1)[0])
        if positive and number <= 0:
            raise self.error(f"{what} should be positive, not {number}")
        return number

    def numbers(self, what: str, count: int) -> np.ndarray:
        """Take finite numbers, (count,)."""
        words = self._words[self._at : self._at + count]
        if len(words) < count:
            raise self.error(f"it ends where {what} should be: {count - len(words)} are missing")
        try:
            numbers = np.array([float(word) for word in words])
        except ValueError as error:
            raise self.error(f"{what} should be numbers: {error}") from None
        if not np.isfinite(numbers).all():
            raise self.error(f"{what} should be finite")
        self._at += count
        return numbers

    def element(self, what: str) -> int:
        """Take the symbol of an element; return its atomic number."""
        symbol = self.word(what)
        if symbol not in atomic_numbers or symbol == "X":
            raise self.error(f"{what} should be the symbol of an element, not {symbol!r}")
        return atomic_numbers[symbol]

    def error(self, reason: str) -> PotentialFileError:
        """Return the error that says what is wrong."""
        return PotentialFileError(f"{self.name} is not {self.format}: {reason}")


def lines_of(path: FilePath, format: str) -> list[str]:
    """Return the lines of a file.

    Raises
    ------
    FileNotFoundError
        There is none.
    PotentialFileError
        It is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PotentialFileError(f"{path} is not {format}: it is not text") from None


def without_comments(lines: Iterable[str]) -> list[str]:
    """Return lines without what follows a ``#``."""
    return [line.partition("#")[0] for line in lines]
