"""A comment line is taken for what ASE takes it for."""

import pytest
from ase.io.extxyz import key_val_str_to_dict
from hypothesis import given
from hypothesis import strategies as st

from nvdyn_ase.files import extxyz_comment
from nvdyn_ase.files.extxyz_comment import entries

WORDS = (
    *("T", "F", "true", "False", "TRUE", "t", "nan", "inf", "-Infinity", "None", "e", "1e", "E5"),
    *("1", "-7", "+3", "007", "1_000", "1.5", "-.5", "5.", "1e5", "-1.5E-30", "1e999", "1d5"),
    *("9223372036854775807", "9223372036854775808", "123456789012345678", "1234567890123456789"),
    *("0x1f", "1j", "Cu", "it's", "a,b", "1,2", ",", "say:so", "species:S:1:pos:R:3", "_JSON"),
    *("[1,", "{2}", "\\", '\\"', "å", "١", "\u2028", "\t", "\n", "=", "==", '"', '""', "'"),
)
KEYS = ("Lattice", "virial", "stress", "pbc", "uid", "UID", "energy", "a-b", "x.y", "7", "ä", "a b")
MATRIX = " ".join(["1.5", *"23456789"])
words = st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)
values = words | st.just(MATRIX) | st.text(max_size=6)
pairs = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(['{}="{}"', "{}={}", "{} = {}", "{}", "{}=[{}]", "{}:{}"]),
)


def read(function, comment):
    """Return what a function makes of a comment, with types, or which error."""
    try:
        found = function(comment)
    except Exception as error:
        return type(error), str(error)
    return [
        (key, type(value), getattr(value, "dtype", None), repr(value))
        for key, value in found.items()
    ]


@given(st.lists(st.tuples(pairs, values), max_size=4), st.sampled_from([" ", "  ", "\t", ""]))
def test_whatever_is_in_it(several, between):
    comment = between.join(form.format(key, value) for (key, form), value in several).strip()
    assert read(entries, comment) == read(key_val_str_to_dict, comment)


@pytest.mark.parametrize(
    "form", ["a={}", 'a="{}"', 'a="{0} {0}"', 'a="1 {}"', 'Lattice="{} 1 2 3"']
)
@pytest.mark.parametrize("word", WORDS)
def test_words_and_numbers(form, word):
    comment = form.format(word).strip()
    assert read(entries, comment) == read(key_val_str_to_dict, comment)


def test_what_is_written_plainly_is_not_left_to_ase(monkeypatch):
    monkeypatch.setattr(extxyz_comment, "_by_ase", pytest.fail)
    comment = (
        f'Lattice="{MATRIX}" Properties=species:S:1:pos:R:3 name="structure 7" pbc="T F T" '
        "energy=-1.25 steps=3 done"
    )
    assert list(entries(comment)) == [
        "Lattice",
        "Properties",
        "name",
        "pbc",
        "energy",
        "steps",
        "done",
    ]
    assert read(entries, comment) == read(key_val_str_to_dict, comment)
