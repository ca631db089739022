"""The comment line of an extended xyz frame."""

import re
from typing import Any

import numpy as np
from ase.io.extxyz import SPECIAL_3_3_KEYS, UNPROCESSED_KEYS, key_val_str_to_dict

# Names, and values of one word or in double quotes, with nothing in them that ASE's reader makes
# something else of: brackets, other quotes, backslashes.
_ENTRY = re.compile(
    r"""([A-Za-z_][\w.-]*)(?:=(?:"([^"\\]+)"|([^\s\\'"{}\[\]=]+)))?( +|\Z)""", re.ASCII
)
_INTEGERS = re.compile(r"[+-]?\d{1,18}(?: +[+-]?\d{1,18})*", re.ASCII)
_NUMBER = r"[+-]?(?:\d{1,18}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_NUMBERS = re.compile(rf"{_NUMBER}(?: +{_NUMBER})*", re.ASCII)
# It has a letter, or a colon, that is in no number, no nan and no infinity.
_TEXT = re.compile(r"[\w .:;+/*-]*[b-dg-hj-mo-su-xzB-DG-HJ-MO-SU-XZ:][\w .:;+/*-]*", re.ASCII)
_FLAGS = {
    **dict.fromkeys(("T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("F", "false", "False", "FALSE"), False),
}


def entries(comment: str) -> dict[str, Any]:
    """Return what a comment line says, by name, as ``ase.io.extxyz.key_val_str_to_dict`` does.

    That looks at one character after the other, and tries to make numbers of everything. What is
    written plainly is told apart at once here; a comment with anything else in it is left to ASE.

    Parameters
    ----------
    comment
        The line, without white space around it.
    """
    found: dict[str, Any] = {}
    place = 0
    while place < len(comment):
        entry = _ENTRY.match(comment, place)
        if entry is None:
            return _by_ase(comment)
        key, quoted, word, _ = entry.groups()
        value = _value(key, quoted or word or "T")
        if value is None:
            return _by_ase(comment)
        found[key] = value
        place = entry.end()
    return found or _by_ase(comment)


def _by_ase(comment: str) -> dict[str, Any]:
    found: dict[str, Any] = key_val_str_to_dict(comment)
    return found


def _value(key: str, text: str) -> Any:
    """Return what ASE makes of a text; None if it is not plain what that is."""
    if key.lower() in UNPROCESSED_KEYS:
        return None
    numbers = None
    if _INTEGERS.fullmatch(text):
        numbers = np.array(text.split(), dtype=int)
    elif _NUMBERS.fullmatch(text):
        numbers = np.array(text.split(), dtype=float)
    if key in SPECIAL_3_3_KEYS:
        if numbers is None or len(numbers) != 9:
            return None
        return numbers.reshape((3, 3), order="F")
    if numbers is not None:
        return numbers[0] if len(numbers) == 1 else numbers
    flags = [_FLAGS.get(part) for part in text.split()]
    if flags and None not in flags:
        return flags[0] if len(flags) == 1 else flags
    is_text = _TEXT.fullmatch(text) and not text.startswith("_JSON ")
    return text if is_text else None
