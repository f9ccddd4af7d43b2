"""A distilled student against the same student trained alone for equal time, on the CIFAR-100 subset.

    python benchmarks/distill.py [--seeds 3] [--work runs/claims/N3] [--limit-s SECONDS] [--quick]

The teacher and the taught students are those of claim N3 and lie in the same folder of work: what is there is not
trained again, so the measurement can be made in parts. With ``--limit-s`` it stops before the next training once so
many seconds have passed; the same command goes on.

A step that asks the teacher takes longer than one that looks its answers up, as in epochs whose views were seen before.
How much longer is measured first, the steps in turn, and the student that is alone trains so many epochs more, with its
learning rate spread over all of them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _record import Record, data_dir

from dimwise.data.grow import side_frac
from dimwise.fold._teacher import ByIndex, by_asking, by_table, network_teacher
from dimwise.fold.distill import taught_by
from dimwise.lab.claims import Setup, kept
from dimwise.lab.claims import distillation_keeps as n3
from dimwise.progress import Terminal
from dimwise.train.loop import plain_step

ASKED_POINTS = 1.5


def main() -> int:
    told = _arguments().parse_args()
    work = told.work / "quick" if told.quick else told.work
    setup = Setup(work, data_dir(), told.quick, 1 if told.quick else told.seeds, Terminal())
    started = time.monotonic()
    _, teacher = n3.teacher(setup)
    ratio = kept(work, "ratio", {"widths": [n3.TEACHER_WIDTH, n3.STUDENT_WIDTH]}, lambda: step_ratio(setup))
    n_alone = epochs_alone(ratio, n3.epochs(setup), n3.DISTIL.views)
    rows = []
    for seed in range(setup.n_seeds):
        row: dict[str, Any] = {"seed": seed}
        for name, make in (
            ("taught", lambda seed=seed: n3.taught(setup, seed)),
            ("alone", lambda seed=seed: n3.alone(setup, seed, n_alone)),
        ):
            if told.limit_s and time.monotonic() - started > told.limit_s:
                print(f"stopped before '{name}' of seed {seed}; the same command goes on there")
                return 0
            row[name] = make()
            print(f"seed {seed} {name}: {100 * row[name]['accuracy']:.2f} %", flush=True)
        rows.append(row)
    record = recorded(teacher, ratio, n_alone, rows)
    print("a quick pass writes no record" if told.quick else record.write())
    return 0


def epochs_alone(ratio: dict[str, Any], n_epochs: int, views: int) -> int:
    """Epochs of the student alone that take as long as ``n_epochs`` with a teacher who is asked about new views only.

    >>> epochs_alone({"taught": {"median": 1.5}, "looked_up": {"median": 1.0}}, 30, views=0)
    45
    """
    seen: set[tuple[int, float]] = set()
    work = plain = 0.0
    for epoch in range(n_epochs):
        side = side_frac(epoch, n_epochs, n3.AUGMENT.grow_from)  # a step's work grows with the area
        view = (epoch % views if views else epoch, side)
        work += side**2 * ratio["looked_up" if view in seen else "taught"]["median"]
        plain += side**2
        seen.add(view)
    return math.ceil(n_epochs * work / plain)


def step_ratio(setup: Setup, n_pairs: int = 25) -> dict[str, Any]:
    """How much longer a step takes that asks the teacher, or looks its answers up; in turn with a step of the student
    alone, on one batch, at the full size of the images."""
    evidence = n3.looks(setup, 0)
    n_pairs = 3 if setup.quick else n_pairs
    x = evidence.data.normalise(evidence.data.train.inputs[: evidence.train.batch_size])
    x, y = x.to(memory_format=torch.channels_last), evidence.data.train.targets[: len(x)]
    ask = network_teacher(n3.network(setup, n3.TEACHER_WIDTH, 0))
    rows, table = torch.arange(len(x)), ask(x)
    asked = taught_by(by_asking(ask), n3.DISTIL, "classification")
    looked_up = taught_by(by_table(table), n3.DISTIL, "classification")
    by_row = ByIndex(evidence.task, y)
    ways = (
        ("taught", asked, y, evidence.task),
        ("looked_up", looked_up, rows, by_row),
        ("alone", plain_step, y, evidence.task),
    )
    student = n3.network(setup, n3.STUDENT_WIDTH, 0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    times: dict[str, list[float]] = {name: [] for name, *_ in ways}
    for _ in range(n_pairs + 2):
        for name, step, targets, task in ways:
            start = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=not setup.quick):
                loss = step(student, x, targets, task)
            loss.backward()
            optimizer.step()
            times[name].append(time.perf_counter() - start)
    return {name: _quotients(times[name][2:], times["alone"][2:]) for name in ("taught", "looked_up")}


def _quotients(these: list[float], others: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(these, others, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "median": round(statistics.median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "n": len(ratios),
    }


def recorded(teacher: dict[str, Any], ratio: dict[str, Any], n_alone: int, rows: list[dict[str, Any]]) -> Record:
    """The record, with its target decided."""
    record = Record(
        "distill",
        "python benchmarks/distill.py",
        "ResNet-20 taught by one of twice the width, against the same trained alone for equal time, CIFAR-100 subset",
    )
    taught = [row["taught"]["accuracy"] for row in rows]
    alone = [row["alone"]["accuracy"] for row in rows]
    gains = [100 * (a - b) for a, b in zip(taught, alone, strict=True)]
    record.runs("taught", taught, "fraction")
    record.runs("alone", alone, "fraction")
    record.runs("gain", gains, "points")
    record.runs("taught_s", [row["taught"]["seconds_s"] for row in rows], "s")
    record.runs("alone_s", [row["alone"]["seconds_s"] for row in rows], "s")
    record.figures |= {"teacher": teacher, "step_ratio": ratio, "epochs": {"taught": rows[0]["taught"]["epochs"]}}
    record.figures["epochs"]["alone"] = n_alone
    record.figures["seeds"] = rows
    mean = statistics.fmean(gains)
    record.target(
        "Distilled ResNet-20 against itself trained alone, equal time, CIFAR-100 subset",
        f"≥ +{ASKED_POINTS} points",
        f"{mean:+.1f} points (mean of {len(gains)} seeds, least {min(gains):+.1f}): "
        f"{100 * statistics.fmean(taught):.1f} against {100 * statistics.fmean(alone):.1f} %",
        mean >= ASKED_POINTS,
    )
    record.notes.append("Equal time: alone it takes as many epochs more as its steps are shorter (step_ratio).")
    return record


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small pass through all of the code")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/claims/N3"), help="trained networks are kept here")
    parser.add_argument("--limit-s", type=float, default=0.0, help="start no further training after so many seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
