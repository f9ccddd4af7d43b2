"""CIFAR-10 and CIFAR-100 in every form they come in: python and binary archives, WebP sheets, one .npz.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.data.assemble import Raw, assemble, image_reading, require_task
from dimwise.data.config import DataConfig
from dimwise.data.plainpickle import loads
from dimwise.data.sets import Data
from dimwise.errors import DataError
from dimwise.progress import Progress

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_TRAIN, N_TEST, N_PIXELS = 50_000, 10_000, 3 * 32 * 32

Images = NDArray[np.uint8]  # (N, 3, 32, 32)
Pair = tuple[Images, NDArray[np.int64]]


@dataclass(frozen=True)
class Layout:
    """How one of the two sets is laid out by its publisher."""

    title: str
    python_folder: str
    python_train: tuple[str, ...]
    python_test: str
    python_label: str
    python_meta: tuple[str, str]
    binary_folder: str
    binary_train: tuple[str, ...]
    binary_test: str
    binary_names: str
    n_label_bytes: int
    sheet_label: str
    sheet_names: str


LAYOUTS = {
    "cifar10": Layout(
        title="CIFAR-10",
        python_folder="cifar-10-batches-py",
        python_train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        python_test="test_batch",
        python_label="labels",
        python_meta=("batches.meta", "label_names"),
        binary_folder="cifar-10-batches-bin",
        binary_train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        binary_test="test_batch.bin",
        binary_names="batches.meta.txt",
        n_label_bytes=1,
        sheet_label="labels",
        sheet_names="class_names",
    ),
    "cifar100": Layout(
        title="CIFAR-100",
        python_folder="cifar-100-python",
        python_train=("train",),
        python_test="test",
        python_label="fine_labels",
        python_meta=("meta", "fine_label_names"),
        binary_folder="cifar-100-binary",
        binary_train=("train.bin",),
        binary_test="test.bin",
        binary_names="fine_label_names.txt",
        n_label_bytes=2,
        sheet_label="fine",
        sheet_names="fine_names",
    ),
}


def read_cifar10(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """CIFAR-10: 50,000 + 10,000 colour images, 10 classes, uint8 (N, 3, 32, 32)."""
    return _read("cifar10", config, data_dir, progress)


def read_cifar100(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """CIFAR-100: 50,000 + 10,000 colour images, 100 (fine) classes, uint8 (N, 3, 32, 32)."""
    return _read("cifar100", config, data_dir, progress)


def find(name: str, data_dir: Path) -> Path | None:
    """The first folder or file under ``data_dir`` that holds the set in a form we know."""
    found = _find(name, data_dir)
    return found[1] if found else None


def _find(name: str, data_dir: Path) -> tuple[Callable[..., tuple[Pair, Pair, Sequence[str]]], Path] | None:
    layout = LAYOUTS[name]
    for base in (data_dir / name, data_dir / layout.title, data_dir):
        for folder, first, reader in (
            (base / layout.binary_folder, layout.binary_train[0], _binary),
            (base / layout.python_folder, layout.python_train[0], _python),
            (base, layout.binary_train[0], _binary),
            (base, layout.python_train[0], _python),
            (base, "train_000.webp", _sheets),
        ):
            if (folder / first).is_file() and (reader is not _sheets or (folder / "labels.npz").is_file()):
                return reader, folder
        if (base / f"{name}.npz").is_file():
            return _npz, base / f"{name}.npz"
    return None


def _read(name: str, config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    require_task(config, "classification")
    found = _find(name, data_dir)
    if found is None:
        from dimwise.data.fetch import fetch

        found = _find(name, fetch(name, data_dir, progress=progress))
        assert found is not None  # fetch brings the binary layout or raises
    reader, place = found
    train, test, labels = reader(place, LAYOUTS[name], progress)
    notes = []
    for part, (images, _), official in (("training", train, N_TRAIN), ("test", test, N_TEST)):
        if len(images) != official:
            notes.append(f"{len(images)} of the {official} official {part} images")
    for _, targets in (train, test):
        if targets.min() < 0 or targets.max() >= len(labels):
            raise DataError(f"{place} holds the label {targets.max()}", expected=f"labels below {len(labels)}")
    raw = Raw(name=name, train=train, test=test, labels=labels, reading=image_reading((3, 32, 32)), notes=tuple(notes))
    return assemble(raw, config)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path.name} is missing in {path.parent}", next_step="Fetch the set again, or complete the folder."
        ) from None


def _joined(pairs: list[Pair]) -> Pair:
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def _binary(folder: Path, layout: Layout, progress: Progress) -> tuple[Pair, Pair, Sequence[str]]:
    """Records of label byte(s) (for CIFAR-100 coarse, then fine) and 3072 pixels, plane after plane."""

    def part(names: Sequence[str]) -> Pair:
        return _joined([_binary_file(folder / name, layout.n_label_bytes) for name in names])

    names = _content(folder / layout.binary_names).decode("utf-8", "replace").split()
    return part(layout.binary_train), part([layout.binary_test]), names


def _binary_file(path: Path, n_label_bytes: int) -> Pair:
    content = np.frombuffer(_content(path), np.uint8)
    record = n_label_bytes + N_PIXELS
    if not len(content) or len(content) % record:
        raise DataError(
            f"{path} holds {len(content)} bytes", expected=f"a multiple of {record}", next_step="Fetch it again."
        )
    rows = content.reshape(-1, record)
    return rows[:, n_label_bytes:].reshape(-1, 3, 32, 32), rows[:, n_label_bytes - 1].astype(np.int64)


def _python(folder: Path, layout: Layout, progress: Progress) -> tuple[Pair, Pair, Sequence[str]]:
    """Pickled dicts, read without unpickling: data (N, 3072) uint8 and a list of labels."""

    def part(names: Sequence[str]) -> Pair:
        return _joined([_python_file(folder / name, layout.python_label) for name in names])

    file, key = layout.python_meta
    names = _entry(loads(_content(folder / file), str(folder / file)), key, folder / file)
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    return part(layout.python_train), part([layout.python_test]), names


def _python_file(path: Path, label: str) -> Pair:
    batch = loads(_content(path), str(path))
    rows, labels = _entry(batch, "data", path), _entry(batch, label, path)
    images = np.asarray(rows)
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != N_PIXELS or len(images) != len(labels):
        raise DataError(
            f"{path} holds data {images.dtype} {images.shape} and {len(labels)} labels",
            expected=f"uint8 (N, {N_PIXELS}) and N labels",
            next_step="Fetch it again.",
        )
    return images.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _entry(batch: Any, key: str, path: Path) -> Any:
    if not isinstance(batch, dict) or key not in batch:
        raise DataError(f"{path} has no entry {key!r}", next_step="Fetch it again.")
    return batch[key]


def _sheets(folder: Path, layout: Layout, progress: Progress) -> tuple[Pair, Pair, Sequence[str]]:
    """Lossless WebP pictures, each 32 pixels wide with some hundred images below one another."""
    from dimwise.data.sources.npz import arrays

    table = arrays(folder / "labels.npz")
    pairs = []
    for part in ("train", "test"):
        files = sorted(folder.glob(f"{part}_*.webp"))
        sheets = []
        # Decoding releases the interpreter, so threads help.
        with (
            progress.stage(f"read {part}", total=len(files)) as bar,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):
            for n_done, sheet in enumerate(pool.map(_sheet, files), 1):
                sheets.append(sheet)
                bar.update(n_done)
        images = np.concatenate(sheets) if sheets else np.empty((0, 3, 32, 32), np.uint8)
        labels = table[f"{part}_{layout.sheet_label}"].astype(np.int64)
        if len(images) != len(labels):
            raise DataError(
                f"{folder} holds {len(images)} {part} images in {len(files)} sheets",
                expected=f"{len(labels)}, as many as {part}_{layout.sheet_label} in labels.npz",
            )
        pairs.append((images, labels))
    return pairs[0], pairs[1], [str(name) for name in table[layout.sheet_names]]


def _sheet(path: Path) -> Images:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error})", next_step="Bring it again.") from None
    if pixels.shape[1] != 32 or pixels.shape[0] % 32:
        raise DataError(f"{path} is {pixels.shape[1]}×{pixels.shape[0]} pixels", expected="32 wide, rows of 32")
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def _npz(path: Path, layout: Layout, progress: Progress) -> tuple[Pair, Pair, Sequence[str]]:
    """One file with x_train, y_train, x_test, y_test and, if it likes, class_names."""
    from dimwise.data.sources.npz import read_parts

    parts, names = read_parts(path)
    for part in ("train", "test"):
        if part not in parts or parts[part][0].shape[1:] != (3, 32, 32):
            raise DataError(
                f"{path} has no x_{part} of 32×32 colour images", expected="x_train, y_train, x_test, y_test"
            )
    (x, y), (x_test, y_test) = parts["train"], parts["test"]
    if names is None:
        names = CIFAR10 if layout is LAYOUTS["cifar10"] else [str(i) for i in range(100)]
    return (x, y.astype(np.int64)), (x_test, y_test.astype(np.int64)), names
