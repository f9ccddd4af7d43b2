"""Your own arrays in one ``.npz``: x_train, y_train, … or inputs, targets; never with Python objects inside."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.data.assemble import Raw, assemble, image_reading, named_path, require_task
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data
from dimwise.data.targets import class_indices, columns, infer_task
from dimwise.errors import DataError
from dimwise.progress import Progress

Array = NDArray[Any]

_PARTS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
_INPUTS = ("x", "X", "inputs", "images", "data")
_TARGETS = ("y", "Y", "targets", "labels", "target", "label")
_NAMES = ("class_names", "label_names", "names")
_CHANNELS = (1, 3, 4)


def read(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """Arrays from ``data.path``: uint8 images (N, H, W[, C]) or (N, C, H, W), anything else as float32 (N, F...).

    Keys: ``x_train, y_train`` and, as far as there are any, ``x_valid, y_valid, x_test, y_test`` (``train_images``,
    ``val_labels`` and the like are understood), or ``inputs, targets`` (``x, y``) to be split by us;
    ``class_names`` names the classes.
    """
    require_task(config, "classification", "multilabel", "regression")
    path = named_path(config, data_dir)
    parts, names = read_parts(path)
    targets = {part: y for part, (_, y) in parts.items()}
    task: str = config.task
    notes = []
    if task == "auto":
        task = infer_task(targets["train"])
        notes.append(f"task {task}, from targets {targets['train'].dtype} {targets['train'].shape}")
    if task == "classification":
        targets, labels = class_indices({k: _flat(y, k, path) for k, y in targets.items()}, names, str(path))
    else:
        targets = columns(targets, task, str(path))
        n_outputs = targets["train"].shape[1]
        labels = list(names) if names is not None else [f"y{i}" for i in range(n_outputs)]
        if any(y.shape[1] != len(labels) for y in targets.values()):
            raise DataError(f"{path} has {n_outputs} target columns", expected=f"{len(labels)}, as many as names")
    pairs = {part: (x, targets[part]) for part, (x, _) in parts.items()}
    shape = pairs["train"][0].shape[1:]
    is_image = pairs["train"][0].dtype == np.uint8 and len(shape) == 3
    raw = Raw(
        name=path.stem,
        train=pairs["train"],
        valid=pairs.get("valid"),
        test=pairs.get("test"),
        labels=labels,
        task=task,
        reading=image_reading(shape) if is_image else {"kind": "array", "shape": list(shape)},
        notes=tuple(notes),
    )
    return assemble(raw, config)


def _flat(targets: Array, part: str, path: Path) -> Array:
    if targets.ndim == 2 and targets.shape[1] == 1:
        return targets[:, 0]
    if targets.ndim != 1:
        raise DataError(f"{path}: {part} targets have shape {targets.shape}", expected="(N,) for classification")
    return targets


def arrays(path: Path) -> dict[str, Array]:
    """Every array of an ``.npz``, by name.

    Raises:
        DataError: not an ``.npz``, damaged, or with Python objects inside.
    """
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise DataError(f"{path} is a single array", expected="an .npz, as numpy.savez writes")
            return {key: found[key] for key in found.files}
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Object arrays" not in str(error):
            raise DataError(f"{path} cannot be read ({error})", expected="an .npz, as numpy.savez writes") from None
        raise DataError(
            f"{path} is not an .npz of plain arrays: it holds Python objects or something else",
            expected="arrays of numbers or texts",
            next_step="Save it again with numpy.savez and without object arrays.",
        ) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="an .npz, as numpy.savez writes") from None


def read_parts(path: Path) -> tuple[dict[str, tuple[Array, Array]], Sequence[str] | None]:
    """(inputs, targets) of each part, the inputs in their final shape and type, and the class names if any."""
    found = arrays(path)
    parts = {}
    for part, words in _PARTS.items():
        x, y = _key(found, _INPUTS, words), _key(found, _TARGETS, words)
        if x and y:
            parts[part] = _pair(found[x], found[y], f"{path} {x}", f"{path} {y}")
    if "train" not in parts:
        x, y = (next((k for k in keys if k in found), None) for keys in (_INPUTS, _TARGETS))
        if parts or not x or not y:
            raise DataError(
                f"{path} holds {', '.join(sorted(found)) or 'nothing'}",
                expected="x_train and y_train (x_valid, y_valid, x_test, y_test), or inputs and targets",
            )
        parts["train"] = _pair(found[x], found[y], f"{path} {x}", f"{path} {y}")
    kinds = {part: f"{x.dtype} (N, {', '.join(map(str, x.shape[1:]))})" for part, (x, _) in parts.items()}
    if len(set(kinds.values())) > 1:
        differing = "; ".join(f"{part} {kind}" for part, kind in kinds.items())
        raise DataError(f"{path} has inputs of different kinds: {differing}", expected="one type and shape in all")
    names = next((found[key] for key in _NAMES if key in found), None)
    return parts, None if names is None else [str(name) for name in names]


def _key(found: dict[str, Array], words: Sequence[str], parts: Sequence[str]) -> str | None:
    pairs = [(word, part) for word in words for part in parts]
    spellings = [spelling for word, part in pairs for spelling in (f"{word}_{part}", f"{part}_{word}")]
    return next((key for key in spellings if key in found), None)


def _pair(inputs: Array, targets: Array, x_name: str, y_name: str) -> tuple[Array, Array]:
    if inputs.ndim == 0 or len(inputs) == 0:
        raise DataError(f"{x_name} is empty, shape {inputs.shape}", expected="at least one sample")
    if targets.ndim == 0 or len(inputs) != len(targets):
        raise DataError(
            f"{x_name} has shape {inputs.shape} but {y_name} has {targets.shape}", expected="as many targets as inputs"
        )
    return _inputs(inputs, x_name), targets


def _inputs(inputs: Array, name: str) -> Array:
    if inputs.dtype.kind not in "uifb":
        raise DataError(f"{name} has type {inputs.dtype}", expected="numbers")
    if inputs.ndim == 1:
        inputs = inputs[:, None]
    if inputs.dtype == np.uint8 and inputs.ndim == 3:
        return inputs[:, None]  # (N, 1, H, W)
    if inputs.ndim == 4 and _channels_last(inputs.shape):
        inputs = inputs.transpose(0, 3, 1, 2)
    if inputs.dtype == np.uint8 and inputs.ndim == 4:
        return np.ascontiguousarray(inputs)
    made = inputs.astype(np.float32)
    finite = np.isfinite(made)
    if not finite.all():
        rows = np.flatnonzero(~finite.reshape(len(made), -1).all(axis=1))
        raise DataError(
            f"{name} holds {int((~finite).sum())} values that are NaN or infinite, first in row {rows[0]}",
            expected="finite numbers",
            next_step="Fill them or drop those rows.",
        )
    return made


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Of the two places where 1, 3 or 4 channels may stand, the one that looks like channels."""
    if shape[1] in _CHANNELS and shape[3] in _CHANNELS:
        return shape[3] < shape[1]
    return shape[3] in _CHANNELS
