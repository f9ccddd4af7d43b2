"""The watcher: fills a :class:`dimwise.doctor.seen.Seen` from PyTorch's own hooks while a script runs."""

from __future__ import annotations

from dimwise.doctor.watch.install import begin
from dimwise.doctor.watch.state import Watch
from dimwise.doctor.watch.windows import conclude, end, write

__all__ = ["Watch", "begin", "conclude", "end", "write"]
