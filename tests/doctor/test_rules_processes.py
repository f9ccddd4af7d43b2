"""Rules about several processes, on observations written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.doctor._parts import AT, loader, one, root, seen, silent, why

from dimwise.doctor.rules import processes
from dimwise.doctor.seen import Event, ProcessSeen, Seen

DDP = "DistributedDataParallel"


def rank(n: int, sums: list[float] | None = None, prints: list[int] | None = None, **facts: Any) -> Seen:
    told = ProcessSeen(
        pid=100 + n,
        rank=n,
        world_size=facts.pop("world_size", 2),
        checksums=list(enumerate(sums or [])),
        batch_hashes=list(enumerate(prints or [])),
        wrapped=facts.pop("wrapped", DDP),
    )
    return seen(process=told, loaders=(loader(sampler="RandomSampler"),), **facts)


def test_replicas_that_drift_apart() -> None:
    told = [rank(0, [1.0, 2.0, 3.0], wrapped=""), rank(1, [1.0, 2.5, 3.7], wrapped="")]
    found = one(processes.replicas_out_of_sync(told))
    assert found.severity == "error"
    assert "at step 2 the weights sum to 3 on rank 0 and 3.7 on rank 1, different since step 1" in found.evidence
    assert "not wrapped in DistributedDataParallel" in found.evidence
    assert "DistributedDataParallel(model)" in found.remedy
    assert found.step == 1
    wrapped = one(processes.replicas_out_of_sync([rank(0, [1.0, 2.0]), rank(1, [4.0, 5.0])]))
    assert "model.module" in wrapped.remedy


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ([1.0, 2.0], [1.0, 2.0]),
        ([1000.0, 2000.0], [1000.0, 2000.001]),  # rounding
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 3.0, 4.5]),  # averaged every second step
        ([1.0], [2.0]),
        ([], []),
    ],
)
def test_replicas_in_sync(mine: list[float], theirs: list[float]) -> None:
    assert silent(processes.replicas_out_of_sync([rank(0, mine), rank(1, theirs)]))


def test_replicas_not_checked() -> None:
    apart = [1.0, 2.0], [3.0, 4.0]
    assert "fewer than two" in why(processes.replicas_out_of_sync([]))
    assert "fewer than two" in why(processes.replicas_out_of_sync([rank(0, apart[0])]))
    alone = [rank(i, s, world_size=1) for i, s in enumerate(apart)]
    assert "fewer than two" in why(processes.replicas_out_of_sync(alone))
    parts = [rank(0, apart[0]), rank(1, apart[1], net=root(n_trainable=5))]
    assert "different parts" in why(processes.replicas_out_of_sync(parts))
    sharded = [rank(i, s, wrapped="FSDPModule") for i, s in enumerate(apart)]
    assert "different parts" in why(processes.replicas_out_of_sync(sharded))


def test_the_same_batches() -> None:
    found = one(processes.same_data_on_every_rank([rank(0, prints=[1, 2, 3, 4]), rank(1, prints=[1, 2, 3, 4])]))
    assert found.severity == "error"
    assert "4 of 4 batches of ranks 0 and 1 were equal, of 2 processes; the sampler is RandomSampler" in found.evidence
    assert "DistributedSampler" in found.remedy
    assert found.place == AT


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [([1, 2, 3, 4], [5, 6, 7, 8]), ([1, 1, 1, 1], [1, 1, 1, 1]), ([1, 2], [1, 2]), ([1, 2, 3, 4], [1, 9, 8, 4])],
)
def test_batches_of_their_own(mine: list[int], theirs: list[int]) -> None:
    assert silent(processes.same_data_on_every_rank([rank(0, prints=mine), rank(1, prints=theirs)]))


def test_batches_not_checked() -> None:
    same = [rank(i, prints=[1, 2, 3, 4], wrapped="FSDPModule") for i in range(2)]
    assert "different parts" in why(processes.same_data_on_every_rank(same))
    assert "fewer than two" in why(processes.same_data_on_every_rank(same[:1]))


def wrap(name: str = DDP, times: int = 1, depth: int = 1, inner: str = "Net") -> Event:
    return Event("wrap", 4, 0, AT, {"name": name, "inner": inner, "times": times, "depth": depth})


def test_wrapped_twice() -> None:
    found = one(processes.wrapped_repeatedly([seen(events=[wrap(), wrap(times=2), wrap(times=7)])]))
    assert found.severity == "error"
    assert "Net at train.py:48: 1 wrappers inside each other, wrapped 7 times by step 4" in found.evidence
    assert one(processes.wrapped_repeatedly([seen(events=[wrap(depth=2)])])).severity == "error"
    assert one(processes.wrapped_repeatedly([seen(events=[wrap(times=2)])])).severity == "warning"
    assert one(processes.wrapped_repeatedly([seen(events=[wrap("DataParallel", times=9)])])).severity == "warning"


def test_wrapped_once_each() -> None:
    assert silent(processes.wrapped_repeatedly([seen(events=[wrap(), wrap(inner="Critic")])]))
    assert silent(processes.wrapped_repeatedly([seen(), Seen()]))
    assert silent(processes.wrapped_repeatedly([]))


def pile(**facts: Any) -> dict[str, Any]:
    return {"kind": "forward hook", "on": "ReLU", "n": 6, "place": AT, "since": 0, "step": 140, **facts}


def test_hooks_that_pile_up() -> None:
    found = one(processes.wrapped_repeatedly([seen(hooks_piled=[pile(n=3), pile()])]))
    assert found.severity == "warning"
    assert "ReLU holds the forward hook of train.py:48 6 times, added between step 0 and step 140" in found.evidence
    assert "1 more modules" in found.evidence
    assert silent(processes.wrapped_repeatedly([seen(hooks_piled=[pile(n=2)])]))
    assert silent(processes.wrapped_repeatedly([seen(hooks_piled=[pile(since=0, step=0)])]))  # before the loop


def test_what_every_rank_did_is_told_once() -> None:
    assert one(processes.wrapped_repeatedly([seen(events=[wrap(times=3)]), seen(events=[wrap(times=3)])]))
