"""Rules of the family 'data' about training against validation: the same preprocessing, different rows."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.rules.trace import at
from dimwise.doctor.seen import BatchesSeen, Seen

ENOUGH_ROWS = 16
"""Rows on either side before their statistics are compared."""
OTHER_SCALE = 1.25
"""Ratio of the spreads of images at which they were prepared differently, if the whole range moved with it. Random
crops, flips and jitter leave the ends of the range where they were; /255, mean and std do not."""
OTHER_SHIFT = 0.5
"""The same for their means, in standard deviations of training."""
ENDS_AGREE = 0.1
"""How well the ends of the range must follow the same map as mean and spread, in units of the range. Added noise
(denoising) and outliers do not."""
ENDS_MOVED = 0.2
"""How far they must have moved."""
OTHER_COLUMNS = 3.0
"""For tables and signals, which have no fixed range: the ratio of spreads or the shift in standard deviations that
at least half of the columns must have. Later stretches of a time series drift by 1 to 2."""
ALIKE = 1.2
"""Ratio of spreads, and distance of means in deviations above 1, up to which all columns are one signal: windows of a
time series. They say the same thing many times over, and a quiet season is narrower than the years before it."""
PART_OF_IT = 10.0
"""... so that evaluation within the range of training must be narrower by this to have been prepared differently."""
FAR_SCALE = 3.0
"""Ratio of the spreads of images from which it is an error: a forgotten /255 or std, no matter of taste."""

FEW_HASHED = 20
"""Evaluated rows before shared ones are counted."""
NATURAL_DUPLICATES = 0.1
"""Fraction of evaluated rows that training may have had: real collections hold a few percent of exact duplicates
(CIFAR-10 tests: below 1 %; tables of a few categories: more, hence :data:`WIDE_ROW`)."""
FEW_BY_PLACE = 0.01
"""Fraction of rows shared by place up to which there is only a hint: an index off by one, no harm to the score."""
WIDE_ROW = 64
"""Numbers in a row from which two equal rows are one example and no chance."""
VARIED = 4
"""Numbers in a row that hardly ever repeat, from which on equal rows are one example even where many are equal (rows
that were copied to balance the classes): four of them agree by chance once in thousands of millions of pairs."""
DISTINCT = 0.9
"""Distinct rows among those of a set below which equal rows are common in it, so that sharing some means nothing."""
ALL_SHARED = 0.95
"""Fraction from which a group is the training set itself: a monitor, when another group is clean."""
LAST_BATCHES, LAST_ROWS = 3, 64
"""At least so many last batches and rows tell the share of new ones; more would reach back into an epoch before."""
ALMOST = 0.85
"""The same where only part of the training set was seen, so that the fraction is an estimate."""
WHOLE = 0.7
"""Rows evaluated over rows trained on from which such a group is the whole training set rather than a part of it."""
OVERFIT_ROWS = 200
"""Distinct training rows below which training on little and looking at it is a check ('overfit one batch')."""


def train_valid_preprocessing_differs(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Evaluation inputs are scaled or shifted differently from training inputs.

    Checked on the first layer's inputs of one network. Images: evaluation is an affine map of training (mean, spread
    and both ends of the range agree on it within :data:`ENDS_AGREE`) that differs by :data:`OTHER_SCALE` or
    :data:`OTHER_SHIFT`. Other inputs: at least half of the columns differ by :data:`OTHER_COLUMNS`. Must not hit:
    augmentation, noise added in training, small validation sets, drift of a time series, its quiet seasons, an agent's
    states.
    """
    pairs = [
        (t, e)
        for t in seen.train_batches()
        for e in seen.eval_batches()
        if t.root == e.root
        and t.floating
        and e.floating
        and min(t.n_rows, e.n_rows) >= ENOUGH_ROWS
        and not t.mutated_inside  # its statistics are those of what the network made of it
    ]
    if not pairs:
        return NotChecked("train-valid-preprocessing-differs", "too few rows of training and evaluation to compare")
    return (f for t, e in pairs if (f := _prepared_differently(t, e)))


def _prepared_differently(t: BatchesSeen, e: BatchesSeen) -> Finding | None:
    if not t.std or not e.std or len(t.shape) != len(e.shape):
        return None
    ratio, shift = e.std / t.std, (e.mean - t.mean) / t.std
    image = len(t.shape) == 3 and min(t.shape[1:]) > 1
    differs = _affine(t, e, ratio, shift) if image else _columns_differ(t, e, ratio, shift)
    if not differs:
        return None
    far = image and max(ratio, 1 / ratio) >= FAR_SCALE
    return Finding(
        "train-valid-preprocessing-differs",
        "error" if far else "warning",
        "evaluation inputs are prepared differently from training inputs",
        f"training: mean {t.mean:.3g}, standard deviation {t.std:.3g}, range {t.low:.3g} to {t.high:.3g}; "
        f"evaluation{at(e.place)}: mean {e.mean:.3g}, standard deviation {e.std:.3g}, range {e.low:.3g} to "
        f"{e.high:.3g}; spread {ratio:.3g} times, shift {shift:.2f} standard deviations",
        "apply the training transform without its random parts to evaluation: the same (x - mean) / std, with the "
        "training rows' mean and std",
        place=e.place,
    )


def _affine(t: BatchesSeen, e: BatchesSeen, ratio: float, shift: float) -> bool:
    offset = e.mean - ratio * t.mean
    width_t, width_e = t.high - t.low, e.high - e.low
    if not width_t or not width_e:
        return False
    miss = max(abs(ratio * t.low + offset - e.low), abs(ratio * t.high + offset - e.high)) / width_e
    moved = (abs(e.low - t.low) + abs(e.high - t.high)) / max(width_t, width_e)
    large = max(ratio, 1 / ratio) >= OTHER_SCALE or abs(shift) >= OTHER_SHIFT
    return large and miss <= ENDS_AGREE and moved >= ENDS_MOVED


def _columns_differ(t: BatchesSeen, e: BatchesSeen, ratio: float, shift: float) -> bool:
    columns = list(zip(t.channel_mean, t.channel_std, e.channel_mean, e.channel_std, strict=False))
    live = [c for c in columns if c[1] > 0 and c[3] > 0]
    each = [(es / ts, (em - tm) / ts) for tm, ts, em, es in live] or [(ratio, shift)]
    within = t.low <= e.low and e.high <= t.high
    enough = PART_OF_IT if within and _one_signal(t) and _one_signal(e) else OTHER_COLUMNS
    return median(max(r, 1 / r, abs(s)) for r, s in each) >= enough


def _one_signal(b: BatchesSeen) -> bool:
    """Whether all columns have the same statistics; also when these are not known column by column."""
    live = [(m, s) for m, s in zip(b.channel_mean, b.channel_std, strict=False) if s > 0]
    if not live:
        return True
    means, spreads = [m for m, _ in live], [s for _, s in live]
    return max(spreads) <= ALIKE * min(spreads) and max(means) - min(means) <= (ALIKE - 1) * median(spreads)


def train_valid_leak(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Rows that are evaluated were trained on.

    Checked: evaluated rows equal to training rows bit by bit, and rows that both datasets take from the same places of
    one base dataset. Part of a set shared (above :data:`NATURAL_DUPLICATES`, any part by place) is an error (a hint if
    it is whole batches, which may be another set that passes the same line); all of it, when nothing else is evaluated,
    an error if it is a piece of the training set, a hint if it is all of it. Must not hit: training rows
    evaluated beside a clean validation set, a training set of which only a part was drawn or watched so far, natural
    duplicates, tables of few categories, checks that overfit a batch, an agent that acts on states and trains on them
    later, other networks (targets, teachers).
    """
    train = {b.root: b for b in sorted(seen.train_batches(), key=lambda b: b.n_hashed)}
    groups = [e for e in seen.eval_batches() if e.root in train]
    groups = [e for e in groups if e.n_hashed >= FEW_HASHED or e.dataset_rows]
    if not groups:
        return NotChecked("train-valid-leak", "no evaluation of the trained network on enough rows was seen")
    taught = [b for b in seen.train_batches() if b.n_hashed >= FEW_HASHED]
    known = {root: _known_frac(seen, b) for root, b in train.items()}
    return (f for e in groups if not _teaches(e, taught) and (f := _leak_in(train[e.root], e, groups, known[e.root])))


def _known_frac(seen: Seen, train: BatchesSeen) -> float:
    """Estimated fraction of the training set whose rows were seen.

    Rows drawn at random bring fewer and fewer new ones: the share of new ones in the last batches is what is still
    unknown. When all of them are new, a first epoch is under way, seen as far as its steps were watched.
    """
    new = n = 0
    for i, (fresh, rows) in enumerate(reversed(train.fresh)):
        if i >= LAST_BATCHES and n >= LAST_ROWS:
            break
        new, n = new + fresh, n + rows
    if 0 < new < n:
        return 1 - new / n
    if n and new == n and seen.n_steps > seen.n_watched_steps > 0:
        return seen.n_watched_steps / seen.n_steps
    return 1.0


def _teaches(e: BatchesSeen, train: list[BatchesSeen]) -> bool:
    """Whether every batch of it went to another network in training as well: a teacher is asked, nothing is scored."""
    return any(b.root != e.root and abs(b.n_batches - e.n_batches) <= 1 and b.n_hashed == e.n_hashed for b in train)


def _by_place(e: BatchesSeen) -> float:
    return e.shared_indices / e.dataset_rows if e.dataset_rows else 0.0


def _by_content(e: BatchesSeen, train: BatchesSeen) -> float:
    """Fraction of its rows that training had, 0 where equal rows say nothing.

    Two rows are equal by chance with probability p, measured within batches, where no row is met twice; a row then has
    an equal among N others with a probability of at most N·p.
    """
    if e.n_hashed < FEW_HASHED or (not e.shape and not e.floating):  # a row of one number of a word is no example
        return 0.0
    rows = min(e.n_distinct_of, e.dataset_rows or e.n_distinct_of)
    had = e.in_train if e.trained_first is None else e.trained_first
    shared = had / e.n_hashed
    pairs = e.row_pairs + train.row_pairs
    expected = train.n_hashed * (e.twin_pairs + train.twin_pairs) / pairs if pairs else 0.0
    repeats = e.n_hashed < DISTINCT * rows or shared < min(ALL_SHARED, expected)
    chance = reading.row_size(e) < WIDE_ROW and e.n_varied < VARIED and repeats
    return 0.0 if chance else shared


def _is_whole(shared: float, known: float) -> bool:
    """Whether as much is shared as of the training set itself would be, of which the fraction ``known`` was seen."""
    return shared >= ALL_SHARED if known == 1.0 else shared >= ALMOST * known


def _mixed_sets(e: BatchesSeen, known: float) -> bool:
    """Whether whole batches are shared and whole batches are not: two sets that pass the same line in turn."""
    parts = [had / n for had, n in e.batch_in_train if n]
    whole = [p for p in parts if _is_whole(p, known)]
    clean = [p for p in parts if p <= NATURAL_DUPLICATES]
    return bool(whole) and bool(clean) and len(whole) + len(clean) == len(parts)


def _leak_in(train: BatchesSeen, e: BatchesSeen, groups: list[BatchesSeen], known: float) -> Finding | None:
    shared = max(_by_place(e), _by_content(e, train))
    if not e.shared_indices and shared < NATURAL_DUPLICATES:
        return None
    sooner_or_later = e.in_train / e.n_hashed if _by_content(e, train) else 0.0  # looked at before it was trained on
    all_shared = max(_by_place(e), sooner_or_later)
    if not _is_whole(all_shared, known):
        by_chance = shared < FEW_BY_PLACE
        mixed = _mixed_sets(e, known) and not e.dataset_rows
        if mixed and e.in_train >= WHOLE * train.n_hashed:
            return None  # the whole training set and a clean one pass the same line in turn
        return _leak(e, shared, "hint" if by_chance or mixed else "error", "part of", mixed=mixed)
    others = [g for g in groups if g is not e and g.root == e.root]
    clean = any(not _is_whole(max(_by_place(g), _by_content(g, train)), known) for g in others)
    if clean or 0 < train.n_hashed < OVERFIT_ROWS:
        return None
    piece = FEW_HASHED <= e.n_hashed < WHOLE * train.n_hashed / known
    return _leak(
        e, all_shared, "error" if piece else "hint", "all of" if piece else "only the training set is evaluated: all of"
    )


def _leak(e: BatchesSeen, shared: float, severity: str, how: str, *, mixed: bool = False) -> Finding:
    told = ["whole batches are shared and whole batches are not"] if mixed else []
    if e.in_train:
        told.append(f"{e.in_train} of {e.n_hashed} evaluated rows{at(e.place)} are equal to training rows")
    if e.shared_indices:
        told.append(f"{e.shared_indices} of {e.dataset_rows} rows come from the same places of the same dataset")
    return Finding(
        "train-valid-leak",
        severity,  # type: ignore[arg-type]
        f"{how} the validation rows were trained on",
        "; ".join(told) + f" ({reading.percent(shared)})",
        "split once, before anything else: train, valid = torch.utils.data.random_split(data, [0.8, 0.2], "
        "torch.Generator().manual_seed(0)), and drop duplicates first",
        place=e.place,
    )
