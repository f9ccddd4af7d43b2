"""A folder of pictures, one sub-folder a class; with train/, valid/ and test/ above them if there is a split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from dimwise.data.assemble import Array, Raw, assemble, image_reading, named_path, require_task, shorten
from dimwise.data.config import DataConfig
from dimwise.data.picture import SUFFIXES, look, read_picture
from dimwise.data.sets import Data
from dimwise.errors import DataError
from dimwise.progress import Progress

T = TypeVar("T")

_PARTS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test", "testing")}


def read(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """Pictures below ``data.path`` as uint8 (N, C, H, W), grey only if all of them are.

    Classes are the sub-folders in the order of their names. All pictures get one size: ``data.image_size``, or that
    of the first one.

    Raises:
        DataError: no folder, no pictures, one class only, or (unless ``skip_corrupt``) a file that cannot be read.
    """
    require_task(config, "classification")
    root = named_path(config, data_dir)
    if not root.is_dir():
        raise DataError(f"{root} is a file", expected="a folder with one sub-folder for each class")
    folders = _part_folders(root)
    classes = [folder.name for folder in _subfolders(folders["train"])]
    notes: list[str] = []
    files = {part: _files(folder, classes, notes) for part, folder in folders.items()}
    if len(classes) < 2 or not files["train"]:
        raise DataError(
            f"{folders['train']} has {len(classes)} sub-folders with {len(files['train'])} pictures",
            expected="at least two sub-folders, one for each class, with pictures inside",
            next_step=f"Known endings: {', '.join(sorted(SUFFIXES))}.",
        )
    files, shape = _look(files, config, progress, notes)
    pairs = {part: _pixels(found, shape, config, progress, notes) for part, found in files.items()}
    raw = Raw(
        name=root.name,
        train=pairs["train"],
        valid=pairs.get("valid"),
        test=pairs.get("test"),
        labels=[_text(name) for name in classes],
        reading=image_reading(shape),
        notes=tuple(_text(note) for note in notes),
    )
    return assemble(raw, config)


def _text(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 as ``\\xe9``.

    Example:
        >>> _text("c\\udce9t")
        'c\\\\xe9t'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


Files = list[tuple[Path, int]]


def _part_folders(root: Path) -> dict[str, Path]:
    found = {}
    for part, names in _PARTS.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is not None:
            found[part] = folder
    return found if "train" in found else {"train": root}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _files(folder: Path, classes: Sequence[str], notes: list[str]) -> Files:
    """Pictures with their class number, classes in order, names in order."""
    found: Files = []
    n_others = 0
    for child in _subfolders(folder):
        if child.name not in classes:
            raise DataError(
                f"{child} is a class that the training folder does not have", expected=f"one of: {shorten(classes)}"
            )
        for file in sorted(file for file in child.rglob("*") if file.is_file() and not file.name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                found.append((file, classes.index(child.name)))
            else:
                n_others += 1
    if n_others:
        notes.append(f"left out in {folder.name}, for endings that are no picture's: {n_others}")
    return found


def _look(
    files: dict[str, Files], config: DataConfig, progress: Progress, notes: list[str]
) -> tuple[dict[str, Files], tuple[int, int, int]]:
    """Readable files, and the (C, H, W) they will all have; only the heads of the files are read."""
    shapes: list[tuple[int, int, int]] = []
    readable = {}
    for part, found in files.items():
        heads = _each(look, [path for path, _ in found], f"look at {part}", config, progress, notes)
        readable[part] = [file for file, head in zip(found, heads, strict=True) if head is not None]
        shapes += [head for head in heads if head is not None]
    if not readable["train"]:
        raise DataError(f"none of the {len(files['train'])} pictures can be read", expected="whole picture files")
    channels = max(shape[0] for shape in shapes)
    height, width = (config.image_size, config.image_size) if config.image_size else shapes[0][1:]
    n_resized = sum(shape[1:] != (height, width) for shape in shapes)
    if n_resized:
        notes.append(f"{n_resized} of {len(shapes)} pictures resized to {height}×{width}")
    n_bytes = len(shapes) * channels * height * width
    _refuse_too_many(n_bytes, (channels, height, width), len(shapes))
    return readable, (channels, height, width)


def _refuse_too_many(n_bytes: int, shape: tuple[int, int, int], n_pictures: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if n_bytes > free:
        size = "×".join(map(str, shape))
        raise DataError(
            f"{n_pictures} pictures of {size} bytes take {n_bytes / 1e9:.1f} GB",
            expected=f"less than the {free / 1e9:.1f} GB of free memory",
            next_step="Set a smaller data.image_size.",
        )


def _pixels(
    files: Files, shape: tuple[int, int, int], config: DataConfig, progress: Progress, notes: list[str]
) -> tuple[Array, Array]:
    channels, height, width = shape

    def read_one(path: Path) -> Array:
        return read_picture(path, channels=channels, height=height, width=width)

    pictures = _each(read_one, [path for path, _ in files], "read pictures", config, progress, notes)
    kept = [(image, label) for image, (_, label) in zip(pictures, files, strict=True) if image is not None]
    if not kept:
        raise DataError(f"none of the {len(files)} pictures can be read", expected="whole picture files")
    return np.stack([image for image, _ in kept]), np.array([label for _, label in kept], np.int64)


def _each(
    read_one: Callable[[Path], T],
    paths: Sequence[Path],
    title: str,
    config: DataConfig,
    progress: Progress,
    notes: list[str],
) -> list[T | None]:
    """``read_one`` of every path in threads, in order; what cannot be read stops all, or is None and noted."""

    def attempt(path: Path) -> T | DataError:
        try:
            return read_one(path)
        except DataError as error:
            return error

    results: list[T | None] = []
    with (
        progress.stage(title, total=len(paths)) as bar,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for n_done, result in enumerate(pool.map(attempt, paths), 1):
            bar.update(n_done)
            if not isinstance(result, DataError):
                results.append(result)
            elif config.skip_corrupt:
                notes.append(f"skipped: {result.what}")
                results.append(None)
            else:
                pool.shutdown(wait=False, cancel_futures=True)
                raise DataError(
                    result.what, expected=result.expected, next_step="Remove it, or set data.skip_corrupt=true."
                )
    return results
