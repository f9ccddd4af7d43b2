"""Batches: every sample once, an order that follows from (seed, epoch) alone, and nothing else that shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from dimwise.data import batches as module
from dimwise.data.augment import AugmentConfig
from dimwise.data.batches import LoaderBatches, TensorBatches
from dimwise.errors import DataError

SIZES = st.integers(1, 60), st.integers(1, 17)
SEEDS = st.integers(0, 2**63 - 1)


def rows(n: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n, dtype=torch.float32).view(n, 1).repeat(1, 3), torch.arange(n)


def seen(batches: Any, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [y.tolist() for _, y in batches.epoch(epoch, start)]


@given(*SIZES, SEEDS, st.integers(0, 1000))
def test_each_sample_once(n: int, size: int, seed: int, epoch: int) -> None:
    batches = TensorBatches(*rows(n), size, seed=seed)
    found = seen(batches, epoch)
    flat = [i for batch in found for i in batch]
    left_out = 1 if n > 1 and size > 1 and n % size == 1 else 0
    assert len(set(flat)) == len(flat) == n - left_out == batches.n_samples
    assert set(flat) <= set(range(n))
    assert len(found) == batches.n_batches
    assert all(len(b) == size for b in found[:-1])
    assert len(found[-1]) > 1 or size == 1 or n == 1


@given(*SIZES, SEEDS)
def test_inputs_and_targets_stay_together(n: int, size: int, seed: int) -> None:
    for x, y in TensorBatches(*rows(n), size, seed=seed).epoch(3):
        assert x.tolist() == [[i] * 3 for i in y.tolist()]


@given(*SIZES, SEEDS, st.integers(0, 5), st.data())
def test_a_later_start_is_the_tail(n: int, size: int, seed: int, epoch: int, draw: st.DataObject) -> None:
    batches = TensorBatches(*rows(n), size, seed=seed)
    start = draw.draw(st.integers(0, batches.n_batches))
    assert seen(batches, epoch, start) == seen(batches, epoch)[start:]


@given(SEEDS, st.integers(0, 9))
def test_the_order_follows_from_seed_and_epoch_alone(seed: int, epoch: int) -> None:
    first = TensorBatches(*rows(40), 7, seed=seed)
    expected = seen(first, epoch)
    torch.rand(3)
    list(first.epoch(epoch + 5))
    assert seen(first, epoch) == seen(TensorBatches(*rows(40), 7, seed=seed), epoch) == expected
    assert seen(first, epoch + 1) != expected
    assert seen(TensorBatches(*rows(40), 7, seed=(seed + 1) % 2**63), epoch) != expected


@settings(max_examples=30)
@given(*SIZES, st.integers(1, 300))
def test_blocks_do_not_show(n: int, size: int, block_bytes: int) -> None:
    augmentation = AugmentConfig(flip=True)
    x, y = torch.arange(float(n * 4)).view(n, 1, 2, 2), torch.arange(n)
    made = []
    for size_bytes in (module._BLOCK_BYTES, block_bytes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_BLOCK_BYTES", size_bytes)
            batches = TensorBatches(x, y, size, seed=1, augmentation=augmentation)
        made.append(list(batches.epoch(2, start=batches.n_batches // 2)))
    for (xa, ya), (xb, yb) in zip(*made, strict=True):
        assert torch.equal(xa, xb)
        assert torch.equal(ya, yb)


def test_without_shuffling_the_order_of_the_rows() -> None:
    batches = TensorBatches(*rows(5), 2, seed=0, shuffle=False)
    assert seen(batches) == seen(batches, 1) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", [None, AugmentConfig(crop=1, flip=True, cutout=2)])
def test_channels_last_stays(channels: int, augmentation: AugmentConfig | None) -> None:
    x = torch.randn(10, channels, 4, 4)
    both = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        batches = TensorBatches(
            x.contiguous(memory_format=memory_format), torch.arange(10), 4, seed=0, augmentation=augmentation
        )
        found = list(batches.epoch(0))
        assert all(b.is_contiguous(memory_format=memory_format) for b, _ in found)
        both.append(torch.cat([b for b, _ in found]))
    assert torch.equal(*both)


def test_strides_of_any_other_kind_are_read_rightly() -> None:
    x = torch.randn(8, 4, 5, 3).transpose(1, 3)  # neither contiguous nor channels-last
    found = TensorBatches(x, torch.arange(8), 4, seed=0, shuffle=False)
    assert torch.equal(torch.cat([b for b, _ in found.epoch(0)]), x)


def test_augmentation_repeats_and_changes_with_the_epoch() -> None:
    x, y = torch.randn(12, 1, 6, 6), torch.arange(12) % 3
    told = AugmentConfig(crop=2, mixup=0.4, cutmix=1.0)
    batches = TensorBatches(x, y, 4, seed=0, augmentation=told, n_classes=5)
    first = list(batches.epoch(0))
    again = list(batches.epoch(0, start=1))
    for (xa, ya), (xb, yb) in zip(first[1:], again, strict=True):
        assert torch.equal(xa, xb)
        assert torch.equal(ya, yb)
        assert ya.shape == (4, 5)
    other = list(TensorBatches(x, y, 4, seed=1, augmentation=told, n_classes=5).epoch(0))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_epochs_that_cycle_repeat_whole() -> None:
    x = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batches = TensorBatches(x, torch.arange(20), 8, seed=0, augmentation=AugmentConfig(crop=2, cycle_epochs=3))
    plain = TensorBatches(x, torch.arange(20), 8, seed=0, augmentation=AugmentConfig(crop=2))
    for epoch, start in ((0, 0), (2, 1), (4, 0), (3, 2)):
        for (a, b), (c, d) in zip(batches.epoch(epoch, start), plain.epoch(epoch % 3, start), strict=True):
            torch.testing.assert_close((a, b), (c, d), rtol=0, atol=0)
    assert not torch.equal(next(batches.epoch(0))[1], next(batches.epoch(1))[1])


def test_prepare_is_applied_to_what_is_gathered() -> None:
    x = torch.arange(12, dtype=torch.uint8).view(6, 2)
    plain = TensorBatches(x.float() / 2, torch.arange(6), 4, seed=3)
    late = TensorBatches(x, torch.arange(6), 4, seed=3, prepare=lambda raw: raw.float() / 2)
    for (xa, _), (xb, _) in zip(plain.epoch(1), late.epoch(1), strict=True):
        assert torch.equal(xa, xb)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (2, 3)])
def test_rows_that_do_not_match(n: int, m: int) -> None:
    with pytest.raises(DataError, match=f"{n} inputs and {m} targets; expected as many of both"):
        TensorBatches(torch.ones(n, 2), torch.ones(m), 2, seed=0)


# --- other people's loaders -------------------------------------------------------------------------------------


def loader_batches(source: Any, size: int = 4, seed: int = 0) -> LoaderBatches:
    return LoaderBatches(source, size, seed=seed, device=torch.device("cpu"))


class Random(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(2) + index, torch.tensor(index)


class Short(Dataset[tuple[Tensor, Tensor]]):
    """Says ten, gives six."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), torch.tensor(index)


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())


def sources() -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    weights = WeightedRandomSampler([1.0] * 10, 10, generator=generator)
    return [
        Random(),
        DataLoader(Random(), batch_size=3, shuffle=True),
        DataLoader(Random(), batch_size=3, shuffle=True, generator=generator),
        DataLoader(Random(), batch_size=3, sampler=weights),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_loader_repeats_and_its_tail_is_its_tail(number: int) -> None:
    batches = loader_batches(sources()[number])
    first = list(batches.epoch(1))
    torch.rand(5)
    again = list(loader_batches(sources()[number]).epoch(1))
    for later in batches.epoch(1):  # what is drawn between two batches, as dropout does, changes nothing
        torch.rand(9)
        again.append(later)
    tail = list(batches.epoch(1, start=2))
    for (xa, ya), (xb, yb) in zip(first * 2 + first[2:], again + tail, strict=True):
        assert torch.equal(xa, xb)
        assert torch.equal(ya, yb)
    assert [y.tolist() for _, y in batches.epoch(2)] != [y.tolist() for _, y in first]


def test_a_dataset_gives_each_sample_once() -> None:
    found = [i for batch in seen(loader_batches(Random())) for i in batch]
    assert sorted(found) == list(range(10))


def test_a_single_left_over_sample_of_a_dataset_is_left_out() -> None:
    batches = loader_batches(TensorDataset(*rows(9)))
    assert [len(b) for b in seen(batches)] == [4, 4]
    assert (batches.n_batches, batches.n_samples) == (2, 8)


def test_counts_of_a_loader() -> None:
    assert loader_batches(DataLoader(Random(), batch_size=4)).n_samples == 10
    assert loader_batches(DataLoader(Random(), batch_size=4, drop_last=True)).n_samples == 8


def test_a_loader_without_batches() -> None:
    with pytest.raises(DataError, match="the loader has no batches"):
        loader_batches(DataLoader(Random(), batch_size=20, drop_last=True))


def test_a_dataset_without_a_length() -> None:
    with pytest.raises(DataError, match="Endless does not know how many samples it has"):
        loader_batches(Endless())


def test_a_loader_that_ends_too_early() -> None:
    loader = DataLoader(Short(), batch_sampler=_Liar())
    with pytest.raises(DataError, match="the loader ended after 2 batches; expected 5, its length"):
        list(loader_batches(loader).epoch(0))


class _Liar:
    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("dataset", "said"),
    [([torch.zeros(2)] * 4, "the loader yields Tensor"), ([{"x": torch.zeros(2)}] * 4, "the loader yields dict")],
)
def test_batches_that_are_no_pairs(dataset: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(loader_batches(DataLoader(dataset, batch_size=2)).epoch(0))
