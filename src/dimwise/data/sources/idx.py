"""MNIST and Fashion-MNIST in the idx format, gzipped or not, in our folders or in those of other libraries.

An idx file is: two zero bytes, a type code (8 = unsigned byte), the number of dimensions, each dimension as a
big-endian 32-bit number, then the values. Source: LeCun, Cortes, Burges, the MNIST page.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimwise.data.assemble import Raw, assemble, image_reading, require_task
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data
from dimwise.errors import DataError
from dimwise.progress import Progress

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)  # fmt: skip
FOLDERS = {
    "mnist": ("mnist", "mnist/raw", "MNIST/raw", "MNIST", "."),
    "fashion": ("fashion_mnist", "fashion-mnist", "fashion", "FashionMNIST/raw", "FashionMNIST", "."),
}
# Both sets use the same file names; the first training labels tell them apart.
_FIRST = {"mnist": [5, 0, 4, 1, 9, 2, 1, 3], "fashion": [9, 0, 0, 3, 0, 2, 7, 2]}
_PARTS = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}


def read_mnist(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """MNIST: 60,000 + 10,000 handwritten digits, uint8 (N, 1, 28, 28)."""
    return _read("mnist", [str(digit) for digit in range(10)], config, data_dir, progress)


def read_fashion(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes, uint8 (N, 1, 28, 28).

    Source: Xiao, Rasul, Vollgraf 2017.
    """
    return _read("fashion", FASHION, config, data_dir, progress)


def find(name: str, data_dir: Path) -> Path | None:
    """The first known folder under ``data_dir`` that holds all four files."""
    for folder in FOLDERS[name]:
        candidate = data_dir / folder
        if all(file_in(candidate, stem) for pair in _PARTS.values() for stem in pair):
            return candidate
    return None


def file_in(folder: Path, stem: str) -> Path | None:
    """``train-images`` -> its file in ``folder``, whichever of the four usual spellings it has."""
    kind = "idx3-ubyte" if stem.endswith("images") else "idx1-ubyte"
    names = (f"{stem}{mark}{kind}{end}" for mark in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(
    name: str, labels: tuple[str, ...] | list[str], config: DataConfig, data_dir: Path, progress: Progress
) -> Data:
    require_task(config, "classification")
    folder = find(name, data_dir)
    if folder is None:
        from dimwise.data.fetch import fetch

        folder = fetch(name, data_dir, progress=progress)
    train, test = (_read_part(folder, part, len(labels), name) for part in _PARTS)
    other = next(key for key in _FIRST if key != name)
    if train[1][:8].tolist() == _FIRST[other]:
        raise DataError(
            f"{folder} holds {other}, not {name}", next_step="Put each set into its own sub-folder of the data folder."
        )
    raw = Raw(name=name, train=train, test=test, labels=labels, reading=image_reading(train[0].shape[1:]))
    return assemble(raw, config)


def _read_part(folder: Path, part: str, n_classes: int, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images_path, labels_path = (file_in(folder, stem) for stem in _PARTS[part])
    if images_path is None or labels_path is None:
        raise DataError(f"{folder} lacks part of {name}", next_step=f"Run: dimwise data fetch {name}")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path.name} holds {len(labels)} labels",
            expected="as many labels as images",
            next_step="Fetch both files again.",
        )
    if len(labels) and labels.max() >= n_classes:
        raise DataError(f"{labels_path} holds the label {labels.max()}", expected=f"labels below {n_classes}")
    return images[:, None], labels.astype(np.int64)  # (N, 1, H, W), (N,)


def read_idx(path: Path, n_dims: int) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes as an array of ``n_dims`` dimensions.

    Args:
        path: the file; gzipped if its name ends in ``.gz``.
        n_dims: 3 for images (N, H, W), 1 for labels (N,).

    Raises:
        DataError: not an idx file of that kind, or shorter or longer than its header says.
    """
    again = "Delete it and fetch it again."
    n_header = 4 + 4 * n_dims
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(n_header)
            magic = bytes((0, 0, 8, n_dims))
            if header[:4] != magic:
                raise DataError(
                    f"{path} begins with the bytes {header[:4].hex(' ') or '(none)'}",
                    expected=f"{magic.hex(' ')}, an idx file of {n_dims} dimension{'s' * (n_dims > 1)}",
                    next_step=again,
                )
            shape = [int(n) for n in np.frombuffer(header[4:].ljust(4 * n_dims, b"\0"), ">u4")]
            n_bytes = math.prod(shape)
            content = file.read(n_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error})", next_step=again) from None
    if len(header) < n_header or len(content) != n_bytes:
        more = "at least " if len(content) > n_bytes else ""
        raise DataError(
            f"{path} holds {more}{len(header) + len(content)} bytes",
            expected=f"{n_header + n_bytes} for the shape {'×'.join(map(str, shape))} in its header",
            next_step=again,
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
