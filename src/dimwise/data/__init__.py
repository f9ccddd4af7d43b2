"""Room data: a recipe's words in, three splits of tensors out.

Importing this package costs nothing (no torch, no pandas): ``dimwise predict`` reads tables and pictures through
:mod:`dimwise.data.table`, :mod:`dimwise.data.text` and :mod:`dimwise.data.picture` in a process that never loads torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dimwise.lookup import late, resolve
from dimwise.progress import SILENT, Progress

if TYPE_CHECKING:
    from dimwise.data.augment import AugmentConfig as AugmentConfig
    from dimwise.data.config import DataConfig as DataConfig
    from dimwise.data.sets import Data as Data
    from dimwise.data.sets import Normalise as Normalise
    from dimwise.data.sets import Split as Split

# One line a source: read(config: DataConfig, data_dir: Path, progress: Progress) -> Data
SOURCES = {
    "digits": "dimwise.data.sources.digits:read",
    "mnist": "dimwise.data.sources.idx:read_mnist",
    "fashion": "dimwise.data.sources.idx:read_fashion",
    "cifar10": "dimwise.data.sources.cifar:read_cifar10",
    "cifar100": "dimwise.data.sources.cifar:read_cifar100",
    "sst2": "dimwise.data.sources.text:read_sst2",
    "npz": "dimwise.data.sources.npz:read",
    "folder": "dimwise.data.sources.folder:read",
    "csv": "dimwise.data.sources.csv:read",
    "text": "dimwise.data.sources.text:read",
}

_EXPORTS = {
    "AugmentConfig": "dimwise.data.augment",
    "DataConfig": "dimwise.data.config",
    "Data": "dimwise.data.sets",
    "Normalise": "dimwise.data.sets",
    "Split": "dimwise.data.sets",
}
__getattr__ = late(__name__, _EXPORTS)


def load(config: DataConfig, data_dir: Path | None = None, *, progress: Progress = SILENT) -> Data:
    """Read, or first download, what the config names, and split it.

    Args:
        config: the recipe's ``[data]`` part.
        data_dir: folder of data sets; ``None`` means ``DIMWISE_DATA``, else the user's cache folder.
        progress: where downloads and long reads show their bar.

    Raises:
        DataError: what is missing or broken, with its path, and what to do.

    Example:
        >>> from dimwise.data.config import DataConfig
        >>> data = load(DataConfig(source="digits"))
        >>> len(data.train), len(data.valid), len(data.test), data.input_shape, data.n_outputs
        (1258, 180, 359, (1, 8, 8), 10)
    """
    made: Data = resolve(SOURCES[config.source])(config, data_folder(data_dir), progress)
    return made


def data_folder(data_dir: Path | None = None) -> Path:
    """The folder where data sets lie: the argument, else ``DIMWISE_DATA``, else the user's cache folder.

    Example:
        >>> data_folder(Path("sets"))
        PosixPath('sets')
    """
    if data_dir is not None:
        return Path(data_dir)
    named = os.environ.get("DIMWISE_DATA")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dimwise" / "data"
