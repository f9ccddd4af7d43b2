"""What the networks are fed: scale, holes, order of the labels, rows that come twice. Numbers; few rows are kept."""

from __future__ import annotations

import math
import weakref
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.doctor.seen import BatchesSeen
from dimwise.doctor.watch.live import Live, LiveRoot, Pass
from dimwise.doctor.watch.place import here

_MAX_HASHED = 65_536
_MAX_ELEMENTS = 65_536
"""Elements of a batch that its mean and deviation are taken from."""
_FEW_TOKENS = 8
"""Distinct tokens from which on nobody counts any more."""
_KEEP_ROWS = 512
_KEEP_WIDTH = 1024


@dataclass(eq=False)
class Kept:
    """Live companions of one :class:`BatchesSeen`."""

    seen: BatchesSeen
    hashes: dict[int, int] = field(default_factory=dict)
    """fingerprint of a row -> how often"""
    first: dict[int, int] = field(default_factory=dict)
    """fingerprint of a row -> number of the batch (of all) that brought it first"""
    recent: deque[list[int]] = field(default_factory=lambda: deque(maxlen=50))
    """fingerprints of recent batches"""
    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    channel_n: float = 0.0
    channel_total: Tensor | None = None
    channel_squares: Tensor | None = None
    last_hash: int | None = None
    rows: list[Tensor] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    first_rows: list[Tensor] = field(default_factory=list)
    n_sampled: int = 0
    """Rows in it."""
    waiting: Tensor | None = None
    """Rows of the batch at hand, until its labels are known."""
    version: tuple[int, int] | None = None
    """(id of the base tensor, its version counter)"""
    loaders: set[int] = field(default_factory=set)
    tokens: set[int] = field(default_factory=set)
    """Numbers looked up in the first table, as long as they are few."""
    given: tuple[weakref.ref[Tensor], int] | None = None
    """The tensor of the pass at hand, and its version counter when it came."""
    written: weakref.ref[Tensor] | None = None
    """The tensor that the last pass was given and wrote into."""
    differs: bool = False
    """Whether the batch at hand holds other values than the one before."""


def arrive(live: Live, root: LiveRoot, made: Pass, x: Tensor) -> int:
    """A batch enters a root: file it under the place it is used at."""
    place = made.event.place if made.event is not None else here(4)
    evaluating = not made.grad or not made.training
    name: tuple[Any, ...] = (
        "eval" if evaluating else "train",
        root.seen.key,
        str(place) if evaluating else "",
        live.loader_now,
    )
    if not evaluating:
        name = ("train", root.seen.key)
    key = live.batch_keys.get(name)
    if key is None:
        key = live.batch_keys[name] = len(live.kept)
        told = BatchesSeen(key, "eval" if evaluating else "train", root.seen.key, place)
        live.kept[key] = Kept(told)
        live.seen.batches[key] = told
    one = live.kept[key]
    made.loader = live.loader_now
    if evaluating and made.loader is not None:
        one.loaders.add(made.loader)
    told = one.seen
    told.n_batches += 1
    rows = x.shape[0] if x.dim() else 1
    told.n_rows += rows
    told.n_made += x.grad_fn is not None
    told.sizes.append(rows)
    del told.sizes[:-50]
    told.shape, told.floating = tuple(x.shape[1:]), x.is_floating_point()
    with torch.no_grad():
        made.prints = _look(live, one, x.detach(), keep=made.grad)
    _writes(one, x)
    return key


def in_transform() -> bool:
    """Whether torch.func is at work: there every result is a wrapper without values of its own."""
    return torch._C._functorch.maybe_current_level() is not None


def _look(live: Live, one: Kept, x: Tensor, *, keep: bool) -> list[int]:
    """The batch itself, row by row; returns the rows' fingerprints."""
    told = one.seen
    one.differs = False
    if x.dim() == 0 or x.numel() == 0 or x.device.type == "meta" or in_transform():
        return []
    if x.is_floating_point():
        flat = x.reshape(x.shape[0], -1)
        bad = ~torch.isfinite(flat).all(1)
        told.n_nan += int(bad.sum())
    if x.shape[0] > 1 and bool((x == x[:1]).all()):
        told.n_constant += 1
    if x.device.type != "cpu":
        return []
    rows = x.contiguous().reshape(x.shape[0], -1)
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()
    prints = [hash(row.tobytes()) for row in rows.numpy()]
    whole = zlib.crc32(rows.numpy().tobytes())  # the same in every process, as Python's own hash is not
    one.differs = whole != one.last_hash
    told.n_identical += not one.differs
    one.last_hash = whole
    if told.purpose == "train" and live.seen.process is not None and len(live.seen.process.batch_hashes) < 400:
        live.seen.process.batch_hashes.append((live.step, whole))
    live.n_batches += 1
    one.recent.append(prints)
    told.row_pairs += math.comb(len(prints), 2)
    if len(set(prints)) < len(prints):
        told.twin_pairs += sum(math.comb(n, 2) for n in Counter(prints).values())
    told.fresh.append((sum(fingerprint not in one.hashes for fingerprint in prints), len(prints)))
    del told.fresh[:-20]
    for fingerprint in prints:
        if fingerprint in one.hashes or len(one.hashes) < _MAX_HASHED:
            one.hashes[fingerprint] = one.hashes.get(fingerprint, 0) + 1
            one.first.setdefault(fingerprint, live.n_batches)
    if one.n_sampled < _KEEP_ROWS and rows.shape[1] <= _KEEP_WIDTH:
        one.first_rows.append(rows[: _KEEP_ROWS - one.n_sampled].clone())
        one.n_sampled += len(one.first_rows[-1])
    told.n_hashed, told.n_distinct_of = len(one.hashes), sum(one.hashes.values()) if told.n_batches < 8 else told.n_rows
    if keep and len(one.rows) < _KEEP_ROWS:
        step = max(1, rows.shape[1] // _KEEP_WIDTH)
        one.waiting = rows[:, ::step][:64].clone()
    return prints


def _writes(one: Kept, x: Tensor) -> None:
    """Whether the tensor that ``x`` is a view of, or ``x`` itself, was written to since the last batch."""
    before, one.given, one.written = one.written, None, None
    if x.is_inference():
        return
    base = x._base
    if base is None:
        one.version = None
        one.given = weakref.ref(x), x._version
        one.seen.mutated_inside += before is not None and before() is x and one.differs
        return
    now = (id(base), base._version)
    if one.version is not None and one.version[0] == now[0] and now[1] > one.version[1]:
        one.seen.base_mutations += 1
        one.seen.mutated_place = one.seen.mutated_place or here(5)
    one.version = now


def left(live: Live, made: Pass) -> None:
    """A pass is over: did it write into the tensor it was given?"""
    one = live.kept.get(made.batch if made.batch is not None else -1)
    if one is None or one.given is None:
        return
    ref, version = one.given
    x, one.given = ref(), None
    if x is not None and x._version > version:
        one.written = ref


def measure(live: Live, made: Pass, module: nn.Module, x: Tensor) -> None:
    """Scale of what the first layer with weights is given."""
    one = live.kept.get(made.batch if made.batch is not None else -1)
    if one is None or x.numel() == 0 or x.device.type == "meta" or in_transform():
        return
    told = one.seen
    told.first_layer = type(module).__name__
    if not x.is_floating_point():
        if not made.numbers:  # a decoder may be given one symbol everywhere beside what it decodes
            _tokens(one, module, x.detach())
        return
    with torch.no_grad():
        flat = x.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // _MAX_ELEMENTS)].double()
        flat = flat[torch.isfinite(flat)]
        if not flat.numel():
            return
        one.n += flat.numel()
        one.total += float(flat.sum())
        one.squares += float((flat * flat).sum())
        low, high = float(flat.min()), float(flat.max())
        first = one.n == flat.numel()
        told.low = low if first else min(told.low, low)
        told.high = high if first else max(told.high, high)
        told.mean = one.total / one.n
        told.std = math.sqrt(max(0.0, one.squares / one.n - told.mean**2))
        if x.dim() >= 2 and x.shape[1] <= 512:
            _channels(one, x.detach())


def _tokens(one: Kept, module: nn.Module, x: Tensor) -> None:
    """How many different entries of a table are ever looked up."""
    if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or x.dim() < 2 or x.shape[1] < 2:
        return
    one.seen.table_rows = module.num_embeddings
    if len(one.tokens) < _FEW_TOKENS:
        one.tokens.update(x.reshape(-1)[:_MAX_ELEMENTS].unique()[:_FEW_TOKENS].tolist())
    one.seen.n_tokens = len(one.tokens)


def _channels(one: Kept, x: Tensor) -> None:
    columns = x.transpose(0, 1).reshape(x.shape[1], -1)
    columns = columns[:, :: max(1, columns.shape[1] // 4096)].double()
    total, squares = columns.sum(1), (columns * columns).sum(1)
    if one.channel_total is None or one.channel_total.shape != total.shape:
        one.channel_n, one.channel_total, one.channel_squares = 0.0, torch.zeros_like(total), torch.zeros_like(total)
    assert one.channel_squares is not None
    one.channel_n += columns.shape[1]
    one.channel_total = one.channel_total + total
    one.channel_squares = one.channel_squares + squares
    mean = one.channel_total / one.channel_n
    one.seen.channel_mean = mean.tolist()
    one.seen.channel_std = (one.channel_squares / one.channel_n - mean**2).clamp_min(0).sqrt().tolist()


def trained_on(live: Live, made: Pass) -> None:
    """A backward pass followed: whatever the mode of the network was, this is training."""
    one = live.kept.get(made.batch if made.batch is not None else -1)
    if one is not None:
        one.seen.purpose = "train"
        if made.loader is not None:
            one.loaders.add(made.loader)


def never_trained_on(live: Live, made: Pass) -> None:
    """A pass in training mode that no backward followed (a first look at the shapes): its rows taught nothing."""
    one = live.kept.get(made.batch if made.batch is not None else -1)
    if one is None or not made.training or not made.grad:
        return
    for fingerprint in made.prints:
        n = one.hashes.pop(fingerprint, 0)
        if n > 1:
            one.hashes[fingerprint] = n - 1
        else:
            one.first.pop(fingerprint, None)
    one.seen.n_hashed, made.prints = len(one.hashes), []


def labels(live: Live, made: Pass, target: Tensor, n_classes: int | None, *, weighted: bool) -> None:
    """The class labels that a batch was scored against."""
    one = live.kept.get(made.batch if made.batch is not None else -1)
    if one is None or target.is_floating_point():
        return
    told = one.seen
    told.n_classes, told.label_dims, told.weighted_loss = n_classes, target.dim(), told.weighted_loss or weighted
    flat = target.detach().reshape(-1).cpu()
    values, counts = flat.unique(return_counts=True)
    if len(told.label_counts) < 10_000:
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            told.label_counts[value] = told.label_counts.get(value, 0) + count
    if target.dim() != 1:
        return
    told.classes_per_batch.append((len(values), len(flat)))
    told.batch_labels.append(int(values[counts.argmax()]) if len(flat) else -1)
    del told.classes_per_batch[:-200], told.batch_labels[:-200]
    if len(flat) > 1:
        told.label_pairs += len(flat) - 1
        told.label_changes += int((flat[1:] != flat[:-1]).sum())
    if one.waiting is not None and len(flat) >= len(one.waiting):
        one.rows.extend(one.waiting)
        one.labels.extend(flat[: len(one.waiting)].tolist())
    one.waiting = None


def conclude(live: Live) -> None:
    """What can only be said at the end: leaks between training and evaluation, and whether neighbours agree."""
    training = [k for k in live.kept.values() if k.seen.purpose == "train"]
    known: dict[int, int] = {}
    for one in training:
        for fingerprint, number in one.first.items():
            known[fingerprint] = min(number, known.get(fingerprint, number))
    for one in live.kept.values():
        one.seen.n_varied = _varied(one)
        if one.seen.purpose == "eval":
            shared = [fingerprint for fingerprint in one.hashes if fingerprint in known]
            one.seen.in_train = len(shared)
            one.seen.trained_first = sum(known[fingerprint] < one.first[fingerprint] for fingerprint in shared)
            one.seen.batch_in_train = [(sum(p in known for p in prints), len(prints)) for prints in one.recent]
        elif one.rows:
            one.seen.knn = _neighbours(one)


def _varied(one: Kept) -> int:
    """Columns in which at least half of the distinct first rows have a value of their own."""
    if not one.first_rows or len({r.shape[1] for r in one.first_rows}) != 1:
        return 0
    distinct = torch.cat(one.first_rows).unique(dim=0)
    return sum(len(column.unique()) >= 0.5 * len(distinct) for column in distinct.t())


def _neighbours(one: Kept) -> dict[str, float] | None:
    """Leave-one-out accuracy of five nearest neighbours, against the share of the commonest class."""
    n = min(len(one.rows), len(one.labels))
    widths = {r.numel() for r in one.rows}
    if n < 100 or len(widths) != 1:
        return None
    with torch.no_grad():
        x = torch.stack(one.rows[:n])
        y = torch.tensor(one.labels[:n])
        if not x.is_floating_point():
            if int(x.min()) < 0 or int(x.max()) > 20_000:
                return None
            bag = torch.zeros(n, int(x.max()) + 1)
            x = bag.scatter_add_(1, x.long(), torch.ones(x.shape)).clamp_max(1)
        x = x.float()
        x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6) if x.shape[1] < 64 else x - x.mean(0)
        distance = torch.cdist(x, x)
        distance.fill_diagonal_(float("inf"))
        distance[distance < 1e-6 * float(distance[distance.isfinite()].median())] = float("inf")  # not its own twin
        nearest = distance.topk(min(5, n - 1), largest=False).indices
        voted = torch.mode(y[nearest], dim=1).values
        accuracy = float((voted == y).float().mean())
    shares = torch.bincount(y - y.min()).double() / n
    chance = float((shares * shares).sum())
    top = float(shares.max())
    if top > 0.95:  # a discriminator's batches of one label: there is nothing to guess
        return None
    spread = math.sqrt(max(1e-12, chance * (1 - chance) / n))
    return {"accuracy": accuracy, "chance": chance, "majority": top, "n": float(n), "z": (accuracy - chance) / spread}
