"""The data rules alone, before any training: the batches of a run, looked at as the watcher looks at them."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from dimwise.data.batches import TensorBatches
from dimwise.data.sets import Data, Split
from dimwise.doctor.examine import examine
from dimwise.doctor.finding import Finding, NotChecked, Report
from dimwise.doctor.rules import ACROSS, RULES
from dimwise.doctor.seen import RootSeen, Seen
from dimwise.doctor.watch import inputs
from dimwise.doctor.watch.live import Live, LiveRoot, Pass

CHECKED = (
    "unnormalised-input",
    "train-valid-preprocessing-differs",
    "train-valid-leak",
    "no-shuffle",
    "class-imbalance",
    "nan-in-input",
    "constant-input",
)
"""What data alone can tell; every other rule needs a run."""
BATCH = 64
REPEATS = 2.0
"""Times the share of repeated rows within training that validation may share with it; two random halves share as much
as either repeats."""
MOST_ROWS = 65_536
"""Rows of each split that are looked at: as many as the watcher remembers."""


def look(data: Data, *, ignore: Collection[str] = ()) -> tuple[Report, Seen, list[str]]:
    """What the data rules say.

    Args:
        data: what a recipe names, as it would be trained on: normalised, in the shuffled order of the first epoch.
        ignore: slugs of rules that are left out.

    Returns:
        the report, in which all rules that need a run are told as not checked; what was seen; and remarks, such as how
        well nearest neighbours guess the label.

    Example:
        >>> from dimwise.data import load
        >>> from dimwise.data.config import DataConfig
        >>> report, seen, remarks = look(load(DataConfig()))
        >>> [f.rule for f in report.findings if f.severity != "hint"], remarks[0].startswith("1,258 training")
        ([], True)
    """
    seen = see(data)
    rules = {**RULES, **ACROSS}
    report = examine([seen], ignore={slug for slug in rules if slug not in CHECKED} | set(ignore))
    told = [
        n if n.rule in CHECKED or n.rule in ignore else NotChecked(n.rule, "needs a run") for n in report.not_checked
    ]
    findings = [_unless_natural(f, seen) for f in report.findings]
    return replace(report, findings=findings, not_checked=told).sorted(), seen, _remarks(data, seen)


def _unless_natural(finding: Finding, seen: Seen) -> Finding:
    """A table repeats rows by nature: as often within the training rows as between the splits is no leak."""
    if finding.rule != "train-valid-leak":
        return finding
    train = next(seen.train_batches())
    within = 1 - train.n_hashed / max(1, train.n_rows)
    between = max((e.in_train / max(1, e.n_hashed) for e in seen.eval_batches()), default=0.0)
    if between > REPEATS * within:
        return finding
    evidence = f"{finding.evidence}; within the training rows {100 * within:.1f} % repeat as well"
    return replace(finding, severity="hint", title="rows repeat, within the splits as between them", evidence=evidence)


def see(data: Data) -> Seen:
    """The batches of all splits, filed as the watcher files those that enter a network."""
    live = Live()
    reader = nn.Linear(1, 1)
    root = LiveRoot(RootSeen(0, "the network"), weakref.ref(reader), {})
    live.seen.roots[0] = root.seen
    for number, split in enumerate((data.train, data.valid, data.test)):
        if len(split):
            live.loader_now = number
            _fill(live, root, reader, data, split, train=number == 0)
    inputs.conclude(live)
    for batches in live.seen.batches.values():
        batches.place = None  # no line of anybody's made these
    return live.seen


def _fill(live: Live, root: LiveRoot, reader: nn.Module, data: Data, split: Split, *, train: bool) -> None:
    x, y = split.inputs[:MOST_ROWS], split.targets[:MOST_ROWS]
    batches = TensorBatches(x, y, BATCH, seed=0, shuffle=train, prepare=data.normalise)
    n_classes = data.n_outputs if data.task == "classification" else None
    for x_now, y_now in batches.epoch(0):
        made = Pass(0, None, None, len(y_now), training=train, grad=train)
        made.batch = inputs.arrive(live, root, made, x_now)
        inputs.measure(live, made, reader, x_now)
        if n_classes is not None:
            with torch.no_grad():
                inputs.labels(live, made, y_now, n_classes, weighted=False)


def _remarks(data: Data, seen: Seen) -> list[str]:
    """How much there is, and whether similar inputs have the same label."""
    parts = ", ".join(
        f"{len(split):,} {name}"
        for name, split in (("training", data.train), ("validation", data.valid), ("test", data.test))
    )
    remarks = [f"{parts} rows of shape {'×'.join(map(str, data.input_shape))}; {data.n_outputs} outputs ({data.task})"]
    knn = next((b.knn for b in seen.train_batches() if b.knn), None)
    if knn is not None:
        remarks.append(
            f"five nearest neighbours guess the label of {100 * knn['accuracy']:.1f} % of {knn['n']:.0f} rows; "
            f"chance would be {100 * knn['chance']:.1f} %"
        )
    return remarks
