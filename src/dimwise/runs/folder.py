"""Run folders: made, marked, found, listed and removed; plain files that can be copied with rsync.

``runs/<time>-<recipe>-<short id>/`` holds recipe.toml, environment.json, metrics.jsonl, checkpoints/,
artifacts/, result.json, report.html, and status.json: what this room knows about the run's life.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dimwise.errors import RunError, nearest
from dimwise.runs import atomic

Status = Literal["running", "interrupted", "finished", "failed", "unreadable"]

ID_LENGTH = 4
"""Letters of a run's short id; fewer of them name a run too, while only one fits."""
_NAME = re.compile(r"(\d{8}-\d{6})-(.+)-([0-9a-f]{4,6})")
_SIGNS = ("status.json", "recipe.toml", "metrics.jsonl", "result.json")
_STALE_S = 120.0  # without news for so long, a run on another machine counts as interrupted


@dataclass(frozen=True)
class RunInfo:
    """One line of the list of runs."""

    name: str
    path: Path
    recipe: str
    status: Status
    """running | interrupted | finished | failed | unreadable (a damaged folder; ``note`` says why)"""
    started: str = ""
    """Local time, as in 2026-01-31 09:15:00."""
    score: float | None = None
    """Test score as a fraction 0 to 1; None until the run is finished."""
    score_name: str = ""
    seconds: float | None = None
    """Wall time of the run so far, all stages together."""
    size_bytes: int = 0
    note: str = ""


def create(runs_dir: str | os.PathLike[str], name: str) -> Path:
    """Make the folder of a new run, with checkpoints/ and artifacts/ inside, marked as running.

    Args:
        runs_dir: where runs are kept; made when it is not there.
        name: of the recipe; characters that do not belong in a file name become '-'.

    Returns: the new folder, ``runs_dir/<YYYYmmdd-HHMMSS>-<name>-<4 hex digits>``.

    Raises:
        RunError: when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> run = create(tempfile.mkdtemp(), "digits")
        >>> sorted(p.name for p in run.iterdir())
        ['artifacts', 'checkpoints', 'status.json']
    """
    runs_dir = Path(runs_dir)
    recipe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        while True:
            run = runs_dir / f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe}-{secrets.token_hex(ID_LENGTH // 2)}"
            try:
                run.mkdir()
                break
            except FileExistsError:
                continue
        (run / "checkpoints").mkdir()
        (run / "artifacts").mkdir()
    except OSError as error:
        raise RunError(
            f"runs folder '{runs_dir}' cannot be written: {(error.strerror or str(error)).lower()}",
            next_step="Choose a folder you may write, as in --runs-dir ~/runs.",
        ) from error
    mark(run, "running")
    return run


def mark(run: str | os.PathLike[str], status: Status) -> None:
    """Write down how the run stands: running (by this process), interrupted, finished or failed.

    A run that was killed never gets to say so: one marked as running whose process is gone is listed as
    interrupted. How a run ended is written as well as the disk allows and never raises, so that the error that
    ended it, a full disk perhaps, is the one that is told.

    Raises:
        RunError: when a beginning run cannot be marked as running.
    """
    state: dict[str, Any] = {"status": status, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    if status == "running":
        state |= {"pid": os.getpid(), "born": _born(os.getpid()), "host": socket.gethostname()}
    path = Path(run) / "status.json"
    try:
        atomic.write_json(path, state)
    except RunError:
        if status == "running":
            raise
        # A full disk has no room for a second file, but the first one's own block can still be overwritten.
        with contextlib.suppress(OSError), path.open("r+b") as file:
            file.write(json.dumps(state).encode())
            file.truncate()


def discard(run: str | os.PathLike[str]) -> None:
    """Take back the folder of a run that came to nothing; what cannot be deleted stays, and is listed as it stands."""
    shutil.rmtree(run, ignore_errors=True)


def status(run: str | os.PathLike[str]) -> Status:
    """How a run stands, from its files; "unreadable" when they are damaged."""
    run = Path(run)
    try:
        state = _read_json(run / "status.json")
        result = _read_json(run / "result.json")
    except (OSError, ValueError):
        return "unreadable"
    said = state.get("status")
    if said == "running" and _alive(run, state):
        return "running"
    if said in ("interrupted", "failed"):
        return said  # type: ignore[no-any-return]
    if result:
        parity = result.get("parity")
        failed = isinstance(parity, dict) and parity.get("passed") is False
        return "failed" if failed else "finished"
    return "finished" if said == "finished" else "interrupted"


def refuse_running(run: str | os.PathLike[str]) -> None:
    """Two processes must not write to one run.

    Raises:
        RunError: when a living process works on the run.
    """
    if status(run) == "running":
        raise RunError(f"run '{Path(run).name}' is still running", next_step="Stop it with Ctrl-C first.")


def find(runs_dir: str | os.PathLike[str], key: str | os.PathLike[str]) -> Path:
    """The run folder that a user means.

    Args:
        runs_dir: where runs are kept.
        key: a path, a full name, the beginning of a name, a short id (or its beginning), or "last".

    Raises:
        RunError: when no run or more than one fits; the candidates are named.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> run = create(folder, "digits")
        >>> find(folder, "last") == find(folder, run.name) == find(folder, run.name[-4:]) == run
        True
    """
    runs = _folders(Path(runs_dir))
    word = os.fspath(key).rstrip("/")
    if word == "last":
        if not runs:
            raise _none(runs_dir, word)
        return runs[-1]
    for path in (Path(word), Path(runs_dir) / word):
        if word and path.is_dir() and is_run(path):
            return path
    fitting = [r for r in runs if word and (r.name.startswith(word) or _parts(r)[2].startswith(word))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise _none(runs_dir, word)
    names = ", ".join(r.name for r in fitting[-6:])
    raise RunError(
        f"'{word}' fits {len(fitting)} runs: {names}{', ...' if len(fitting) > 6 else ''}",
        next_step="Give more of the name, or the four letters at its end.",
    )


def _none(runs_dir: str | os.PathLike[str], word: str) -> RunError:
    runs = _folders(Path(runs_dir))
    if not runs:
        return RunError(
            f"no run '{word}': there are no runs in '{os.fspath(runs_dir)}'",
            next_step="Start one with: dimwise run, or name the folder with --runs-dir.",
        )
    names = [r.name for r in runs]
    shown = ", ".join(names[-3:])
    hint = nearest(word, [*names, *(_parts(r)[2] for r in runs), "last"])
    return RunError(
        f"no run '{word}' in '{os.fspath(runs_dir)}' (latest: {shown})",
        next_step=hint or "See: dimwise runs list.",
    )


def is_run(path: Path) -> bool:
    """Whether a folder is a run: by its name, or by what it holds."""
    return bool(_NAME.fullmatch(path.name)) or any((path / sign).is_file() for sign in _SIGNS)


def listing(runs_dir: str | os.PathLike[str]) -> list[RunInfo]:
    """All runs in a folder, oldest first; a damaged one is listed as unreadable and hides no other.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = create(folder, "digits")
        >>> [(info.recipe, info.status, info.score) for info in listing(folder)]
        [('digits', 'running', None)]
    """
    return [info(run) for run in _folders(Path(runs_dir))]


def info(run: Path) -> RunInfo:
    """What the list of runs says about one run; never raises for a damaged one."""
    started, recipe, _ = _parts(run)
    size_bytes = _size_bytes(run)
    try:
        result = _read_json(run / "result.json")
        if not any((run / sign).is_file() for sign in _SIGNS):
            raise ValueError("none of its files is there")
        _read_json(run / "status.json")
        score = result.get("score") or {}
        value = score.get("value")
        return RunInfo(
            name=run.name,
            path=run,
            recipe=recipe or str(result.get("recipe", "")),
            status=status(run),
            started=started,
            score=None if value is None else float(value),
            score_name=str(score.get("name", "")),
            seconds=_seconds(run, result),
            size_bytes=size_bytes,
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return RunInfo(
            name=run.name,
            path=run,
            recipe=recipe,
            status="unreadable",
            started=started,
            size_bytes=size_bytes,
            note=str(error) or type(error).__name__,
        )


def remove(run: str | os.PathLike[str]) -> None:
    """Delete a run folder: it leaves the list first, then the disk.

    Raises:
        RunError: when the folder is no run, is still running, or cannot be deleted.
    """
    run = Path(run)
    if not run.is_dir() or not is_run(run) or run.is_symlink():
        raise RunError(f"'{run}' is not a run folder", next_step="See: dimwise runs list.")
    refuse_running(run)
    gone = run.with_name(f".removed-{run.name}")
    try:
        shutil.rmtree(gone, ignore_errors=True)
        run.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise RunError(f"run '{run}' cannot be removed: {error.strerror or error}") from error


def _folders(runs_dir: Path) -> list[Path]:
    """Run folders, oldest first: names begin with the time; in the same second the folder's own time decides."""
    found = []
    with contextlib.suppress(OSError):
        for path in runs_dir.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith(".") and path.is_dir() and is_run(path):
                    found.append((_NAME.sub(r"\1", path.name), _created_ns(path), path.name, path))
    return [path for *_, path in sorted(found)]


def _created_ns(run: Path) -> int:
    # The sub-folder's time stands still after its making only until the first checkpoint; artifacts/ and
    # checkpoints/ change late, but two runs born in the same second are rare and the order is a courtesy.
    for part in ("artifacts", "checkpoints", "."):
        with contextlib.suppress(OSError):
            return (run / part).stat().st_mtime_ns
    return 0


def _parts(run: Path) -> tuple[str, str, str]:
    """Start time in words, recipe, short id; empty when the folder is named otherwise."""
    match = _NAME.fullmatch(run.name)
    if match is None:
        return "", "", ""
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(match[1], "%Y%m%d-%H%M%S"))
    except ValueError:
        started = ""
    return started, match[2], match[3]


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no file. Raises ValueError naming a damaged file."""
    try:
        value = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: not a JSON object")
    return value


def _seconds(run: Path, result: dict[str, Any]) -> float | None:
    seconds = result.get("seconds")
    if isinstance(seconds, dict):
        return float(sum(seconds.values()))
    if seconds is not None:
        return float(seconds)
    with contextlib.suppress(OSError), (run / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))  # the time so far is in the last whole line
        for line in reversed(file.read().split(b"\n")):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return float(json.loads(line)["t"])
    return None


def _size_bytes(run: Path) -> int:
    total = 0
    for folder, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  # paths by the thousand
    return total


def _born(pid: int) -> float | None:
    """When a process started: with its number it says which process is meant, after numbers were reused."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _alive(run: Path, state: dict[str, Any]) -> bool:
    if state.get("host") == socket.gethostname():
        born = _born(int(state.get("pid") or 0))
        return born is not None and abs(born - float(state.get("born") or 0)) < 1
    try:  # a copied folder, or a shared disk: only its age speaks
        return time.time() - (run / "metrics.jsonl").stat().st_mtime < _STALE_S
    except OSError:
        return False
