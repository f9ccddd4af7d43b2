"""The last step of every source: split, limit, measure the training split, put it into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimwise.data.config import DataConfig
from dimwise.data.sets import Data, Normalise, Split
from dimwise.data.split import limit, split
from dimwise.errors import DataError

Array = NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Raw:
    """What a source has read: arrays and the words for them.

    ``train`` is (inputs, targets); ``valid`` and ``test`` are ``None`` where the source has no official ones, and
    are then cut from ``train``.
    """

    name: str
    train: Pair
    labels: Sequence[str]
    task: str = "classification"
    valid: Pair | None = None
    test: Pair | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def assemble(raw: Raw, config: DataConfig, *, centred: NDArray[np.bool_] | None = None) -> Data:
    """Raw arrays to :class:`Data`; statistics come from the training split alone.

    Args:
        raw: arrays as read; images uint8 (N, C, H, W), others float32 (N, F...).
        config: fractions, seeds and limits.
        centred: (F,) which features are standardised; ``None`` means all.
    """
    indices = cut(raw.train[1], raw.task, config, has_valid=raw.valid is not None, has_test=raw.test is not None)
    train, valid, test = (take(raw.train, part) for part in indices)
    return finish(raw, (train, raw.valid or valid, raw.test or test), config=config, centred=centred)


def cut(
    targets: Array, task: str, config: DataConfig, *, has_valid: bool, has_test: bool
) -> tuple[Array, Array, Array]:
    """Indices of the three parts of ``targets``, the training part already limited; official parts are not cut."""
    classes = targets if task == "classification" else None
    fractions = (0.0 if has_valid else config.valid_frac, 0.0 if has_test else config.test_frac)
    train, valid, test = split(len(targets), fractions=fractions, seed=config.split_seed, classes=classes)
    if 0 < config.train_limit < len(train):
        of_train = None if classes is None else classes[train]
        kept = limit(config.train_limit, seed=config.split_seed, classes=of_train, n_samples=len(train))
        train = train[kept]
    return train, valid, test


def take(pair: Pair, indices: Array) -> Pair:
    """The chosen rows of inputs and targets."""
    return pair[0][indices], pair[1][indices]


def finish(
    raw: Raw, parts: tuple[Pair, Pair, Pair], *, config: DataConfig, centred: NDArray[np.bool_] | None = None
) -> Data:
    """Three pairs of arrays to :class:`Data`: statistics, standardised regression targets, notes."""
    train, valid, test = parts
    reading, notes = dict(raw.reading), list(raw.notes)
    if config.train_limit and len(train[1]) == config.train_limit:
        notes.append(f"training split limited to {config.train_limit} by data.train_limit")
    if raw.task == "classification":
        notes += _absent(raw.labels, {"training": train[1], "validation": valid[1], "test": test[1]})
    if raw.task == "regression":
        reading["target"] = target = target_statistics(train[1])
        train, valid, test = ((x, standardise(y, target)) for x, y in parts)
    inputs = _tensor(train[0])
    normalise: nn.Module = nn.Identity()
    if reading.get("kind") != "text":
        scale, mean, std = statistics(inputs)
        if centred is not None:
            mean = tuple(m if on else 0.0 for m, on in zip(mean, centred, strict=True))
            std = tuple(s if on else 1.0 for s, on in zip(std, centred, strict=True))
        normalise = Normalise(scale, mean, std)
    return Data(
        name=raw.name,
        train=Split(inputs, _targets(train[1])),
        valid=Split(_tensor(valid[0]), _targets(valid[1])),
        test=Split(_tensor(test[0]), _targets(test[1])),
        labels=tuple(raw.labels),
        normalise=normalise,
        task=raw.task,
        reading=reading,
        notes=tuple(notes),
    )


def _tensor(array: Array, dtype: type | None = None) -> Tensor:
    # Arrays straight from a file's bytes are read-only, which tensors cannot be: those are copied.
    return torch.from_numpy(np.require(array, dtype, ("C_CONTIGUOUS", "WRITEABLE")))


def _targets(targets: Array) -> Tensor:
    return _tensor(targets, np.int64 if targets.ndim == 1 else np.float32)


def _absent(labels: Sequence[str], parts: dict[str, Array]) -> list[str]:
    notes = []
    for name, targets in parts.items():
        counts = np.bincount(targets, minlength=len(labels))
        if len(counts) == len(labels) and not counts.all():
            absent = [labels[i] for i in np.flatnonzero(counts == 0).tolist()]
            notes.append(f"no {name} sample of {len(absent)} of {len(labels)} classes: {shorten(absent)}")
    return notes


def shorten(words: Sequence[object] | Array, n_shown: int = 5) -> str:
    """The first few of many, for a line of text.

    Example:
        >>> shorten([1, 2, 3], 2)
        '1, 2, … (3 in all)'
    """
    shown = ", ".join(str(word) for word in words[:n_shown])
    return shown if len(words) <= n_shown else f"{shown}, … ({len(words)} in all)"


def statistics(inputs: Tensor) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Scale, mean and deviation of each channel (of each feature of a table).

    mean_c = E[s·x_c], std_c = √(E[(s·x_c)²] − mean_c²), over samples and pixels, with s = 1/255 for uint8.
    A channel that does not vary gets std 1, so that nothing is divided by zero.

    Args:
        inputs: (N, C, ...) uint8 or float.

    Returns:
        scale (no unit), mean and std of the scaled values, C numbers each.

    Deviation: bytes are counted in a histogram first, so the sums are exact and no float copy is made.

    Example:
        >>> statistics(torch.tensor([[0.0], [2.0]]))
        (1.0, (1.0,), (1.0,))
    """
    if inputs.dtype == torch.uint8:
        values = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in inputs.unbind(1):
            weight = torch.bincount(channel.reshape(-1), minlength=256).double()
            weight /= weight.sum()
            centre = float(weight @ values)
            mean.append(centre)
            std.append(float(weight @ (values - centre) ** 2) ** 0.5)
        return 1 / 255, tuple(mean), _no_zero(mean, std)
    flat = inputs.flatten(2) if inputs.dim() > 2 else inputs.unsqueeze(2)  # (N, C, P)
    n_values = flat.shape[0] * flat.shape[2]
    centre_C = sum(chunk.double().sum((0, 2)) for chunk in flat.split(1024)) / n_values
    square_C = sum(((chunk - centre_C[:, None]) ** 2).sum((0, 2)) for chunk in flat.split(1024)) / n_values
    mean, std = centre_C.tolist(), square_C.sqrt().tolist()  # type: ignore[union-attr]
    return 1.0, tuple(mean), _no_zero(mean, std)


def _no_zero(mean: Sequence[float], std: Sequence[float]) -> tuple[float, ...]:
    # Below float32's own resolution a deviation is rounding, not variation.
    return tuple(s if s > 1e-7 * abs(m) else 1.0 for m, s in zip(mean, std, strict=True))


def target_statistics(targets: Array) -> dict[str, list[float]]:
    """Mean and deviation of each regression target; 1 where it does not vary.

    Example:
        >>> target_statistics(np.array([[0.0], [2.0]]))
        {'mean': [1.0], 'std': [1.0]}
    """
    mean = targets.mean(axis=0, dtype=np.float64)
    std = targets.std(axis=0, dtype=np.float64)
    return {"mean": mean.tolist(), "std": list(_no_zero(mean.tolist(), std.tolist()))}


def standardise(targets: Array, target: dict[str, list[float]]) -> Array:
    """Targets in units of their deviation: (y − mean) / std; the way back is z·std + mean."""
    scaled = (targets.astype(np.float64) - np.array(target["mean"])) / np.array(target["std"])
    return scaled.astype(np.float32)


def image_reading(shape: tuple[int, ...]) -> dict[str, Any]:
    """How a picture becomes an input, from the (C, H, W) of an input.

    Example:
        >>> image_reading((1, 8, 8))
        {'kind': 'image', 'channels': 1, 'height': 8, 'width': 8}
    """
    channels, height, width = shape
    return {"kind": "image", "channels": channels, "height": height, "width": width}


def require_task(config: DataConfig, *allowed: str) -> None:
    """Refuse a task that the source cannot serve."""
    if config.task != "auto" and config.task not in allowed:
        raise DataError(
            f"data.task is {config.task!r} but source {config.source!r} does not hold such targets",
            expected=" or ".join(("auto", *allowed)),
        )


def named_path(config: DataConfig, data_dir: Path) -> Path:
    """The path that the recipe names, looked up here, then in the data folder."""
    if not config.path:
        raise DataError(
            f"data.path is empty but data.source is {config.source!r}",
            expected="a file or folder",
            next_step="Set data.path=WHERE.",
        )
    given = Path(config.path).expanduser()
    for candidate in (given, data_dir / given):
        if candidate.exists():
            return candidate
    raise DataError(
        f"{config.path} does not exist, neither here ({Path.cwd()}) nor in the data folder {data_dir}",
        next_step="Check data.path.",
    )
