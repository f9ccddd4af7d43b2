"""The doctor: name the mistake, prove the cure, stay silent on the healthy.

    with dimwise.doctor() as d:
        train(my_model)
    print(d.findings)

On the command line: ``dimwise doctor SCRIPT.py``. Importing this room does not import PyTorch.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Collection
from typing import TYPE_CHECKING

from dimwise.doctor.finding import Finding, NotChecked, Place, Report

if TYPE_CHECKING:
    from dimwise.doctor.session import Session

__all__ = ["Finding", "NotChecked", "Place", "Report", "doctor"]


def doctor(*, ignore: Collection[str] = (), steps: int | None = None) -> Session:
    """Watch the training inside a ``with`` block; :class:`dimwise.doctor.session.Session` has the arguments."""
    from dimwise.doctor.session import Session

    return Session(ignore=ignore, steps=steps)


class _Room(types.ModuleType):
    """The room itself can be called: ``with dimwise.doctor() as d:``."""

    def __call__(self, *, ignore: Collection[str] = (), steps: int | None = None) -> Session:
        """The same as :func:`doctor`."""
        return doctor(ignore=ignore, steps=steps)


sys.modules[__name__].__class__ = _Room
