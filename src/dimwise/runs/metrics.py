"""``metrics.jsonl``: one JSON object a line, append only, cheap to write, readable after any kill.

Kinds of records: ``step``, ``epoch``, ``resume`` (see :func:`read`), and whatever else a caller writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from dimwise.errors import a_kind
from dimwise.runs.atomic import run_error

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Metrics:
    """Appends records to a JSONL file; lines reach the file about once a second, and at flush and close.

    A killed process loses what it wrote in the last second; what lies in the file stays readable. NaN and
    infinity, for which JSON has no word, are written as the strings "NaN", "Infinity" and "-Infinity".

    Args:
        path: the file; made when it is not there. A torn last line is closed with a newline first.
        flush_s: seconds between two writes to the file.

    Raises:
        RunError: when the file cannot be opened or written (a full disk is named).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with Metrics(path) as metrics:
        ...     metrics.write({"kind": "step", "step": 1, "loss": 2.5})
        >>> read(path)
        [{'kind': 'step', 'step': 1, 'loss': 2.5}]
    """

    def __init__(self, path: str | os.PathLike[str], *, flush_s: float = 1.0) -> None:
        self.path = Path(path)
        self._flush_s = flush_s
        self._lines: list[str] = []
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        ).encode
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._handle: int | None = os.open(self.path, flags, 0o666)
            self._close_torn_line()
        except OSError as error:
            raise run_error(self.path, error) from error
        self._due = monotonic() + flush_s

    def _close_torn_line(self) -> None:
        assert self._handle is not None
        if not os.lseek(self._handle, 0, os.SEEK_END):
            return
        os.lseek(self._handle, -1, os.SEEK_END)
        if os.read(self._handle, 1) != b"\n":
            os.write(self._handle, b"\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; a few microseconds, since most calls only fill a buffer."""
        try:
            line = self._encode(record)
        except ValueError:  # NaN or infinity: rare, so only then is the record walked through
            line = self._encode(_spelt(record))
        self._lines.append(line)
        if monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system, where they survive a kill of this process."""
        self._due = monotonic() + self._flush_s
        if self._handle is None or not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._lines.clear()  # a second attempt after an error would write lines twice
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            raise run_error(self.path, error, kept="what was written before is intact") from error

    def close(self) -> None:
        """Flush, sync to the disk, close; a second call does nothing."""
        if self._handle is None:
            return
        try:
            self.flush()
            with contextlib.suppress(OSError):
                os.fsync(self._handle)
        finally:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error under way is the one to tell
            self.close()


def _plain(value: Any) -> Any:
    """A scalar or array of NumPy or torch as Python numbers, without importing either."""
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"a metric cannot be {a_kind(value)}")
    return _spelt(tolist())


def _spelt(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _spelt(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelt(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if hasattr(value, "tolist"):
        return _spelt(value.tolist())
    return value


def _unspelt(value: Any) -> Any:
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if isinstance(value, dict):
        return {key: _unspelt(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unspelt(item) for item in value]
    return value


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records of a metrics file, as if the run had never been stopped.

    Torn and invalid lines are skipped. A ``{"kind": "resume", "step": S}`` record says that training went
    on from step S: ``step`` and ``epoch`` records with a larger step before it were lost, and are left out.

    Returns: the records in order, resume records included; an empty list when there is no file yet.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with Metrics(path) as metrics:
        ...     for step in (1, 2, 3):
        ...         metrics.write({"kind": "step", "step": step})
        ...     metrics.write({"kind": "resume", "step": 1})
        >>> [(r["kind"], r["step"]) for r in read(path)]
        [('step', 1), ('resume', 1)]
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    records: list[dict[str, Any]] = []
    for line in data.split(b"\n"):
        record = _parse(line)
        if record is None:
            continue
        if record.get("kind") == "resume" and isinstance(record.get("step"), int):
            records = [r for r in records if not _undone(r, record["step"])]
        records.append(record)
    return records


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    fixed: dict[str, Any] = _unspelt(record)
    return fixed


def _undone(record: Mapping[str, Any], step: int) -> bool:
    mine = record.get("step")
    return record.get("kind") in ("step", "epoch") and isinstance(mine, (int, float)) and mine > step
