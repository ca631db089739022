"""``python -m nvdyn_ase`` is the command ``nvdyn-ase``."""

import sys

from nvdyn_ase.cli import main

if __name__ == "__main__":
    sys.exit(main())
