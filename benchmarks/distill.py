"""A distilled student against the same student trained alone for equal time, on the CIFAR-100 subset.

    python benchmarks/distill.py [--seeds 3] [--work runs/claims/N3] [--quick]
                                [--only teacher|taught|started|alone [SEED]]

The measurement is that of claim N3, and its networks lie in the same folder of work: what is there is not trained
again. With ``--only`` one of them is made and no record is written, so that several processes can share the hours, each
on its own cores; taught and started students need the teacher first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from _record import Record, data_dir

from dimwise.lab.claims import Setup
from dimwise.lab.claims import distillation_keeps as n3
from dimwise.progress import Terminal

ASKED_POINTS = 1.5


def main() -> int:
    told = _arguments().parse_args()
    work = told.work / "quick" if told.quick else told.work
    setup = Setup(work, data_dir(), told.quick, 1 if told.quick else told.seeds, Terminal())
    if told.only:
        return one(setup, told.only)
    measured = n3.measure(setup)
    for row in measured["seeds"]:
        shares = (f"{100 * row[way]['accuracy']:.2f} % {way}" for way in ("taught", "started", "alone"))
        print(f"seed {row['seed']}: {', '.join(shares)}")
    record = recorded(measured)
    print("a quick pass writes no record" if told.quick else record.write())
    return 0


def one(setup: Setup, words: list[str]) -> int:
    """Make one network of the measurement."""
    what, seed = words[0], int(words[1]) if len(words) > 1 else 0
    ways = {"taught": n3.taught, "started": n3.started, "alone": n3.alone}
    if what != "teacher" and what not in ways:
        expected = "'teacher', " + ", ".join(f"'{way} SEED'" for way in ways)
        print(f"--only {what}: expected one of {expected}", file=sys.stderr)
        return 2
    print(n3.teacher(setup)[1] if what == "teacher" else ways[what](setup, seed))
    return 0


def recorded(measured: dict[str, Any]) -> Record:
    """The record, with its target decided."""
    record = Record(
        "distill",
        "python benchmarks/distill.py",
        "ResNet-20 taught by the ResNet-56 whose blocks it starts from, against itself alone for equal time, CIFAR-100",
    )
    rows = measured["seeds"]
    taught = [row["taught"]["accuracy"] for row in rows]
    alone = [row["alone"]["accuracy"] for row in rows]
    started = [row["started"]["accuracy"] for row in rows]
    gains = [100 * (a - b) for a, b in zip(taught, alone, strict=True)]
    record.runs("taught", taught, "fraction")
    record.runs("alone", alone, "fraction")
    record.runs("started alike, not taught", started, "fraction")
    record.runs("gain", gains, "points")
    record.runs("taught_s", [row["taught"]["seconds_s"] for row in rows], "s")
    record.runs("alone_s", [row["alone"]["seconds_s"] for row in rows], "s")
    record.figures |= measured
    mean = statistics.fmean(gains)
    record.target(
        "Distilled ResNet-20 against itself trained alone, equal time, CIFAR-100 subset",
        f"≥ +{ASKED_POINTS} points",
        f"{mean:+.1f} points (mean of {len(gains)} seeds, least {min(gains):+.1f}): "
        f"{100 * statistics.fmean(taught):.1f} against {100 * statistics.fmean(alone):.1f} % "
        f"({100 * statistics.fmean(started):.1f} % from the same start without the teacher)",
        mean >= ASKED_POINTS,
    )
    record.notes.append("Equal time: alone it takes as many epochs more as its steps are shorter (step_ratio).")
    return record


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small pass through all of the code")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/claims/N3"), help="trained networks are kept here")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="one network: teacher, or taught, started, alone with a SEED"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
