"""Put a function in the place of another, and give the place back. All that the doctor replaces goes through here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """Replacements that can be undone, last first.

    Example:
        >>> import types
        >>> place = types.SimpleNamespace(f=lambda: 1)
        >>> patches = Patches()
        >>> patches.replace(place, "f", lambda original: lambda: original() + 1)
        >>> place.f()
        2
        >>> patches.undo()
        >>> place.f()
        1
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """``owner.name`` becomes ``make(original)``; nothing happens where there is no such name."""
        original: Any = getattr(owner, name, _ABSENT)
        if original is _ABSENT:
            return
        own = vars(owner).get(name, _ABSENT) if hasattr(owner, "__dict__") else original
        made: Any = make(original)
        functools.update_wrapper(made, original)
        setattr(owner, name, made)

        def undo() -> None:
            if getattr(owner, name, None) is not made:
                return  # somebody replaced it after us: theirs stays
            if own is _ABSENT:
                delattr(owner, name)  # it was inherited
            else:
                setattr(owner, name, own)

        self._undo.append(undo)

    def on_undo(self, action: Callable[[], None]) -> None:
        """Something else to be done when everything is given back."""
        self._undo.append(action)

    def undo(self) -> None:
        """Give everything back."""
        while self._undo:
            self._undo.pop()()
