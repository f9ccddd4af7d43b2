"""What mnist-fast was chosen from: its settings changed one by one, scored on the validation split alone.

python benchmarks/mnist_fast_search.py 0 1 2
"""

from __future__ import annotations

import statistics
import sys
import time

from _record import data_dir

from dimwise import chain
from dimwise.chain.job import build
from dimwise.data import load as load_data
from dimwise.tasks import get
from dimwise.train import fit

CHANGES: dict[str, list[str]] = {
    "as it is": [],
    "no label smoothing": ["train.label_smoothing=0"],
    "label smoothing 0.1": ["train.label_smoothing=0.1"],
    "half the rate": ["train.lr=0.01"],
    "half as much rate again": ["train.lr=0.03"],
    "later peak": ["train.peak_frac=0.4"],
    "averaged weights": ["train.ema=0.97"],
    "batches of 96": ["train.batch_size=96"],
    "batches of 192": ["train.batch_size=192"],
    "half as wide again": ["model.width=1.5"],
}


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or [0, 1, 2]
    data = load_data(chain.load("mnist-fast").data, data_dir())
    for name, changes in CHANGES.items():
        scores, seconds = [], []
        for seed in seeds:
            recipe = chain.load("mnist-fast", [*changes, f"train.seed={seed}"])
            task = get(data.task, label_smoothing=recipe.train.label_smoothing)
            start = time.perf_counter()
            fitted = fit(build(recipe, data, None), data, task, recipe.train, augment=recipe.augment)
            seconds.append(time.perf_counter() - start)
            scores.append(fitted.history[-1]["valid_score"])
        row = f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else scores[0]
        print(f"{name:24} {row}  {statistics.median(seconds):.1f} s", flush=True)


if __name__ == "__main__":
    main()
