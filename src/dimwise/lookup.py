"""Tables of names: what stands in them is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def resolve(place: str) -> Any:
    """The object that a literal table of this package names ``package.module:object``.

    For what a user types there is :func:`dimwise.models.from_name`, which explains what is missing.

    Example:
        >>> resolve("dimwise.seeds:derive")(0, "order") > 0
        True
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def late(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a room that imports each of its names when it is first used.

    Args:
        room: the room's ``__name__``.
        homes: name -> the module that holds the object of that name.

    Returns:
        name -> object; raises AttributeError, as Python expects of a module, for any other name.

    Example:
        >>> get = late("dimwise", {"derive": "dimwise.seeds"})
        >>> get("derive").__name__
        'derive'
        >>> get("x")
        Traceback (most recent call last):
        AttributeError: module 'dimwise' has no attribute 'x'
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get
