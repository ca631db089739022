"""How a system ended."""

from enum import IntEnum


class Outcome(IntEnum):
    """Code in the ``outcome`` field of a batch."""

    ACTIVE = 0
    CONVERGED = 1
    BUDGET = 2
    NAN = 3
    EXPLODED = 4
    REJECTED = 5
    ERROR = 6

    @property
    def word(self) -> str:
        """What people and files are told: ``nan`` would be read as a number."""
        return "not_finite" if self is Outcome.NAN else self.name.lower()

    @property
    def failed(self) -> bool:
        """Whether the system ended because something went wrong."""
        return self >= Outcome.NAN
