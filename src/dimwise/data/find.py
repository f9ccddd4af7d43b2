"""Where the named sets may already lie: in our layout or in the one other libraries use."""

from __future__ import annotations

from pathlib import Path

from dimwise.lookup import resolve

# find(name, data_dir) -> Path | None, one line a named set that has files
FINDERS = {
    "mnist": "dimwise.data.sources.idx:find",
    "fashion": "dimwise.data.sources.idx:find",
    "cifar10": "dimwise.data.sources.cifar:find",
    "cifar100": "dimwise.data.sources.cifar:find",
    "sst2": "dimwise.data.sources.text:find",
}


def where(name: str, data_dir: Path) -> Path | None:
    """The file or folder that holds a named set, or ``None`` when it is not there.

    Example:
        >>> where("mnist", Path("nowhere")) is None
        True
    """
    if name not in FINDERS:
        return None
    found: Path | None = resolve(FINDERS[name])(name, data_dir)
    return found
