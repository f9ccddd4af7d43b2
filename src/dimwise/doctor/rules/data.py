"""Rules of the family 'data' about the inputs themselves: scale, holes, what is drawn and what writes to them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.rules.trace import at
from dimwise.doctor.seen import BatchesSeen, LayerSeen, LoaderSeen, Seen

LARGE_INPUT = 20.0
"""Root mean square of the inputs at which it is a warning. The first layer's gradient grows with it and its curvature
with its square, 400-fold here, so no learning rate suits that layer and the others. Images in 0..255 have 80 to 150."""
HINT_INPUT = 10.0
"""... and a hint: physical units left as they are commonly reach ±10, which every optimizer copes with."""
LARGE_COLUMN = 50.0
"""The same for one channel or column among tame ones."""
TINY_INPUT = 1e-2
"""Largest absolute input below which nothing of it survives beside the biases. Sparse rows (one-hot, tf-idf) have a
small mean square but entries near 1, hence the largest is asked."""
SOME_BATCHES = 3
"""Batches before scale, constancy or writes are judged: one can be special."""
ONE_TOKEN = 2
"""Different tokens up to which a text says nothing: one for the unknown word, one for padding."""
A_VOCABULARY = 50
"""Entries from which a table is one of words or letters; smaller ones may be flags of which two are in use."""
MANY_ROWS = 100
MOSTLY = 0.5
"""Fraction of the batches that must be constant: a decoder's start symbol or a warm-up call is one among many."""
WRITES = 3
"""Writes before they are told: one may be an allocation that is filled."""
DATA_NAMES = ("image", "data", "input", "feature", "sample", "signal", "tensors", "pixels", "x")
"""Last words of a dataset's attribute that holds the examples; others (orders, weights, caches) may well change."""


def unnormalised_input(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Inputs far from unit scale where they meet the first weights.

    Checked: root mean square of the first layer's inputs over the watched batches, one column at a time too; and
    inputs that are tiny throughout (hint). Must not hit: a norm as first layer or right behind it, a division inside
    the network (it is measured after it), tokens, one-hot, images in 0..1, roughly standardised columns, frozen first
    layers' own preprocessing of that scale, regression targets of any scale.
    """
    groups = [b for b in seen.train_batches() if b.floating and b.n_batches]
    if not groups:
        return NotChecked("unnormalised-input", "no numeric training inputs were seen")
    return (f for b in groups if b.n_batches >= SOME_BATCHES and (f := _scale_of(seen, b)))


def _scale_is_divided_out(seen: Seen, batches: BatchesSeen) -> bool:
    root = seen.roots.get(batches.root) if batches.root is not None else None
    first_two = reading.in_order(root)[:2] if root else []
    if reading.is_norm(batches.first_layer) or any(reading.is_norm(x.kind) for x in first_two[:1]):
        return True
    return len(first_two) == 2 and reading.is_norm(first_two[1].kind) and not _on_a_branch(*first_two)


def _on_a_branch(first: LayerSeen, norm: LayerSeen) -> bool:
    """Whether a norm called second looks at a residual stream, which goes on beside it at its own scale: one over the
    features of a row that does not take the very output of a layer with a bias, as in transformers.
    """
    over_features = "LayerNorm" in norm.kind or "RMSNorm" in norm.kind
    has_bias = first.n_params > math.prod(first.shape)
    return over_features and has_bias and first.bias_feeds is None


def _scale_of(seen: Seen, batches: BatchesSeen) -> Finding | None:
    size = math.hypot(batches.mean, batches.std)
    columns = [math.hypot(m, s) for m, s in zip(batches.channel_mean, batches.channel_std, strict=False)]
    largest = max(columns, default=0.0)
    greatest = max(abs(batches.low), abs(batches.high))
    if not math.isfinite(size) or _scale_is_divided_out(seen, batches):
        return None
    if size > HINT_INPUT or largest >= LARGE_COLUMN:
        warned = size >= LARGE_INPUT or largest >= LARGE_COLUMN
        at = columns.index(largest) if columns and len(columns) > 1 else None
        worst = f"; channel {at} has mean {batches.channel_mean[at]:.4g}" if at is not None else ""
        return Finding(
            "unnormalised-input",
            "warning" if warned else "hint",
            "the inputs are far from unit scale",
            f"{batches.n_rows} training rows: mean {batches.mean:.4g}, standard deviation {batches.std:.4g}, from "
            f"{batches.low:.4g} to {batches.high:.4g} where they enter {batches.first_layer or 'the first layer'}"
            f"{worst}; gradients of the first layer are about {size:.0f} times too large",
            _scaling(batches),
            place=batches.place,
            step=0,
            cure={"kind": "normalise"},
        )
    if 0 < greatest < TINY_INPUT:
        return Finding(
            "unnormalised-input",
            "hint",
            "the inputs are tiny beside the network's biases",
            f"{batches.n_rows} training rows: standard deviation {batches.std:.3g}, none beyond {greatest:.3g} where "
            f"they enter {batches.first_layer or 'the first layer'}",
            _scaling(batches),
            place=batches.place,
            step=0,
            cure={"kind": "normalise"},
        )
    return None


def _scaling(batches: BatchesSeen) -> str:
    if 200 <= batches.high <= 255 and batches.low >= 0 and len(batches.shape) >= 2:
        return f"x = x.float() / 255, or x = (x - {batches.mean:.4g}) / {batches.std:.4g}"
    if len(batches.channel_mean) > 3:
        return "x = (x - mean) / std with the training rows' x.mean(0) and x.std(0), for validation too"
    return f"x = (x - {batches.mean:.4g}) / {batches.std or 1:.4g}, for validation too"


def nan_in_input(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Inputs that hold NaN or infinity.

    Checked: rows of any watched batch. An error once a loss was not finite; a hint while all losses are (a network
    that masks the holes itself is healthy). Must not hit: clean data.
    """
    if not seen.batches:
        return NotChecked("nan-in-input", "no inputs were seen")
    finite = bool(seen.loss_history) and all(math.isfinite(v) for _, v, _ in seen.loss_history)
    return (_holes(b, finite) for b in seen.batches.values() if b.n_nan)


def _holes(batches: BatchesSeen, finite: bool) -> Finding:
    so = "the losses stayed finite, so the network may mask them" if finite else "one of them makes all weights NaN"
    return Finding(
        "nan-in-input",
        "hint" if finite else "error",
        "the inputs hold NaN or infinity",
        f"{batches.n_nan} of {batches.n_rows} watched rows for "
        f"{'training' if batches.purpose == 'train' else 'evaluation'}{at(batches.place)}; {so}",
        "drop those rows: keep = torch.isfinite(x).flatten(1).all(1); x, y = x[keep], y[keep]; or impute them",
        place=batches.place,
    )


def constant_input(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Every row is the same, or every element: the network cannot tell inputs apart.

    Checked: more than :data:`MOSTLY` of at least :data:`SOME_BATCHES` batches of several rows; texts of which only
    :data:`ONE_TOKEN` tokens of a whole vocabulary ever occur in training. Must not hit: start symbols and other
    single tokens, a single number as input, batches of one row, the same batch again and again (its rows differ),
    flags and masks (their tables are small).
    """
    groups = [b for b in seen.batches.values() if b.n_batches >= SOME_BATCHES]
    groups = [b for b in groups if b.floating or b.table_rows]
    if not groups:
        return NotChecked("constant-input", f"fewer than {SOME_BATCHES} batches of numbers or tokens were seen")
    return (f for b in groups if (f := _constant_in(b) if b.floating else _one_token_in(b)))


def _one_token_in(batches: BatchesSeen) -> Finding | None:
    few = 0 < batches.n_tokens <= ONE_TOKEN
    enough = batches.n_rows >= MANY_ROWS and batches.table_rows >= A_VOCABULARY
    if not few or not enough or batches.purpose != "train" or reading.row_size(batches) < 2:
        return None
    return Finding(
        "constant-input",
        "error",
        "the inputs carry no information: nearly all tokens are the same",
        f"{batches.n_rows} training rows of {reading.row_size(batches)} tokens{at(batches.place)} looked up only "
        f"{batches.n_tokens} of the {batches.table_rows} entries of {batches.first_layer}",
        "look at one row before the network: print([words[i] for i in x[0]]); a lookup that never finds its word "
        "(other case, other tokenizer) gives the unknown token everywhere",
        place=batches.place,
        step=0,
    )


def _constant_in(batches: BatchesSeen) -> Finding | None:
    several = reading.typical(batches.sizes) >= 2
    if not several or reading.row_size(batches) < 2 or batches.n_constant <= MOSTLY * batches.n_batches:
        return None
    return Finding(
        "constant-input",
        "error" if batches.purpose == "train" else "warning",
        "the inputs carry no information: all rows of a batch are the same",
        f"{batches.n_constant} of {batches.n_batches} batches{at(batches.place)} were constant; values from "
        f"{batches.low:.4g} to {batches.high:.4g}, standard deviation {batches.std:.3g}",
        "look at one batch before the network: print(x.flatten(1).std(0)); integer division and wrong indices are the "
        "usual causes",
        place=batches.place,
        step=0 if batches.purpose == "train" else None,
    )


def workers_share_seed(seen: Seen) -> Iterator[Finding] | NotChecked:
    """The worker processes of a DataLoader draw the same random numbers.

    Checked: a training loader with workers, and a generator that ``__getitem__`` draws from: one inside its dataset, of
    which each worker gets a copy, without worker_init_fn; or a global one that worker_init_fn left in the same state in
    all workers, as the workers report. PyTorch itself seeds the global generators of every worker differently. Must not
    hit: global ``torch``/``numpy.random``/``random`` left alone, evaluation loaders, no workers.
    """
    loaders = [x for x in seen.loaders.values() if x.trains and x.n_workers > 0]
    if not loaders:
        return NotChecked("workers-share-seed", "no training loader with worker processes was seen")
    seeded_alike = [_seeded_alike(x) for x in loaders if x.alike_in_workers]
    return iter(seeded_alike + [_shared(x) for x in loaders if x.generators and not x.worker_init])


def _seeded_alike(loader: LoaderSeen) -> Finding:
    return Finding(
        "workers-share-seed",
        "warning",
        "worker_init_fn gives all workers the same random numbers",
        f"once it was done, {', '.join(loader.alike_in_workers)} stood in the same state in all {loader.n_workers} "
        f"worker processes{at(loader.place)}, and the dataset draws from it",
        "leave worker_init_fn out (PyTorch seeds each worker differently), or seed in it with "
        "torch.initial_seed() % 2**32, which differs from worker to worker and from epoch to epoch",
        place=loader.place,
    )


def _shared(loader: LoaderSeen) -> Finding:
    several = loader.n_workers > 1
    name = loader.generators[0].split(" ")[0]
    return Finding(
        "workers-share-seed",
        "warning",
        "workers of the loader draw the same random numbers"
        if several
        else "the loader's worker draws the same random numbers in every epoch",
        f"{loader.n_workers} worker processes{at(loader.place)} each start with a copy of "
        f"{', '.join(loader.generators)} in the same state, anew each epoch",
        "DataLoader(..., worker_init_fn=seed_worker) with def seed_worker(i): "
        f"torch.utils.data.get_worker_info().{name} = numpy.random.default_rng(torch.initial_seed())",
        place=loader.place,
    )


def input_mutated(seen: Seen) -> Iterator[Finding] | NotChecked:
    """Something writes into the training data while it is being read, so that each epoch sees other data.

    Checked: batches that are views of a tensor which was written to at half of the batches or more; a network that
    writes into the tensor it is given, when that very tensor comes again with other values; arrays of the
    training dataset whose content differs between two epochs (a hint unless its name says that it holds the examples).
    Must not hit: an agent's buffer (many small forward passes of the same network between the batches), caches,
    shuffled orders, sampling weights.
    """
    if not seen.batches and not seen.loaders:
        return NotChecked("input-mutated", "no inputs were seen")
    told = [_written(seen, b) for b in seen.train_batches()]
    told += [_changed(seen, x) for x in seen.loaders.values() if x.trains and x.n_iterations >= 2]
    return (f for f in told if f is not None)


def _acts(seen: Seen, batches: BatchesSeen) -> bool:
    """Whether the network also acts: evaluated often, on far fewer rows than it is trained on."""
    rows = reading.typical(batches.sizes)
    return any(
        b.root == batches.root and 2 * b.n_batches >= batches.n_batches and 4 * reading.typical(b.sizes) <= rows
        for b in seen.eval_batches()
    )


def _written(seen: Seen, batches: BatchesSeen) -> Finding | None:
    n, inside = batches.base_mutations, batches.mutated_inside
    if inside >= WRITES and 2 * inside >= batches.n_batches:
        return Finding(
            "input-mutated",
            "warning",
            "the network writes into its input, and is given it again",
            f"in {inside} of {batches.n_batches} passes{at(batches.place)} the input was the tensor that the pass "
            "before had changed",
            "x = x - mean in place of x -= mean inside forward; no inplace=True on the input; or model(x.clone())",
            place=batches.place,
        )
    if n < WRITES or 2 * n < batches.n_batches or _acts(seen, batches):
        return None
    where = f" at {batches.mutated_place}" if batches.mutated_place else ""
    return Finding(
        "input-mutated",
        "warning",
        "the training data is changed in place while it is read",
        f"the tensor that the batches are slices of was written to {n} times{where} in {batches.n_batches} batches; "
        "the next epoch reads changed data",
        "write to a copy: x = x.clone() before, or x = x - mean in place of x -= mean",
        place=batches.mutated_place or batches.place,
    )


def _changed(seen: Seen, loader: LoaderSeen) -> Finding | None:
    names = [n for n in loader.arrays_changed if "cache" not in n.lower()]
    examples = [n for n in names if _holds_examples(n)]
    if not names or any(_acts(seen, b) for b in seen.train_batches()):
        return None
    return Finding(
        "input-mutated",
        "warning" if examples else "hint",
        "the dataset's content changes between epochs",
        f"{', '.join(examples or names)} of {loader.dataset} differed between two of {loader.n_iterations} epochs",
        "let __getitem__ work on a copy: x = self.images[i].clone() (.copy() for NumPy) before any in-place operation",
        place=loader.place,
    )


def _holds_examples(name: str) -> bool:
    last = re.sub(r"\[\d+\]$", "", name).rpartition(".")[2].lower().strip("_")
    return any(last == word or (len(word) > 1 and word in last) for word in DATA_NAMES)
