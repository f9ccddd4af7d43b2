"""Reading the official CIFAR pickles without unpickling: a stack machine that knows data and nothing else.

A pickle is a program. Python's own reader runs it, and it may call any function of any module. This one walks
the opcodes and accepts what a dict of lists, texts, numbers and NumPy arrays needs; the five names that such a
file mentions are compared as text and never imported. Whatever else it asks for ends the reading.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimwise.errors import DataError, a_kind

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_ALLOWED = {*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode"}
_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"}

_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_IGNORED = {"PROTO", "FRAME"}


class _Mark:
    """Where a run of items on the stack begins."""


@dataclass(frozen=True)
class _Name:
    """A "module attribute" pair that the file mentions; only text."""

    text: str


@dataclass
class _Type:
    """A NumPy dtype in the making."""

    code: str
    order: str = "|"


@dataclass
class _Array:
    """A NumPy array in the making."""

    value: Any = None


def loads(content: bytes, source: str) -> Any:
    """The dict, list, number, text or array that a pickle describes; Python 2 texts come as str (Latin-1).

    Args:
        content: the file's bytes.
        source: its name, for messages.

    Raises:
        DataError: the pickle asks for anything but plain data, or is damaged.

    Example:
        >>> loads(b"\\x80\\x02}q\\x00U\\x06labelsq\\x01]q\\x02(K\\x06K\\x09es.", "example")
        {'labels': [6, 9]}
    """
    machine = _Machine(source)
    try:
        for opcode, argument, position in pickletools.genops(content):
            if opcode.name == "STOP":
                return _finished(machine.pop())
            machine.step(opcode.name, argument, position)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{source} is a damaged pickle ({error})", next_step="Fetch it again.") from None
    raise DataError(f"{source} is a pickle without an end", next_step="Fetch it again.")


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    return value


class _Machine:
    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        at = max(i for i, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def refuse(self, what: str, position: int | None) -> DataError:
        return DataError(
            f"{self.source} asks for {what} at byte {position}",
            expected="a pickle of plain dicts, lists and arrays",
            next_step="Do not trust this file; fetch the set again.",
        )

    def step(self, name: str, argument: Any, position: int | None) -> None:
        if name in _IGNORED:
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.stack.append(_Mark())
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            self.stack.append({} if name == "EMPTY_DICT" else [])
        elif name in _BUILDERS:
            _BUILDERS[name](self)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._name(name, argument, position)
        elif name == "REDUCE":
            self._call(position)
        elif name == "BUILD":
            self._fill(position)
        else:
            raise self.refuse(f"the operation {name}", position)

    def _name(self, name: str, argument: Any, position: int | None) -> None:
        if name == "STACK_GLOBAL":
            attribute = self.pop()
            argument = f"{self.pop()} {attribute}"
        if argument not in _ALLOWED:
            raise self.refuse(repr(argument.replace(" ", ".")), position)
        self.stack.append(_Name(argument))

    def _call(self, position: int | None) -> None:
        arguments, called = self.pop(), self.pop()
        text = called.text if isinstance(called, _Name) else ""
        if text in _RECONSTRUCT and arguments[0] == _Name("numpy ndarray"):
            self.stack.append(_Array())
        elif text == "numpy dtype" and arguments[0] in _DTYPES:
            self.stack.append(_Type(arguments[0]))
        elif text == "_codecs encode" and arguments[1] == "latin1":
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            raise self.refuse(f"a call of {text or 'something unnamed'!r} with {arguments!r:.60}", position)

    def _fill(self, position: int | None) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, _Type):
            target.order = state[1]
        elif isinstance(target, _Array):
            _, shape, kind, by_columns, content = state
            raw = content.encode("latin-1") if isinstance(content, str) else content
            if not isinstance(kind, _Type) or kind.order not in "|<>=":
                raise self.refuse(f"an array of {kind!r:.60}", position)
            flat = np.frombuffer(raw, np.dtype(kind.order + kind.code))
            target.value = flat.reshape(shape, order="F" if by_columns else "C")
        else:
            raise self.refuse(f"changing {a_kind(target)}", position)


def _append(machine: _Machine) -> None:
    item = machine.pop()
    machine.stack[-1].append(item)


def _appends(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.stack[-1].extend(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.stack[-1][_key(key)] = value


def _set_items(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    machine.stack[-1].update(_pairs(items))


def _pairs(items: list[Any]) -> dict[str, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> str:
    if not isinstance(key, (str, bytes)):
        raise TypeError(f"a key that is {a_kind(key)}")
    return key if isinstance(key, str) else key.decode("latin-1")


def _tuple_of(n_items: int) -> Any:
    def build(machine: _Machine) -> None:
        items = tuple(machine.stack[-n_items:])
        del machine.stack[-n_items:]
        machine.stack.append(items)

    return build


_BUILDERS = {
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine: machine.stack.append(machine.pop_to_mark()),
    "DICT": lambda machine: machine.stack.append(_pairs(machine.pop_to_mark())),
}
