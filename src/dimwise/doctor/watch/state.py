"""One watch: what it holds, and the two rules of all its callbacks: never disturb the script, never watch oneself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimwise.doctor.watch.live import Live
from dimwise.doctor.watch.patches import Patches


@dataclass(eq=False)
class Watch:
    """One watch: its state, what it replaced, where it writes."""

    live: Live = field(default_factory=Live)
    patches: Patches = field(default_factory=Patches)
    spool: Path | None = None
    max_steps: int | None = None
    """Steps after which it looks away for good; None never."""
    module_handles: list[Any] = field(default_factory=list)
    written_at: float = 0.0
    write_s: float = 0.0
    """What the last file cost."""
    failures: int = 0
    forked: bool = False
    """A child of the watched process; most are workers, which have nothing to tell."""
    on: bool = False


def guarded(watch: Watch, action: Callable[[], Any]) -> None:
    """Whatever goes wrong in the watcher must not reach the script."""
    start = time.perf_counter()
    live = watch.live
    live.depth += 1
    try:
        action()
    except Exception as error:  # noqa: BLE001
        watch.failures += 1
        note = f"the watcher failed: {type(error).__name__}: {error}"
        if os.environ.get("DIMWISE_DEBUG", "0") not in ("", "0"):
            import traceback

            traceback.print_exc()
        if note not in live.seen.notes and len(live.seen.notes) < 20:
            live.seen.notes.append(note)
    finally:
        live.depth -= 1
        if not live.depth:
            live.watching_s += time.perf_counter() - start


def idle(watch: Watch) -> bool:
    """Whether this very moment is not to be watched: our own doing, another thread, or PyTorch tracing."""
    live = watch.live
    return live.depth > 0 or threading.get_ident() != live.thread or not watch.on
