"""What a search tried: one JSON line a candidate in ``plan.jsonl``, enough to make it again.

Lines are only ever added, each in one write, so that several processes may share the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dimwise.errors import RunError
from dimwise.runs.atomic import append, finite, run_error, write_json

FILE = "plan.jsonl"
ABOUT = "plan.json"

TIME = "%Y-%m-%d %H:%M:%S"
"""How lines tell when they were written."""

State = Literal["begun", "shape", "whole", "failed"]

_LATE_S = 120.0
"""What is begun elsewhere may take three times what was expected, and so much more, before it counts as given up."""


@dataclass(frozen=True)
class Line:
    """One candidate as it was tried once."""

    steps: str
    """The composition: ``dimwise fold RUN --apply`` makes it again; empty for the network as it was trained."""
    seed: int
    state: State
    """begun: some process is at it; shape: latency and size of the untrained shape; whole: trained and scored;
    failed: could not be made."""
    point: dict[str, Any] = field(default_factory=dict)
    """Its place in the search space, see :mod:`dimwise.plan.space`."""
    rung: int = -1
    """How far up the ladder of training time, from 0; -1 where nothing is trained."""
    predicted: dict[str, float] = field(default_factory=dict)
    """What was expected before anything was measured: latency_ms, size_bytes, score."""
    measured: dict[str, float] = field(default_factory=dict)
    """latency_ms, latency_p95_ms, latency_iqr_ms, size_bytes, params, macs, bit_operations; score on validation data
    and memory_bytes where they were measured. original_ms: the latency of the original beside which it was taken."""
    seconds: float = 0.0
    """Wall time that it took, or is expected to take when it is begun."""
    reason: str = ""
    """Why it was tried no further, or failed."""
    host: str = field(default_factory=socket.gethostname)
    time: str = field(default_factory=lambda: time.strftime(TIME))
    process: int = 0
    """Of what is begun: who is at it."""

    @property
    def name(self) -> str:
        """A short name for folders, the same each time.

        Example:
            >>> Line("quantize", 0, "whole").name == Line("quantize", 0, "whole").name
            True
        """
        return hashlib.sha256(f"{self.seed} {self.steps}".encode()).hexdigest()[:8]


def under_way(line: Line) -> bool:
    """Whether another process that lives is at this line; on another host, whether it should be by now.

    Example:
        >>> under_way(Line("quantize", 0, "begun", process=os.getpid()))
        False
        >>> under_way(Line("quantize", 0, "begun", process=1, host="elsewhere", time="2020-01-01 00:00:00"))
        False
    """
    if line.state != "begun":
        return False
    if line.host == socket.gethostname():
        return line.process != os.getpid() and _lives(line.process)
    try:
        since_s = time.time() - time.mktime(time.strptime(line.time, TIME))
    except ValueError:
        return False
    return since_s < 3 * line.seconds + _LATE_S


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # somebody else's
    except (OSError, OverflowError):
        return False
    return process > 0


def add(folder: Path, line: Line) -> None:
    """Write one line at the end, in one piece.

    Raises:
        RunError: when it cannot be written.
    """
    append(folder / FILE, json.dumps(finite(dataclasses.asdict(line)), ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Line]:
    """All lines that are whole, oldest first; a line cut off by a kill is left out."""
    try:
        text = (folder / FILE).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise run_error(folder / FILE, error) from None
    return [line for line in map(parse, text.splitlines()) if line is not None]


def parse(text: str) -> Line | None:
    """A line from its text; None for what is none.

    Example:
        >>> parse('{"steps": "quantize", "seed": 1, "state": "whole", "host": "", "time": ""}').steps
        'quantize'
        >>> parse("{broken") is None
        True
    """
    try:
        told = json.loads(text)
        made = Line(**told)
        numbers = {k: float(v) for k, v in made.measured.items() if v is not None}
        guesses = {k: float(v) for k, v in made.predicted.items() if v is not None}
    except (ValueError, TypeError, AttributeError):
        return None
    return dataclasses.replace(made, measured=numbers, predicted=guesses)


def begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the folder of a search, or make sure that one that is there is about the same thing.

    Args:
        folder: where lines and artifacts go.
        about: what all lines have in common, such as the fingerprint of the weights and the target.

    Raises:
        RunError: when the folder belongs to another network or target, or cannot be written.
    """
    path = folder / ABOUT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:
        before = None
    except OSError as error:
        raise run_error(folder, error) from None
    if before is None:
        write_json(path, dict(about))
        return
    for key, value in about.items():
        if key in before and before[key] != value:
            raise RunError(
                f"'{folder}' is a search about {key} {before[key]!r}, not {value!r}",
                next_step="Remove that folder, or name another one with --out.",
            )


def fingerprint(tensors: Iterable[tuple[str, Any]]) -> str:
    """A short hash of named weights: the lines of a search hold for these and no others.

    Example:
        >>> import torch
        >>> fingerprint([("w", torch.zeros(2))]) == fingerprint([("w", torch.zeros(2))])
        True
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of(content: bytes) -> str:
    """The same of a graph's bytes.

    Example:
        >>> len(fingerprint_of(b"graph"))
        16
    """
    return hashlib.sha256(content).hexdigest()[:16]
