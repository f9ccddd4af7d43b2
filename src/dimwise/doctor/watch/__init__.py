"""The watcher: fills a :class:`dimwise.doctor.seen.Seen` from PyTorch's own hooks while a script runs."""

from __future__ import annotations

from dimwise.doctor.watch.install import Watch, begin, conclude, end, write

__all__ = ["Watch", "begin", "conclude", "end", "write"]
