"""``dimwise env``: what this machine has."""

from __future__ import annotations

from typing import Any

from dimwise.cli import _out
from dimwise.cli._typer import Json, single


def env(as_json: Json = False) -> int:
    """Show device, threads, memory and versions, as they are kept with each run.

    \b
    Example:
      dimwise env --json
    """
    import torch  # noqa: F401  # once it is loaded, the environment tells its threads and devices

    from dimwise.measure import environment, machine_is_busy

    found = environment()
    if as_json:
        _out.emit(found)
    else:
        _out.pairs({name: _text(value) for name, value in found.items()})
    busy = machine_is_busy()
    if busy:
        _out.warn(busy)
    return 0


def _text(value: Any) -> Any:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else value


app = single(env)
