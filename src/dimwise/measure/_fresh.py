"""The process that :func:`dimwise.measure.process_peak_memory` starts: it tells what one call needs at its peak."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path


def main(call: str, imports: str, *words: str) -> None:
    """Import, look, call, look again."""
    for name in filter(None, imports.split(",")):
        importlib.import_module(name)
    module, _, function = call.partition(":")
    work = getattr(importlib.import_module(module), function)
    before = _resident_bytes()
    _set_back_high_water()
    kept = work(*words)
    sys.stdout.write(f"{max(0, _high_water_bytes() - before)}\n")
    del kept


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _set_back_high_water() -> None:
    """Linux can forget the peak of the imports; elsewhere a smaller peak of the call is told as none."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _high_water_bytes() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main(*sys.argv[1:])
