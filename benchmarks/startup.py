"""Whole processes: ``dimwise --help`` and ``dimwise predict`` on one image."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _record import Record, wait_until_quiet
from PIL import Image
from sklearn.datasets import load_digits

from dimwise import chain, ship
from dimwise.chain.start import build
from dimwise.data import load as load_data

RUNS = 11


def main() -> None:
    record = Record("startup", "python benchmarks/startup.py", "whole processes, as a user starts them")
    dimwise = str(Path(sys.executable).with_name("dimwise"))
    with tempfile.TemporaryDirectory() as folder:
        artifact, image = Path(folder) / "artifact", Path(folder) / "digit.png"
        recipe = chain.load("digits")
        data = load_data(recipe.data)
        ship.to_onnx(build(recipe, data, None), data, artifact)
        Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save(image)
        commands = {
            "dimwise --help": [dimwise, "--help"],
            "dimwise predict, one image": [dimwise, "predict", str(artifact), str(image)],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        for command in commands.values():
            subprocess.run(command, check=True, capture_output=True)
        busy = wait_until_quiet()
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times[name].append(time.perf_counter() - start)
    medians = {name: record.runs(name, values, "s") for name, values in times.items()}
    for name, limit in (("dimwise --help", 0.3), ("dimwise predict, one image", 0.6)):
        record.target(f"{name}, whole process", f"≤ {limit} s", f"{medians[name]:.2f} s", medians[name] <= limit)
    if busy:
        record.notes.append(busy)
    print(record.write())


if __name__ == "__main__":
    main()
