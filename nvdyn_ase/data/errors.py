"""Errors that name the structure they are about."""


class StructureError(ValueError):
    """A structure that cannot be used.

    Parameters
    ----------
    index
        Position of the structure in the user's input; None if there is only one.
    problem
        What is wrong and what to do, without the name of the structure.

    Attributes
    ----------
    index, problem
        As given.
    """

    def __init__(self, index: int | None, problem: str) -> None:
        self.index = index
        self.problem = problem
        super().__init__(problem if index is None else f"structure {index}: {problem}")

    def __reduce__(self) -> tuple[type, tuple[int | None, str]]:
        """Pickle by the two arguments, as the default would pass the joined text alone."""
        return type(self), (self.index, self.problem)
