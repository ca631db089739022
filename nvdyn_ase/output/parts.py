"""The names of what several processes have written of one file."""

import glob
from pathlib import Path


def part_path(partial: Path, rank: int) -> Path:
    """Return what the part of a process is called: ``NAME.partial.rank3.EXT``."""
    return partial.with_name(f"{partial.stem}.rank{rank}{partial.suffix}")


def any_part(partial: Path) -> str:
    """Return a pattern that the name of each part fits, of whichever process."""
    return f"{glob.escape(partial.stem)}.rank*{glob.escape(partial.suffix)}"


def part_paths(partial: Path) -> list[Path]:
    """Return the parts of a file that there are, in the order of their processes."""
    found = {}
    first, last = f"{partial.stem}.rank", partial.suffix
    for path in partial.parent.glob(any_part(partial)):
        number = path.name.removeprefix(first).removesuffix(last)
        if number.isdecimal():
            found[int(number)] = path
    return [path for _, path in sorted(found.items())]
