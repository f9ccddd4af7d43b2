"""What was seen, on its way from the watched process to the doctor: plain JSON, written whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any

from dimwise.doctor.seen import Seen


def write(path: Path, seen: Seen) -> None:
    """Write ``seen`` beside ``path`` and rename, so that a reader never meets half of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(_text(seen), encoding="utf-8")
    part.replace(path)


def read(path: Path) -> Seen:
    """What :func:`write` wrote.

    Raises:
        ValueError: when the file holds something else.
    """
    return from_plain(json.loads(path.read_text(encoding="utf-8")))


def to_plain(seen: Seen) -> dict[str, Any]:
    """JSON-able form of ``seen``.

    Example:
        >>> from_plain(to_plain(Seen(n_steps=3))).n_steps
        3
    """
    told: dict[str, Any] = json.loads(_text(seen))
    return told


def from_plain(told: dict[str, Any]) -> Seen:
    """The object that :func:`to_plain` told of."""
    made = _made(Seen, told)
    if not isinstance(made, Seen):
        raise ValueError("not what a watched process writes")
    return made


def _text(seen: Seen) -> str:
    return json.dumps(seen, default=_plain, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """One level of what json does not know; json itself, in C, does the rest."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: getattr(value, name) for name in _names(type(value))}
    return str(value)


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _made(kind: Any, told: Any) -> Any:
    """``told`` in the type its field declares."""
    origin = typing.get_origin(kind)
    if told is None or kind is Any:
        return told
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _made(hints[name], value) for name, value in told.items() if name in hints})
    if origin in (typing.Union, types.UnionType):
        return _made(next(a for a in typing.get_args(kind) if a is not type(None)), told)
    if origin is list:
        return [_made(typing.get_args(kind)[0], v) for v in told]
    if origin is dict:
        key, value = typing.get_args(kind)
        return {(int(k) if key is int else k): _made(value, v) for k, v in told.items()}
    if origin is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_made(inner[0], v) for v in told)
        return tuple(_made(k, v) for k, v in zip(inner, told, strict=True))
    return told
