"""What a folded model may cost and must keep, and on which runtime that is measured; read from one line of text."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from dimwise.errors import RecipeError, nearest
from dimwise.recipe import as_dict, build, config
from dimwise.ship.runtimes import RUNTIMES


@config
class Budget:
    """What the chosen candidate may cost, and what it must keep. Zero means no limit, but for the drop."""

    drop: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Validation score a candidate may lose against the trained model, 0 to 1. Default: half a point."""
    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    """Upper limit of the median latency of one batch, in milliseconds. Default: none."""
    size_bytes: Annotated[int, Field(ge=0)] = 0
    """Upper limit of the artifact's model file, in bytes. Default: none."""
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Upper limit of what a fresh process needs to load the model and run it, in bytes. Default: none."""
    prefer: Literal["latency", "size"] = "latency"
    """What to minimise among the candidates that meet the limits; the other breaks ties. Default: latency."""


@config
class Target:
    """Where latency is measured: it is a question of the runtime, its threads and the batch together."""

    runtime: Literal["onnxruntime", "openvino", "pytorch", "pytorch-compiled"] = "onnxruntime"
    """Default: onnxruntime, which needs nothing more and serves the artifact."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of one inference. Default: 1, as servers that answer several requests at once have it."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    """Inputs of one call. Default: 1, one request."""

    @property
    def folder(self) -> str:
        """Name of the folder of a search for it.

        Example:
            >>> Target(threads=2).folder
            'onnxruntime-2-1'
        """
        return f"{self.runtime}-{self.threads}-{self.batch}"


_TIME = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SCORE = {"pt": 0.01, "pts": 0.01, "points": 0.01, "%": 0.01}

LIMITS: dict[str, tuple[str, dict[str, float]]] = {
    "latency": ("latency_ms", _TIME),
    "size": ("size_bytes", dict(_BYTES)),
    "memory": ("memory_bytes", dict(_BYTES)),
    "drop": ("drop", _SCORE),
}
"""Term -> (field of Budget, unit -> factor)."""
_EXAMPLE = "latency<=0.5ms, size<=200kB, drop<=0.5pt, batch=1, threads=1, runtime=onnxruntime"
_TERM = re.compile(r"\s*(?P<name>[A-Za-z_]+)\s*(?P<sign><=|≤|<|>=|>|==|=)\s*(?P<value>.*?)\s*")
_NUMBER = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[^\d\s.]*)")


def parse(text: str, budget: Budget | None = None, target: Target | None = None) -> tuple[Budget, Target]:
    """Read limits and target from one line.

    Args:
        text: terms separated by commas: ``latency<=0.5ms``, ``size<=200kB``, ``memory<=20MB``, ``drop<=0.5pt`` (a
            point is 0.01 of score), ``batch=1``, ``threads=1``, ``runtime=onnxruntime``, ``prefer=size``.
        budget: the limits where the text says nothing.
        target: the target where the text says nothing.

    Raises:
        RecipeError: for a misspelt term, an impossible unit or value, or a term said twice.

    Example:
        >>> budget, target = parse("latency <= 0.5 ms, size<=200kB, threads=2")
        >>> budget.latency_ms, budget.size_bytes, budget.drop, target.threads
        (0.5, 200000, 0.005, 2)
        >>> parse("latncy<=1ms")
        Traceback (most recent call last):
        ...
        dimwise.errors.RecipeError: budget: unknown term 'latncy'; expected one of: ... did you mean 'latency'?
    """
    budget, target = budget or Budget(), target or Target()
    limits: dict[str, Any] = {}
    where: dict[str, Any] = {}
    amount: Any
    known = (*LIMITS, "prefer", "runtime", "threads", "batch")
    for term in (part for part in text.split(",") if part.strip()):
        found = _TERM.fullmatch(term)
        if found is None:
            raise RecipeError(f"budget: {term.strip()!r} cannot be read", expected=f"terms as in: {_EXAMPLE}")
        name, sign, value = found["name"], found["sign"], found["value"]
        if name not in known:
            raise RecipeError(
                f"budget: unknown term {name!r}",
                expected="one of: " + ", ".join(known),
                next_step=nearest(name, known),
            )
        if name in LIMITS:
            field, units = LIMITS[name]
            given, amount = limits, _amount(name, sign, value, units)
        elif sign not in ("=", "=="):
            raise RecipeError(f"budget: {term.strip()!r} is no limit", expected=f"{name}=VALUE")
        else:
            field, given, amount = name, (limits if name == "prefer" else where), _plain(name, value)
        if field in given:
            raise RecipeError(f"budget: {name!r} is said twice", expected="each term once")
        given[field] = amount
    return _with(budget, limits), _with(target, where)


def names_limit(text: str) -> bool:
    """Whether a line that :func:`parse` reads names any limit, be it the usual one.

    Example:
        >>> names_limit("drop<=0.5pt"), names_limit("threads=2, prefer=size")
        (True, False)
    """
    return "<" in text or "≤" in text


def write(budget: Budget, target: Target) -> str:
    """The line that :func:`parse` reads back.

    Example:
        >>> write(Budget(latency_ms=0.5), Target(threads=2))
        'drop<=0.5pt, latency<=0.5ms, runtime=onnxruntime, threads=2, batch=1'
    """
    told = [f"drop<={_short(100 * budget.drop)}pt"]
    if budget.latency_ms:
        told.append(f"latency<={_short(budget.latency_ms)}ms")
    if budget.size_bytes:
        told.append(f"size<={budget.size_bytes}B")
    if budget.memory_bytes:
        told.append(f"memory<={budget.memory_bytes}B")
    if budget.prefer != "latency":
        told.append(f"prefer={budget.prefer}")
    return ", ".join([*told, f"runtime={target.runtime}", f"threads={target.threads}", f"batch={target.batch}"])


def _short(number: float) -> str:
    return f"{number:.12g}"


def _amount(name: str, sign: str, value: str, units: dict[str, float]) -> float | int:
    if sign not in ("<=", "≤", "<"):
        raise RecipeError(f"budget: '{name}{sign}{value}' is no upper limit", expected=f"{name}<={value or 'VALUE'}")
    found = _NUMBER.fullmatch(value)
    written = [unit for unit in units if unit]
    if found is None:
        raise RecipeError(
            f"budget: {name}<={value!r} is no amount",
            expected=f"a number at least 0 with a unit, such as 1{written[0]}",
        )
    number, unit = float(found["number"]), found["unit"]
    if name == "drop" and number == 0:
        return 0.0
    if unit not in units:
        near = {u.lower(): u for u in written}.get(unit.lower(), "")
        raise RecipeError(
            f"budget: {name} has no unit {unit!r}" if unit else f"budget: {name}<={value} has no unit",
            expected="one of: " + ", ".join(written),
            next_step=f"did you mean '{near}'?" if near else "",
        )
    amount = number * units[unit]
    if name == "drop":
        return amount
    if amount <= 0:
        raise RecipeError(f"budget: {name}<={value} leaves nothing", expected="an amount above 0")
    return round(amount) if name in ("size", "memory") else amount


def _plain(name: str, value: str) -> str | int:
    if name in ("threads", "batch"):
        if not value.isdecimal():
            raise RecipeError(f"budget: {name}={value!r} is no whole number", expected=f"{name}=1 or more")
        return int(value)
    if name == "runtime" and value not in RUNTIMES:
        raise RecipeError(
            f"budget: unknown runtime {value!r}",
            expected="one of: " + ", ".join(RUNTIMES),
            next_step=nearest(value, RUNTIMES),
        )
    return value


def _with(start: Any, changes: dict[str, Any]) -> Any:
    return build(type(start), as_dict(start) | changes, "budget") if changes else start
