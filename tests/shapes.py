"""The run-time check of jaxtyping annotations, and of nothing else."""

import inspect
import typing
from collections.abc import Callable
from functools import partial, wraps
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


def economical(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator like ``jaxtyping.jaxtyped`` that leaves functions without arrays alone.

    The others are checked in their first calls, and in one of every few after these: a check costs
    more than most of the functions do, and checking every call would double the suite's time.
    """

    def decorate(item: Any = None, *, typechecker: Any = None) -> Any:
        if item is None:
            return partial(decorate, typechecker=typechecker)
        if isinstance(item, (classmethod, staticmethod)):
            return type(item)(decorate(item.__func__, typechecker=typechecker))
        if isinstance(item, property):
            parts = (item.fget, item.fset, item.fdel)
            return property(*(p and decorate(p, typechecker=typechecker) for p in parts))
        if not inspect.isfunction(item):
            return jaxtyped(item, typechecker=typechecker)
        if not any(_is_array(hint) for hint in item.__annotations__.values()):
            return item
        return _now_and_then(item, jaxtyped(item, typechecker=typechecker))

    return decorate


def _now_and_then(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        function = checked if calls <= _FIRST or calls % _EVERY == 0 else plain
        return function(*args, **kwargs)

    return call


_FIRST, _EVERY = 100, 20


def unwrapping(compiler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiler that takes functions as they were before the import hook wrapped them."""

    def compiling(*functions: Callable[..., Any], **options: Any) -> Any:
        if functions:
            return compiler(*map(inspect.unwrap, functions), **options)
        return lambda function: compiler(**options)(inspect.unwrap(function))

    return compiling
