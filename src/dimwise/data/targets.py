"""What is learnt, read off the targets: their task, their classes, their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.data.assemble import shorten
from dimwise.errors import DataError

Array = NDArray[Any]


def infer_task(targets: Array) -> str:
    """The task that targets of this kind usually mean.

    (N,) whole numbers, texts or yes/no: classification; (N,) fractions: regression;
    (N, K) of nothing but 0 and 1: multilabel; other (N, K): regression.

    Example:
        >>> infer_task(np.array([0, 1, 2])), infer_task(np.array([0.5, 1.25])), infer_task(np.eye(3))
        ('classification', 'regression', 'multilabel')
    """
    if targets.ndim == 1:
        return "regression" if targets.dtype.kind == "f" else "classification"
    return "multilabel" if np.isin(targets, (0, 1)).all() else "regression"


def class_indices(
    parts: dict[str, Array], names: Sequence[str] | None, source: str
) -> tuple[dict[str, Array], list[str]]:
    """Targets of any kind to class numbers 0 … K−1, and the K names in that order.

    With ``names``, targets must already be numbers below K. Without, classes are the distinct values of all parts
    in ascending order.

    Raises:
        DataError: a number with no name, or fewer than two classes.

    Example:
        >>> class_indices({"train": np.array(["dog", "cat"])}, None, "pets")
        ({'train': array([1, 0])}, ['cat', 'dog'])
    """
    if names is not None:
        for part, targets in parts.items():
            if targets.dtype.kind not in "iub" or targets.min() < 0 or targets.max() >= len(names):
                raise DataError(
                    f"{source}: {part} targets are {targets.dtype} from {targets.min()} to {targets.max()}",
                    expected=f"whole numbers from 0 to {len(names) - 1}, one for each of {len(names)} class names",
                )
        return {part: targets.astype(np.int64) for part, targets in parts.items()}, [str(n) for n in names]
    values = np.unique(np.concatenate(list(parts.values())))
    if len(values) < 2:
        raise DataError(f"{source} has the single class {shorten(values)}", expected="at least two classes")
    found = {part: np.searchsorted(values, targets).astype(np.int64) for part, targets in parts.items()}
    return found, [_name(value) for value in values]


def _name(value: Any) -> str:
    whole = isinstance(value, np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def columns(parts: dict[str, Array], task: str, source: str) -> dict[str, Array]:
    """Targets of multi-label or regression as float32 (N, K).

    Raises:
        DataError: values that are not numbers, not finite, or (multi-label) not 0 or 1.

    Example:
        >>> columns({"train": np.array([1.5, 2.0])}, "regression", "prices")["train"].shape
        (2, 1)
    """
    made = {}
    for part, targets in parts.items():
        if targets.dtype.kind not in "iubf":
            raise DataError(f"{source}: {part} targets are {targets.dtype}", expected=f"numbers, for {task}")
        values = targets.astype(np.float32).reshape(len(targets), -1)
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
            raise DataError(
                f"{source}: {part} targets are NaN or infinite in row {shorten(rows)}",
                expected="a number in each row",
            )
        if task == "multilabel" and not np.isin(values, (0, 1)).all():
            odd = values[~np.isin(values, (0, 1))][0]
            raise DataError(f"{source}: {part} targets hold {odd}", expected="0 or 1, for multilabel")
        made[part] = values
    return made
