"""Rules of the family 'processes': what several processes that train one network do to each other."""

from __future__ import annotations

from collections.abc import Sequence

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import Event, Seen

SAME = 1e-5
"""Relative difference of two sums over equal weights that rounding explains. Replicas that average their gradients
stay equal bit by bit; ones that do not differ by the size of an update after one step and grow apart."""
STEPS = 2
"""Steps known to both ranks before they are compared; and the last one must differ."""
EQUAL_STEPS = 3
"""Batches known to both ranks before they are compared."""
MOSTLY_EQUAL = 0.8
"""Fraction of equal batches that makes two ranks do the same work. Samplers that split the data give none, drawing
with replacement a few rows but no whole batch."""
OFTEN = 3
"""Times one network is wrapped from which it is a loop that does it, and an error."""
SHARDED = ("FSDP", "FullyShard", "DeepSpeed", "Pipeline", "Megatron")
"""Words in the name of a network of which each rank holds another part."""


def _ranks(processes: Sequence[Seen]) -> list[Seen]:
    """Those of one group that trained, by rank, the first of each."""
    found: dict[int, Seen] = {}
    for seen in processes:
        if seen.process.world_size > 1 and (seen.n_steps or seen.n_backward):
            found.setdefault(seen.process.rank, seen)
    return [found[r] for r in sorted(found)]


def _sharded(seen: Seen) -> bool:
    names = [seen.process.wrapped, *(r.kind for r in seen.trained_roots())]
    return any(word in name for name in names for word in SHARDED)


def _n_trainable(seen: Seen) -> int:
    return sum(r.n_trainable for r in seen.trained_roots())


def replicas_out_of_sync(processes: Sequence[Seen]) -> Finding | NotChecked | None:
    """Processes that train one network hold different weights.

    Checked: sums over the trained weights at steps that ranks have in common; they must differ at the last one and at
    no later time agree again. Must not hit: replicas in sync, sharded or split networks (their parts differ), averaging
    every few steps (they agree again), independent processes (no process group).
    """
    ranks = _ranks(processes)
    if len(ranks) < 2:
        return NotChecked("replicas-out-of-sync", "fewer than two processes of one group trained")
    if any(_sharded(s) for s in ranks) or len({_n_trainable(s) for s in ranks}) > 1:
        return NotChecked("replicas-out-of-sync", "the processes hold different parts of the network")
    first = ranks[0]
    for other in ranks[1:]:
        mine, theirs = dict(first.process.checksums), dict(other.process.checksums)
        steps = sorted(set(mine) & set(theirs))
        apart = [s for s in steps if abs(mine[s] - theirs[s]) > SAME * max(1.0, abs(mine[s]), abs(theirs[s]))]
        again = bool(apart) and any(s > apart[0] for s in set(steps) - set(apart))
        if len(steps) < STEPS or not apart or apart[-1] != steps[-1] or again:
            continue
        return _apart(first, other, steps[-1], apart[0], mine[steps[-1]], theirs[steps[-1]])
    return None


def _apart(first: Seen, other: Seen, last: int, since: int, mine: float, theirs: float) -> Finding:
    wrapped = first.process.wrapped and other.process.wrapped
    root = next(first.trained_roots(), None)
    return Finding(
        "replicas-out-of-sync",
        "error",
        "processes that train one network hold different weights",
        f"at step {last} the weights sum to {mine:.6g} on rank {first.process.rank} and {theirs:.6g} on rank "
        f"{other.process.rank}, different since step {since}; the network is "
        f"{'wrapped in ' + first.process.wrapped if wrapped else 'not wrapped in DistributedDataParallel'}",
        "call the wrapped network, not model.module, and leave weights alone after wrapping"
        if wrapped
        else "model = torch.nn.parallel.DistributedDataParallel(model) after model.to(device), before the loop",
        place=root.place if root else None,
        step=since,
    )


def same_data_on_every_rank(processes: Sequence[Seen]) -> Finding | NotChecked | None:
    """Every process trains on the same batches: several times the work for one process's result.

    Checked: fingerprints of the inputs, batch by batch. Must not hit: a distributed sampler, one batch overfitted on
    purpose (it repeats on each rank by itself), split networks (their parts need the same rows).
    """
    ranks = _ranks(processes)
    if len(ranks) < 2:
        return NotChecked("same-data-on-every-rank", "fewer than two processes of one group trained")
    if any(_sharded(s) for s in ranks) or len({_n_trainable(s) for s in ranks}) > 1:
        return NotChecked("same-data-on-every-rank", "the processes hold different parts of the network")
    first = ranks[0]
    for other in ranks[1:]:
        pairs = list(zip(first.process.batch_hashes, other.process.batch_hashes, strict=False))
        equal = sum(a[1] == b[1] for a, b in pairs)
        one_batch = len({a[1] for a, _ in pairs}) < 2
        if len(pairs) < EQUAL_STEPS or one_batch or equal < MOSTLY_EQUAL * len(pairs):
            continue
        loader = next((x for x in first.loaders.values() if x.trains), None)
        sampler = f"; the sampler is {loader.sampler}" if loader and loader.sampler else ""
        return Finding(
            "same-data-on-every-rank",
            "error",
            "every process trains on the same batches",
            f"{equal} of {len(pairs)} batches of ranks {first.process.rank} and {other.process.rank} were equal, of "
            f"{first.process.world_size} processes{sampler}",
            "sampler = torch.utils.data.DistributedSampler(dataset); DataLoader(dataset, batch_size, sampler=sampler); "
            "sampler.set_epoch(epoch) in each epoch",
            place=loader.place if loader else None,
            step=first.process.batch_hashes[0][0],
        )
    return None


def wrapped_repeatedly(processes: Sequence[Seen]) -> list[Finding] | None:
    """One network is wrapped for data parallel training, or hung with the same hook, again and again.

    Checked: wrappers inside each other (error), and how often the very same network was wrapped (twice a warning,
    from :data:`OFTEN` times an error: it happens in a loop). DataParallel, which hangs no hooks, is a warning at most;
    so are hooks of the same code that one module or parameter holds :data:`OFTEN` times, added while it trained. Must
    not hit: two networks wrapped once each, hooks that are removed before they are added again, one hook on each of
    many modules.
    """
    for seen in processes:
        worst: dict[object, Event] = {}
        for event in seen.of("wrap"):
            if event.facts.get("depth", 1) >= 2 or event.facts.get("times", 1) >= 2:
                worst[(event.place, event.facts.get("inner"))] = event
        told = [_wrapped(e) for e in worst.values()]
        piles = [p for p in seen.hooks_piled if p.get("n", 0) >= OFTEN and p.get("step", 0) > p.get("since", 0)]
        told += [_piled(max(piles, key=lambda p: int(p["n"])), len(piles))] if piles else []
        if told:
            return told
    return None


def _piled(pile: dict, n_owners: int) -> Finding:
    place = reading.place_of(pile.get("place"))
    others = f"; {n_owners - 1} more modules or parameters hold theirs several times" if n_owners > 1 else ""
    return Finding(
        "wrapped-repeatedly",
        "warning",
        "the same hook is registered again and again",
        f"{pile.get('on')} holds the {pile.get('kind')} of {place} {pile.get('n')} times, added between step "
        f"{pile.get('since')} and step {pile.get('step')}; each of them runs at every pass{others}",
        "register it once before the loop, or keep the handle and call handle.remove() first",
        place=place,
        step=pile.get("step"),
    )


def _wrapped(event: Event) -> Finding:
    name, inner = str(event.facts.get("name", "DistributedDataParallel")), event.facts.get("inner", "the network")
    times, depth = int(event.facts.get("times", 1)), int(event.facts.get("depth", 1))
    hooks = "Distributed" in name
    nested = depth >= 2
    return Finding(
        "wrapped-repeatedly",
        "error" if hooks and (nested or times >= OFTEN) else "warning",
        f"the network is wrapped in {name} more than once",
        f"{inner} at {event.place}: {depth} wrappers inside each other, wrapped {times} times by step {event.step}; "
        + ("each averages the gradients again and keeps its buffers" if hooks else "each copies the network again"),
        f"wrap once, before the loop: model = {name}(model)",
        place=event.place,
        step=event.step,
    )
