"""The run-time check of jaxtyping annotations, and of nothing else."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arrays that a function takes and returns; other types are the type checker's."""
    if not hasattr(function, "__annotations__") or isinstance(function, type):
        return function
    hints = {key: hint for key, hint in function.__annotations__.items() if _is_array(hint)}
    if not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


def _is_array(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_is_array(part) for part in typing.get_args(hint))


def unwrapping(compiler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiler that takes functions as they were before the import hook wrapped them."""

    def compiling(*functions: Callable[..., Any], **options: Any) -> Any:
        if functions:
            return compiler(*map(inspect.unwrap, functions), **options)
        return lambda function: compiler(**options)(inspect.unwrap(function))

    return compiling
