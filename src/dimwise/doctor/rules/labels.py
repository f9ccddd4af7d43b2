"""Rules of the family 'data' about labels: their order, their balance, whether the inputs say anything about them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import BatchesSeen, LoaderSeen, Seen

FEW_BATCHES = 5
"""Batches before their order is judged."""
FEW_LABELS = 0.6
"""Distinct labels per batch, over what drawing at random gives, at which rows follow their label. Random batches
scatter by a few percent; two sorted classes give a half."""
FEW_CHANGES = 0.5
"""Label changes between neighbouring rows, over what drawing at random gives; both must be low."""
SORTED = 0.2
"""... at which it is an error."""
PURE = 2.0
"""Distinct labels per batch up to which an unknown sampler is taken for a sorted list; samplers that draw several
classes on purpose (metric learning, few-shot episodes) hold more."""
ONE_LABEL_ROWS = 200
"""Rows of one label only, from an unshuffled loader, before that is said: with one row in fifty of another class
none comes up in 200 with probability 0.02."""
KNN_ROWS = 200
"""Rows for the nearest-neighbour test: its standard error is then below 4 points."""
KNN_CHANCE = 2.0
"""Standard deviations above chance below which neighbours say nothing about the label."""
LONG_STEPS = 100
"""Steps after which a loss that is still at the entropy of the labels is a warning; a hint from :data:`SOME_STEPS`."""
SOME_STEPS = 20
NO_GAIN = 0.97
"""Training loss over the entropy of the labels above which nothing was learnt."""
RARE = 10.0
"""Rows of the most frequent class for one of the rarest: accuracy then hides the rare class."""
COUNTED = 20
"""Rows per class on average before classes are compared."""


def no_shuffle(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Training rows come in the order of their labels.

    Checked: distinct labels per batch and label changes between neighbours, both against drawing at random with the
    labels' frequencies (uniform ones while only one label came up). Must not hit: shuffled loaders, batches that are
    sorted inside but hold all classes, samplers that draw a few classes at a time, real and fake batches in turn,
    regression (a time series), one batch again and again.
    """
    groups = [b for b in seen.train_batches() if b.label_dims == 1 and len(b.classes_per_batch) >= FEW_BATCHES]
    if not groups:
        return NotChecked("no-shuffle", f"fewer than {FEW_BATCHES} training batches with one label a row were seen")
    return (f for b in groups if (f := _order_of(seen, b)))


def _loader_of(seen: Seen) -> LoaderSeen | None:
    """The training loader, when there is exactly one kind of order among those that train."""
    loaders = [x for x in seen.loaders.values() if x.trains]
    return loaders[0] if loaders and len({x.shuffle for x in loaders}) == 1 else None


def _expected(batches: BatchesSeen) -> tuple[float, float]:
    """(distinct labels per batch, changes per pair) when drawn at random."""
    counts = [c for c in batches.label_counts.values() if c > 0]
    if len(counts) < 2:
        counts = [1] * (batches.n_classes or 1)
    total = sum(counts)
    shares = [c / total for c in counts]
    rows = reading.typical(n for _, n in batches.classes_per_batch)
    return sum(1 - (1 - p) ** rows for p in shares), 1 - sum(p * p for p in shares)


def _alternates(batches: BatchesSeen) -> bool:
    """Whether batches of one label each take turns, as real and fake ones do."""
    runs = sum(a != b for a, b in zip(batches.batch_labels, batches.batch_labels[1:], strict=False))
    return 2 * runs >= len(batches.batch_labels) - 1 > 0


def _order_of(seen: Seen, batches: BatchesSeen) -> Finding | None:
    loader = _loader_of(seen)
    shuffled = loader.shuffle if loader else None
    labels = [k for k, c in batches.label_counts.items() if c > 0]
    distinct = sum(d for d, _ in batches.classes_per_batch) / len(batches.classes_per_batch)
    if shuffled or (batches.n_classes or 0) < 2 or reading.typical(n for _, n in batches.classes_per_batch) < 4:
        return None
    if 2 * batches.n_identical >= batches.n_batches or not batches.label_pairs:
        return None
    if shuffled is None and (distinct > PURE or len(labels) < 2 or not batches.batch_labels or _alternates(batches)):
        return None
    if len(labels) < 2 and (batches.weighted_loss or sum(batches.label_counts.values()) < ONE_LABEL_ROWS):
        return None
    expected_distinct, expected_changes = _expected(batches)
    changes = batches.label_changes / batches.label_pairs
    if distinct > FEW_LABELS * expected_distinct or changes > FEW_CHANGES * expected_changes:
        return None
    sure = len(labels) >= 2 and changes <= SORTED * expected_changes
    return Finding(
        "no-shuffle",
        "error" if sure else "warning",
        "training rows come in the order of their labels",
        f"{len(batches.classes_per_batch)} batches held {distinct:.2f} distinct labels on average, at random "
        f"{expected_distinct:.2f}; the label changed between {_changes_of(batches)} of neighbouring rows, at random "
        f"{reading.percent(expected_changes)}" + (f"; the loader's sampler is {loader.sampler}" if loader else ""),
        "DataLoader(dataset, batch_size, shuffle=True)"
        if loader
        else "order = torch.randperm(len(x)) at the start of each epoch; batches of x[order], y[order]",
        place=loader.place if loader else batches.place,
        step=0,
        cure={"kind": "shuffle"},
    )


def _changes_of(batches: BatchesSeen) -> str:
    """Label changes among neighbouring rows in percent."""
    return reading.percent(batches.label_changes / batches.label_pairs)


def labels_carry_no_signal(seen: Seen) -> Iterator[Finding] | NotChecked:
    """The inputs say nothing about the labels: shuffled apart, or read from the wrong column.

    Checked, all of it: nearest neighbours among at least :data:`KNN_ROWS` kept rows do no better than chance; and the
    training loss has not come below the entropy of the labels after :data:`LONG_STEPS` steps (a hint from
    :data:`SOME_STEPS`), or it has but the validation loss has not (learnt by heart). Must not hit: hard tasks that
    the network does learn though neighbours do not, policies (labels are sampled actions), contrastive pairs, tokens,
    weighted losses (their value is no entropy), checks on one batch, adversaries.
    """
    groups = [b for b in seen.train_batches() if b.label_dims == 1 and b.floating and b.knn]
    groups = [b for b in groups if b.knn and b.knn.get("n", 0) >= KNN_ROWS]
    if not groups or seen.n_steps < SOME_STEPS:
        return NotChecked(
            "labels-carry-no-signal", f"fewer than {KNN_ROWS} numeric rows with one label each or {SOME_STEPS} steps"
        )
    return (f for b in groups if (f := _signal_of(seen, b)))


def _judges(batches: BatchesSeen) -> bool:
    """Whether data and what another network made are fed to it in turn: its labels say who made a row, and what was
    made is called false for one of the two networks and true for the other."""
    return 0 < batches.n_made < batches.n_batches


def _comparable(seen: Seen, batches: BatchesSeen) -> bool:
    """Whether the loss that these met is the plain mean over rows with fixed labels."""
    losses = [x for x in seen.losses if x.root in (None, batches.root)]
    odd = any(x.weighted or x.reduction != "mean" or reading.pair_like(x) for x in losses)
    return not odd and not batches.weighted_loss


def _beats_chance(knn: dict[str, float]) -> bool:
    """Whether neighbours know more than the commonest label, which a vote among them names by itself."""
    level = max(knn["chance"], knn.get("majority", 0.0))
    spread = math.sqrt(max(level * (1 - level), 1e-12) / knn["n"])
    return knn["accuracy"] >= level + KNN_CHANCE * spread


def _signal_of(seen: Seen, batches: BatchesSeen) -> Finding | None:
    knn = batches.knn or {}
    prior = reading.entropy(batches.label_counts.values())
    losses = [v for _, v, root in seen.loss_history if root in (None, batches.root) and math.isfinite(v)]
    if (
        _beats_chance(knn)
        or _judges(batches)
        or not _comparable(seen, batches)
        or not prior
        or len(losses) < SOME_STEPS
    ):
        return None
    now = reading.typical(losses[-SOME_STEPS:])
    held_out = [v for e in seen.eval_batches() if e.root == batches.root for v in e.loss_first]
    by_heart = len(held_out) >= FEW_BATCHES and reading.typical(held_out) >= prior and now < NO_GAIN * prior
    if now < NO_GAIN * prior and not by_heart:
        return None
    validation = f", the validation loss {reading.typical(held_out):.3f}" if by_heart else ""
    return Finding(
        "labels-carry-no-signal",
        "warning" if seen.n_steps >= LONG_STEPS else "hint",
        "the inputs say nothing about the labels",
        f"nearest neighbours of {knn['n']:.0f} rows agree in {reading.percent(knn['accuracy'])} of cases, chance "
        f"{reading.percent(knn['chance'])} ({knn['z']:.1f} standard deviations); after {seen.n_steps} steps the "
        f"training loss is {now:.3f}{validation}, knowing only the labels' frequencies gives {prior:.3f}",
        "look at rows with their labels; shuffle inputs and labels with one permutation: x, y = x[order], y[order]",
        place=batches.place,
        step=seen.n_steps,
    )


def class_imbalance(seen: Seen) -> Iterator[Finding] | NotChecked:
    """One class is far more frequent than another, and the loss does not know. A hint.

    Checked: rows of the most frequent over rows of the rarest class seen, from :data:`COUNTED` rows a class. Must not
    hit: weighted losses, balancing samplers (the batches are counted, not the set), vocabularies, segmentation, rows in
    the order of their labels (only part of them was seen), sampled actions.
    """
    groups = [b for b in seen.train_batches() if b.label_dims == 1 and b.floating]
    groups = [b for b in groups if sum(b.label_counts.values()) >= COUNTED * max(2, len(b.label_counts))]
    if not groups:
        return NotChecked("class-imbalance", f"fewer than {COUNTED} rows a class were seen")
    return (f for b in groups if (f := _imbalance_of(seen, b)))


def _imbalance_of(seen: Seen, batches: BatchesSeen) -> Finding | None:
    counts = {k: c for k, c in sorted(batches.label_counts.items()) if c > 0}
    losses = [x for x in seen.losses if x.root in (None, batches.root)]
    aware = batches.weighted_loss or any(x.weighted or x.reduction == "none" for x in losses)
    in_order = bool(batches.label_pairs) and _order_of(seen, batches) is not None
    if aware or in_order or len(counts) < 2 or max(counts.values()) < RARE * min(counts.values()):
        return None
    total, n = sum(counts.values()), len(counts)
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    weights = ", ".join(f"{total / (n * c):.3g}" for c in counts.values())
    weight = f"torch.tensor([{weights}])" if n <= 10 else "total / (n_classes * counts)"
    return Finding(
        "class-imbalance",
        "hint",
        "one class is far more frequent than another",
        f"{total} training rows: label {most} {counts[most]} times, label {least} {counts[least]} times "
        f"({counts[most] / counts[least]:.0f} to 1); always saying {most} scores "
        f"{reading.percent(counts[most] / total)}",
        f"F.cross_entropy(output, target, weight={weight}), or a WeightedRandomSampler; report recall for each class",
        place=batches.place,
    )
