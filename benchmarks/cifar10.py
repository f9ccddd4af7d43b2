"""CIFAR-10 with a ResNet-20 on two cores: the ``cifar10`` recipe, trained and scored on the whole test set."""

from __future__ import annotations

import sys

from _record import Record, data_dir, wait_until_quiet

from dimwise import chain
from dimwise.chain.start import build
from dimwise.data import load as load_data
from dimwise.progress import Terminal
from dimwise.recipe import as_dict
from dimwise.tasks import get
from dimwise.train import evaluate, fit


def main() -> None:
    record = Record("cifar10", "python benchmarks/cifar10.py", "ResNet-20 on the CIFAR-10 subset (30,000 images)")
    recipe = chain.load("cifar10", sys.argv[1:])
    data = load_data(recipe.data, data_dir())
    task = get(data.task, label_smoothing=recipe.train.label_smoothing)
    busy = wait_until_quiet()
    fitted = fit(build(recipe, data, None), data, task, recipe.train, augment=recipe.augment, progress=Terminal())
    score = evaluate(fitted.model, data.test, data.normalise, task)[1]
    record.runs("seconds", [fitted.seconds], "s")
    record.runs("accuracy", [score], "fraction")
    record.figures |= {"images_per_s": fitted.images_per_s, "arithmetic": fitted.choice.as_dict()}
    record.figures |= {"recipe": as_dict(recipe), "train images": len(data.train), "epochs": fitted.history}
    minutes = fitted.seconds / 60
    record.target(
        "CIFAR-10 subset, ResNet-20",
        "≥ 85 % in ≤ 20 min",
        f"{100 * score:.1f} % in {minutes:.1f} min",
        score >= 0.85 and minutes <= 20,
    )
    if busy:
        record.notes.append(busy)
    print(record.write())


if __name__ == "__main__":
    main()
