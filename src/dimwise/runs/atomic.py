"""Files that are whole or not there: a temporary name in the same folder, sync, rename, sync the folder.

Whatever goes wrong before the rename (a full disk, a fault of the device, Ctrl-C), the previous file stays
as it was and the temporary one is removed. A process that is killed can leave a temporary file behind;
:func:`sweep` removes those.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimwise.errors import RunError

_REASONS = {
    errno.ENOSPC: ("disk full", "Free some space, or choose another disk with --runs-dir; {kept}."),
    errno.EDQUOT: ("disk quota used up", "Free some space, or choose another disk with --runs-dir; {kept}."),
    errno.EFBIG: ("file too large for this disk or limit", "Raise the limit (ulimit -f); {kept}."),
    errno.EIO: ("the device reported an I/O error", "Check the disk; {kept}."),
    errno.EACCES: ("permission denied", "Choose a folder you may write, as in --runs-dir ~/runs."),
    errno.EPERM: ("permission denied", "Choose a folder you may write, as in --runs-dir ~/runs."),
    errno.EROFS: ("read-only file system", "Choose a folder you may write, as in --runs-dir ~/runs."),
    errno.ENOENT: ("its folder does not exist", "Was the run removed while it was running?"),
    errno.ENOTDIR: ("a file stands where a folder should be", "Choose another folder with --runs-dir."),
    errno.EEXIST: ("a file stands where a folder should be", "Choose another folder with --runs-dir."),
    errno.EISDIR: ("a folder stands where the file should be", "Remove or rename that folder."),
}


def run_error(path: str | os.PathLike[str], error: OSError, *, kept: str = "") -> RunError:
    """The house's error for an OSError: the path, the reason in words, the next step.

    Example:
        >>> str(run_error("r/last.safetensors", OSError(errno.ENOSPC, "")))  # doctest: +ELLIPSIS
        "cannot write 'r/last.safetensors': disk full. Free some space, ..."
    """
    code = error.errno or 0
    reason, step = _REASONS.get(code, (error.strerror or str(error), ""))
    kept = kept or ("the previous file is intact" if Path(path).is_file() else "nothing else was lost")
    return RunError(f"cannot write '{os.fspath(path)}': {reason}", next_step=step.format(kept=kept))


def temporary(path: str | os.PathLike[str]) -> Path:
    """The temporary name that goes with a final one: same folder, hidden, this process's own.

    Example:
        >>> temporary("a/b.json").parent.name, temporary("a/b.json").name.startswith(".b.json.")
        ('a', True)
    """
    path = Path(path)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; when the body ends well, it takes the final name.

    For libraries that write by name (``safetensors.torch.save_file``, ``onnx.save``).

    Raises:
        RunError: when the file cannot be written; the previous one is intact.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "a.txt") as temp:
        ...     _ = temp.write_text("whole")
        >>> [p.name for p in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    temp = temporary(path)
    try:
        yield temp
        commit(temp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise run_error(path, error) from error
        if _is_disk_full(error):
            raise run_error(path, OSError(errno.ENOSPC, "")) from error
        raise


def _is_disk_full(error: BaseException) -> bool:
    # safetensors wraps Rust's io::Error in its own class: only the text still knows.
    return not isinstance(error, RunError) and "No space left on device" in str(error)


def commit(temp_path: str | os.PathLike[str], final_path: str | os.PathLike[str]) -> None:
    """Bring a file somebody else wrote to the disk and give it its final name.

    Args:
        temp_path: the file, complete and closed, in the same folder as ``final_path``.
        final_path: the name it takes; a file of that name is replaced in one step.

    Raises:
        RunError: when it cannot be done; the previous file is intact and the temporary one removed.
    """
    try:
        _sync(temp_path)
        Path(temp_path).replace(final_path)
        _sync_folder(Path(final_path).parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temp_path).unlink(missing_ok=True)
        raise run_error(final_path, error) from error


def append(path: str | os.PathLike[str], text: str) -> None:
    """Write at the end of a file, in one piece, so that several processes may share it.

    Raises:
        RunError: when it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.jsonl"
        >>> append(path, "1\\n")
        >>> append(path, "2\\n")
        >>> path.read_text()
        '1\\n2\\n'
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise run_error(path, error) from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that is whole or not there.

    Raises:
        RunError: when it cannot be written; the previous file is intact.
    """
    with replacing(path) as temp, temp.open("wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text that is whole or not there; raises as :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON that is whole or not there; NaN and infinity become ``null``.

    Raises:
        RunError: when it cannot be written; the previous file is intact.
        TypeError: for a value JSON has no word for.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def finite(value: Any) -> Any:
    """The value with ``None`` for NaN and infinity, for which JSON has no word.

    Example:
        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove the temporary files that killed processes left in a folder; say how many."""
    stale = [p for p in Path(folder).glob(".*.tmp") if p.is_file()]
    for path in stale:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(stale)


def _sync(path: str | os.PathLike[str]) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and renames there are in the journal
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
