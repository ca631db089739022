"""Files that say which stages structures go through."""

import argparse
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from nvdyn_ase.method_options import add_dynamics, add_relaxation

_METHODS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "relax": add_relaxation,
    "md": add_dynamics,
}


def stages_of(name: str) -> list[argparse.Namespace]:
    """Return the words of the stages in a TOML file, as those of a command for each.

    Parameters
    ----------
    name
        The file. It has an array of tables ``stage``, each with a ``method``, ``"relax"`` or
        ``"md"``, and the long options of that command as keys, without the dashes in front.

    Returns
    -------
    list of argparse.Namespace
        Of each its ``method`` and options. A ``seed`` that it does not say is its place, from 0, so
        that no two stages have the same random numbers.

    Raises
    ------
    ValueError
        The file cannot be read, or something in it is not as it should be; it says in which stage.
    """
    try:
        with Path(name).open("rb") as file:
            told = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not TOML: {error}") from error
    stages = told.pop("stage", None)
    if told or not (isinstance(stages, list) and stages):
        other = f", and not {next(iter(told))!r}" if told else ""
        raise ValueError(f"{name} needs tables [[stage]]{other}")
    return [_stage(f"{name}, stage {place + 1}", place, own) for place, own in enumerate(stages)]


def _stage(where: str, place: int, told: Any) -> argparse.Namespace:
    if not isinstance(told, Mapping):
        raise ValueError(f"{where} is no table")
    told = dict(told)
    method = told.pop("method", None)
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(f"{where}: method is {method!r}, and has to be 'relax' or 'md'")
    parser = _Parser(f"{where} ({method})")
    _METHODS[method](parser)
    known = parser.keys()
    for key in told:
        if key not in known:
            raise ValueError(f"{parser.prog}: there is no {key!r}; there are {', '.join(known)}")
    if "seed" in known:
        told.setdefault("seed", place)
    words = [word for key, value in told.items() for word in parser.words(key, value)]
    return parser.parse_args(words, argparse.Namespace(method=method))


class _Parser(argparse.ArgumentParser):
    """Takes the keys of a stage as the words of a command.

    Parameters
    ----------
    where
        What errors call the stage.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and leave the process alone."""
        raise ValueError(f"{self.prog}: {message.replace('argument --', '').replace('--', '')}")

    def keys(self) -> list[str]:
        """Return what there may be in the stage."""
        return [action.option_strings[0].removeprefix("--") for action in self._actions]

    def words(self, key: str, value: Any) -> list[str]:
        """Return the words for a key; a table for an option that takes ``KEY=VALUE``."""
        if not key.endswith("option"):
            if isinstance(value, (bool, list, Mapping)):
                self.error(f"{key} is {value!r}, and has to be a number or a text")
            return [f"--{key}={value}"]
        if not isinstance(value, Mapping):
            self.error(f"{key} is {value!r}, and has to be a table, as {{maxstep = 0.1}}")
        return [f"--{key}={name}={own}" for name, own in value.items()]
