"""What goes wrong with results."""


class OutputError(Exception):
    """Results that cannot be written; it says on one line why, and what to do."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
