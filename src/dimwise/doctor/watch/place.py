"""Which line of the user's own code is running: neither PyTorch's, nor a library's, nor ours."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import CodeType, FrameType

from dimwise.doctor.finding import Place

_PACKAGE = str(Path(__file__).resolve().parents[2])
_GALLERY = str(Path(_PACKAGE) / "lab" / "mistakes")
# "scripts" is where installed commands lie (`dimwise`, `torchrun`): theirs is never the line to change.
_LIBRARIES = tuple(
    {
        str(Path(p)) + "/"
        for k, p in sysconfig.get_paths().items()
        if k in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    }
)

_own: dict[CodeType, bool] = {}
"""Whether a piece of code is the user's; code objects are few and live as long as their module."""


def here(skip: int = 1) -> Place | None:
    """The innermost line of the user's code on the stack; None when there is none."""
    frame: FrameType | None = sys._getframe(skip)
    while frame is not None:
        code = frame.f_code
        own = _own.get(code)
        if own is None:
            own = _own[code] = is_users(code.co_filename)
        if own:
            return Place(code.co_filename, frame.f_lineno, code.co_name if code.co_name != "<module>" else "")
        frame = frame.f_back
    return None


def is_users(file: str) -> bool:
    """Whether a file of that name was written by the user rather than by a library.

    Example:
        >>> import json
        >>> is_users(json.__file__), is_users("train.py"), is_users("<frozen runpy>")
        (False, True, False)
    """
    if file.startswith("<") and not file.startswith("<ipython"):
        return False
    if file.startswith(_PACKAGE):
        return file.startswith(_GALLERY)
    return "site-packages" not in file and "dist-packages" not in file and not file.startswith(_LIBRARIES)
