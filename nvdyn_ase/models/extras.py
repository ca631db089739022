"""Packages that are not installed with this one, and the extras that bring them."""


def needs_extra(extra: str, error: ModuleNotFoundError) -> ImportError:
    """Return the error that says which extra to install, for a package that is missing."""
    package = (error.name or extra).partition(".")[0]
    return ImportError(
        f"the package {package} is not installed; pip install 'nvdyn_ase[{extra}]' brings it"
    )
