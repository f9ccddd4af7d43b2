"""The 1797 handwritten digits that scikit-learn carries: 8×8 grey images, real, nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dimwise.data.assemble import Raw, assemble, image_reading, require_task
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data
from dimwise.progress import Progress


def read(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """Digits as uint8 (N, 1, 8, 8), their 17 grey levels (0 to 16) spread over 0 to 255.

    Source: Kaynak 1995, UCI "Optical recognition of handwritten digits", the test part.
    """
    from sklearn.datasets import load_digits

    require_task(config, "classification")
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    raw = Raw(
        name="digits",
        train=(images, found.target.astype(np.int64)),
        labels=[str(digit) for digit in range(10)],
        reading=image_reading((1, 8, 8)),
    )
    return assemble(raw, config)
