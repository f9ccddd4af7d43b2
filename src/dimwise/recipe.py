"""Recipes: TOML in, frozen dataclasses out, and back; the machinery that every room's config shares.

A recipe is data. Nothing in it is executed. Each part is a frozen dataclass made with :func:`config` and
lives beside the code that reads it; this file knows none of them.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

from dimwise.errors import RecipeError, nearest

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only, validated dataclass whose field docstrings are its documentation.

    Example:
        >>> from typing import Annotated
        >>> from pydantic import Field
        >>> @config
        ... class Walk:
        ...     steps: Annotated[int, Field(ge=1)] = 10
        >>> Walk().steps
        10
    """
    from pydantic import ConfigDict
    from pydantic.dataclasses import dataclass

    told = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    return dataclass(frozen=True, kw_only=True, config=told)(cls)  # type: ignore[return-value]


def build(cls: type[T], tree: Mapping[str, Any], source: str = "recipe") -> T:
    """Turn a nested mapping into a config, or say in one line which key or value is wrong.

    Raises:
        RecipeError: for an unknown key (the nearest right one is named) or a value out of range.

    Example:
        >>> @config
        ... class Walk:
        ...     steps: int = 10
        >>> build(Walk, {"steps": 3}).steps
        3
        >>> build(Walk, {"stesp": 3})
        Traceback (most recent call last):
        ...
        dimwise.errors.RecipeError: recipe: unknown key 'stesp'; expected one of: steps. did you mean 'steps'?
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(cls, tree, source, ())
    _refuse_other_kinds(cls, tree, source, ())
    try:
        return TypeAdapter(cls).validate_python(dict(tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(
            f"{source}: {key} = {first['input']!r} is not valid",
            expected=_expected(first["msg"]),
            next_step=f"{error.error_count() - 1} more after this one." if error.error_count() > 1 else "",
        ) from None


def _expected(message: str) -> str:
    if message == "Input should be a valid tuple":
        return 'a list, such as ["conv1", "conv2"]'
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text[0].lower() + text[1:]


def _parts(cls: type) -> dict[str, type | None]:
    """Field name -> the config class it holds, or None for a plain value."""
    hints = get_type_hints(cls)
    found: dict[str, type | None] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        options = [hint, *get_args(hint)]
        found[field.name] = next((h for h in options if isinstance(h, type) and dataclasses.is_dataclass(h)), None)
    return found


def _refuse_unknown(cls: type, tree: Mapping[str, Any], source: str, path: tuple[str, ...]) -> None:
    parts = _parts(cls)
    for key, value in tree.items():
        if key not in parts:
            raise RecipeError(
                f"{source}: unknown key '{'.'.join((*path, key))}'",
                expected="one of: " + ", ".join(parts),
                next_step=nearest(key, parts),
            )
        part = parts[key]
        if part is not None and isinstance(value, Mapping):
            _refuse_unknown(part, value, source, (*path, key))


def _refuse_other_kinds(cls: type, tree: Mapping[str, Any], source: str, path: tuple[str, ...]) -> None:
    """Pydantic would read ``true`` as 1 and ``"3"`` as 3; TOML has a kind for each, so the writer meant another key."""
    hints, parts = get_type_hints(cls), _parts(cls)
    for key, value in tree.items():
        part = parts[key]
        if part is not None:
            if isinstance(value, Mapping):
                _refuse_other_kinds(part, value, source, (*path, key))
            continue
        wanted = ""
        if hints[key] in (int, float) and isinstance(value, (bool, str)):
            wanted = "a number"
        elif hints[key] is bool and not isinstance(value, bool):
            wanted = "true or false"
        if wanted:
            raise RecipeError(f"{source}: {'.'.join((*path, key))} = {value!r} is not valid", expected=wanted)


def parse(text: str, source: str = "recipe") -> dict[str, Any]:
    """Read TOML, with the line and column of a mistake in the message."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}") from None


def override(tree: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.sub=value`` settings to a nested mapping; values are read as TOML, else as text.

    Example:
        >>> override({"train": {"lr": 0.1}}, ["train.lr=0.01", "model.name=mlp"])
        {'train': {'lr': 0.01}, 'model': {'name': 'mlp'}}
    """
    result = _copy(tree)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting!r} has no '='", expected="key=value, as in train.lr=0.01")
        value = toml_like(text)
        *folders, last = key.strip().split(".")
        node = result
        for folder in folders:
            child = node.setdefault(folder, {})
            if not isinstance(child, dict):
                raise RecipeError(f"--set {setting!r}: '{folder}' holds a value, not a table")
            node = child
        node[last] = value
    return result


def toml_like(text: str) -> Any:
    """What the text says in TOML when that is a number, a truth, a text or a list; else the text itself.

    Example:
        >>> toml_like("0.5"), toml_like("[1, 2]"), toml_like("adam")
        (0.5, [1, 2], 'adam')
    """
    try:
        tree = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    plain = tree.keys() == {"v"} and isinstance(tree["v"], (bool, int, float, str, list, dict))
    return tree["v"] if plain else text.strip()  # dates, and lines after the first, are meant as text


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def as_dict(value: Any) -> Any:
    """A config as plain dicts, lists and scalars, with nothing left out but ``None``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, as_dict(getattr(value, f.name))) for f in dataclasses.fields(value))
        return {k: v for k, v in pairs if v is not None}
    if isinstance(value, (list, tuple)):
        return [as_dict(v) for v in value]
    return value


def to_toml(value: Any, *, documented: bool = False) -> str:
    """Write a config as TOML that :func:`parse` and :func:`build` read back to an equal config.

    Example:
        >>> @config
        ... class Walk:
        ...     steps: int = 10
        >>> to_toml(Walk())
        'steps = 10\\n'
    """
    lines: list[str] = []
    _write(value, (), lines, documented)
    return "\n".join(lines).strip("\n") + "\n"


def _write(value: Any, path: tuple[str, ...], lines: list[str], documented: bool) -> None:
    docs = describe(type(value)) if documented else {}
    tables = []
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            tables.append((field.name, item))
            continue
        if documented and docs.get(field.name):
            lines += [f"# {line}" for line in docs[field.name].splitlines()]
        if item is None:
            if documented:
                lines.append(f"# {field.name} =    (not set)")
            continue
        lines.append(f"{field.name} = {toml_value(item)}")
    for name, item in tables:
        _write(item, (*path, name), lines, documented)


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it.

    Example:
        >>> toml_value(("a", 1)), toml_value(True)
        ('["a", 1]', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        plain = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped)
        return f'"{plain}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def describe(cls: type) -> dict[str, str]:
    """Field name -> its documentation (unit, range, reason of the default), one line each."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(cls).json_schema()
    described = schema.get("properties", {})
    return {k: " ".join(str(v.get("description", "")).split()) for k, v in described.items()}


def schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a config, for editors and forms."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls).json_schema()
