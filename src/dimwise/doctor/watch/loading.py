"""DataLoaders: what they were made of, how long one waits for them, and whether their data stays as it was."""

from __future__ import annotations

import contextlib
import copy
import random
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset, SubsetRandomSampler

from dimwise.doctor.finding import Place
from dimwise.doctor.seen import LoaderSeen
from dimwise.doctor.watch.live import Live
from dimwise.doctor.watch.place import here

_CHECKED = 8192
"""Elements of an array that are compared between epochs."""
_REMEMBERED = 64
"""Loaders that are remembered when they are gone."""


@dataclass(eq=False)
class LiveLoader:
    """A DataLoader while it lives."""

    seen: LoaderSeen
    loader: weakref.ref[DataLoader[Any]]
    dataset: weakref.ref[Any] | None = None
    sums: dict[str, float] = field(default_factory=dict)
    base: int = 0
    """id of the dataset at the bottom."""
    indices: frozenset[int] | None = None
    """Its rows in that dataset; None for all or unknown."""
    states: Tensor | None = None
    """Shared with the workers: where each global generator stood in each of them once worker_init_fn was done."""
    compared: bool = False
    """Whether these have been compared."""
    asked_at: float = 0.0
    first_at: float = 0.0


def iterated(live: Live, loader: DataLoader[Any]) -> None:
    """``iter(loader)``: an epoch begins."""
    made = _known(live, loader)
    told = made.seen
    told.n_iterations += 1
    made.asked_at = 0.0
    if told.n_iterations > 3 and not live.full:
        return
    sums = {name: _checksum(value) for name, value in _arrays(loader.dataset).items()}
    for name, value in sums.items():
        before = made.sums.get(name)
        if before is not None and before != value and name not in told.arrays_changed:
            told.arrays_changed.append(name)
    made.sums = sums


class _Reporting:
    """A loader's worker_init_fn, after which the worker writes down where its global generators stand."""

    def __init__(self, init: Callable[[int], object], states: Tensor) -> None:
        self.init, self.states = init, states

    def __call__(self, worker: int) -> None:
        self.init(worker)
        with contextlib.suppress(Exception):  # what goes wrong here must not reach the script
            self.states[worker] = torch.tensor([zlib.crc32(s) + 1 for s in _global_states().values()])


@contextlib.contextmanager
def reporting(live: Live, loader: DataLoader[Any]) -> Iterator[None]:
    """While workers are forked: let them report where their generators start."""
    made, init = live.loaders.get(id(loader)), loader.worker_init_fn
    context = getattr(loader, "multiprocessing_context", None) or torch.multiprocessing
    forks = context.get_start_method() == "fork"
    if made is None or init is None or loader.num_workers < 2 or made.states is not None or not forks:
        yield
        return
    made.states = torch.zeros(loader.num_workers, len(_global_states()), dtype=torch.int64).share_memory_()
    loader.worker_init_fn = _Reporting(init, made.states)
    try:
        yield
    finally:
        loader.worker_init_fn = init


def _global_states() -> dict[str, bytes]:
    _kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "numpy.random": bytes(np.asarray(keys)) + repr(rest).encode(),
        "random": repr(random.getstate()).encode(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
    }


def _in_common(states: Tensor, dataset: Any) -> list[str]:
    """Global generators that started alike in all workers and that fetching a row draws from."""
    alike = (states == states[:1]).all(0).tolist()
    drawn = _global_draws(dataset) if any(alike) else set()
    return [name for name, same in zip(_global_states(), alike, strict=True) if same and name in drawn]


def _global_draws(dataset: Any) -> set[str]:
    """The global generators that fetching a row moves; all stand afterwards where they stood."""
    before, drawn = _global_states(), set[str]()
    with _kept_in_place(), contextlib.suppress(Exception):
        copy.copy(dataset)[0]
        drawn = {name for name, state in _global_states().items() if state != before[name]}
    return drawn


@contextlib.contextmanager
def _kept_in_place() -> Iterator[None]:
    """Give the global generators back as they were."""
    numbers, python, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)
        torch.set_rng_state(torch_state)


def _known(live: Live, loader: DataLoader[Any]) -> LiveLoader:
    known = live.loaders.get(id(loader))
    if known is not None and known.loader() is loader:
        return known
    dataset, sampler = loader.dataset, getattr(loader, "sampler", None)
    shuffle, (base, indices) = _shuffles(sampler), _rows(dataset, sampler)
    for made in live.loader_by_key.values():
        if _made_anew(made, dataset, shuffle, indices, here(4)):
            made.loader = weakref.ref(loader)
            live.loaders[id(loader)] = made
            return made
    key = len(live.seen.loaders)
    told = LoaderSeen(
        key,
        here(4),
        type(dataset).__name__,
        len(dataset) if hasattr(dataset, "__len__") else None,
        loader.batch_size,
        shuffle,
        type(sampler).__name__,
        loader.num_workers,
        loader.worker_init_fn is not None,
    )
    told.generators = _generators(dataset) if loader.num_workers > 1 else []
    live.seen.loaders[key] = told
    made = live.loaders[id(loader)] = live.loader_by_key[key] = LiveLoader(told, weakref.ref(loader))
    live.loader_by_key.pop(key - _REMEMBERED, None)
    with contextlib.suppress(TypeError):  # a list, say, cannot be watched like that
        made.dataset = weakref.ref(dataset)
    made.base, made.indices = base, indices
    return made


def _shuffles(sampler: Any) -> bool | None:
    """Whether rows come in random order; None when it cannot be told."""
    if isinstance(sampler, SequentialSampler):
        return False
    if isinstance(sampler, (RandomSampler, SubsetRandomSampler)):
        return True
    return bool(sampler.shuffle) if hasattr(sampler, "shuffle") else None


def _made_anew(
    known: LiveLoader, dataset: Any, shuffle: bool | None, indices: frozenset[int] | None, place: Place | None
) -> bool:
    """Whether a loader is the successor of one that is gone: made again, for each epoch, of the same rows, and read at
    the same line."""
    same = known.dataset is not None and known.dataset() is dataset and known.loader() is None
    alike = known.seen.shuffle == shuffle and known.indices == indices
    return same and alike and place is not None and known.seen.place == place


def _rows(dataset: Any, sampler: Any) -> tuple[int, frozenset[int] | None]:
    indices: list[int] | None = None
    if isinstance(sampler, SubsetRandomSampler):
        indices = [int(i) for i in sampler.indices]
    while isinstance(dataset, Subset):
        inner = [int(i) for i in dataset.indices]
        indices = inner if indices is None else [inner[i] for i in indices]
        dataset = dataset.dataset
    if indices is None and hasattr(dataset, "__len__") and len(dataset) <= 2_000_000:
        return id(dataset), frozenset(range(len(dataset)))
    return id(dataset), frozenset(indices) if indices is not None else None


def asked(live: Live, loader: Any) -> None:
    """The consumer asks for the next batch."""
    made = live.loaders.get(id(loader))
    if made is not None:
        now = time.perf_counter()
        made.asked_at = now
        made.first_at = made.first_at or now


def given(live: Live, loader: Any) -> None:
    """The consumer has it."""
    made = live.loaders.get(id(loader))
    if made is None:
        return
    now = time.perf_counter()
    told = made.seen
    told.n_batches += 1
    if made.states is not None and not made.compared and bool(made.states.all()):
        made.compared = True
        told.alike_in_workers = _in_common(made.states, loader.dataset)
    if told.n_batches > 2 and made.asked_at:  # the first ones start workers
        told.wait_s += now - made.asked_at
        told.span_s = now - made.first_at
    else:
        made.first_at = now
    live.loader_now = told.key


def conclude(live: Live) -> None:
    """Which loaders trained, and which evaluation rows come from the same places of the same data."""
    by_key = live.loader_by_key
    training = {k for one in live.kept.values() if one.seen.purpose == "train" for k in one.loaders}
    for key in training:
        if key in by_key:
            by_key[key].seen.trains = True
    for one in live.kept.values():
        if one.seen.purpose != "eval":
            continue
        for key in one.loaders - training:
            mine = by_key.get(key)
            if mine is None or mine.indices is None:
                continue
            one.seen.dataset_rows = len(mine.indices)
            for other in training:
                theirs = by_key.get(other)
                if theirs is not None and theirs.base == mine.base and theirs.indices is not None:
                    one.seen.shared_indices = max(one.seen.shared_indices, len(mine.indices & theirs.indices))


def _parts(dataset: Any, depth: int = 0) -> dict[str, Any]:
    """Attributes of a dataset and of what it wraps, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in (vars(dataset) if hasattr(dataset, "__dict__") else {}).items():
        if name == "tensors" and isinstance(value, (tuple, list)):
            found |= {f"tensors[{i}]": v for i, v in enumerate(value)}
            continue
        found[name] = value
        plain = isinstance(value, (str, int, float, bool, np.ndarray, torch.Tensor, list, tuple, dict, type(None)))
        if depth < 2 and not plain and hasattr(value, "__dict__"):
            if isinstance(value, (torch.nn.Module, type)) or type(value).__module__ == "builtins":
                continue
            found |= {f"{name}.{k}": v for k, v in _parts(value, depth + 1).items()}
    return found


def _arrays(dataset: Any) -> dict[str, Any]:
    return {
        f"dataset.{k}": v
        for k, v in _parts(dataset).items()
        if isinstance(v, (np.ndarray, torch.Tensor)) and (v.numel() if isinstance(v, torch.Tensor) else v.size)
    }


def _checksum(value: Any) -> float:
    """A number that changes with the content; holes count as 0, since NaN equals nothing, not even itself."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // _CHECKED)]
        return float(flat.double().nan_to_num().sum()) if not flat.is_complex() else 0.0
    flat_array = value.reshape(-1)[:: max(1, value.size // _CHECKED)]
    return float(np.nan_to_num(flat_array.astype("float64")).sum()) if flat_array.dtype.kind in "fiub" else 0.0


def _generators(dataset: Any) -> list[str]:
    kinds = {
        np.random.Generator: "numpy Generator",
        np.random.RandomState: "numpy RandomState",
        random.Random: "random.Random",
        torch.Generator: "torch Generator",
    }
    drawn = _names_used(dataset)
    return [
        f"dataset.{name} ({word})"
        for name, value in _parts(dataset).items()
        for kind, word in kinds.items()
        if isinstance(value, kind) and name.partition(".")[0] in drawn and _draws_from(dataset, name)
    ]


def _draws_from(dataset: Any, name: str) -> bool:
    """Whether fetching a row moves this generator: tried on a copy whose generator is a copy, too."""
    try:
        with _kept_in_place():
            trial = copy.copy(dataset)
            owner = trial
            *way, last = name.split(".")
            for step in way:
                setattr(owner, step, copy.copy(getattr(owner, step)))
                owner = getattr(owner, step)
            generator = _copied(getattr(owner, last))
            setattr(owner, last, generator)
            before = _state_of(generator)
            trial[0]
            return before != _state_of(generator)
    except Exception:  # noqa: BLE001 - somebody else's dataset: when it cannot be tried, its code's word counts
        return True


def _copied(generator: Any) -> Any:
    return generator.clone_state() if isinstance(generator, torch.Generator) else copy.deepcopy(generator)


def _state_of(generator: Any) -> str:
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    return str(generator.getstate() if isinstance(generator, random.Random) else generator.get_state())


def _names_used(dataset: Any) -> set[str]:
    """Attribute names that ``__getitem__`` speaks of, itself or through the dataset's other methods."""
    kind, waiting = type(dataset), ["__getitem__", "__iter__"]
    names: set[str] = set()
    while waiting:
        code = getattr(getattr(kind, waiting.pop(), None), "__code__", None)
        if code is None:
            continue
        fresh = set(code.co_names) - names
        names |= fresh
        waiting += [n for n in fresh if callable(getattr(kind, n, None))]
    return names
