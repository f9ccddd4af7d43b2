"""Batches in an order that follows from (seed, epoch) alone, so that a resumed run sees what it would have seen.

Tensors in memory are gathered a few megabytes at a time and handed out as views: no per-sample Python. Any
``Dataset`` or ``DataLoader`` works too, at the speed of its own Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dimwise.data.augment import AugmentConfig, augment, mix
from dimwise.errors import DataError
from dimwise.seeds import derive

_BLOCK_BYTES = 4 << 20  # gathered at once: large enough to amortise the call, small enough to stay in cache


class Batches(Protocol):
    """What the training loop reads.

    ``epoch(e, start)`` yields the batches of epoch ``e`` from batch number ``start`` on; the same ``e`` gives the
    same batches whenever it is asked.
    """

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        ...

    @property
    def n_samples(self) -> int:
        """Samples in one epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (B, ...) and targets (B, ...) on the device of the model."""
        ...


class TensorBatches:
    """Shuffled batches of tensors that are in memory.

    The last batch of an epoch may be smaller; a single left-over sample is left out of that epoch, because batch
    normalisation cannot train on one.

    Args:
        inputs: (N, ...) already normalised; a channels-last tensor gives channels-last batches.
        targets: (N,) or (N, K).
        batch_size: at least 1.
        seed: rules order and augmentation.
        shuffle: a new order each epoch; without it the order of the rows.
        augmentation: what happens to a batch on its way, or None.
        n_classes: width of mixed targets, needed for MixUp and CutMix of integer labels.
        prepare: applied to a few megabytes of gathered rows at a time, for inputs too large to normalise at once.

    Raises:
        DataError: no rows, or not as many targets as inputs.

    Example:
        >>> x, y = torch.arange(5.0).view(5, 1), torch.arange(5)
        >>> batches = TensorBatches(x, y, 2, seed=0)
        >>> [len(b[1]) for b in batches.epoch(0)], batches.n_batches
        ([2, 2], 2)
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        augmentation: AugmentConfig | None = None,
        n_classes: int = 0,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise DataError(
                f"{len(inputs)} inputs and {len(targets)} targets", expected="as many of both, at least one"
            )
        # Rows are gathered along the first dimension of memory; images in channels-last order keep it.
        channels_last = inputs.dim() == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
        self._last = channels_last and not inputs.is_contiguous()
        self._inputs = inputs.permute(0, 2, 3, 1).contiguous() if self._last else inputs.contiguous()
        self._targets = targets
        self._size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        active = augmentation is not None and augmentation != AugmentConfig()
        self._augmentation = augmentation if active else None
        self._n_classes = n_classes
        self._prepare = prepare
        n = len(targets)
        self._n_used = n - 1 if n > 1 and batch_size > 1 and n % batch_size == 1 else n
        row_bytes = self._inputs[0].numel() * self._inputs.element_size()
        self._block = max(1, _BLOCK_BYTES // max(1, row_bytes * batch_size)) * batch_size

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return -(-self._n_used // self._size)

    @property
    def n_samples(self) -> int:
        """Samples in one epoch."""
        return self._n_used

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from number ``start`` on."""
        if self._augmentation is not None and self._augmentation.cycle_epochs:
            epoch %= self._augmentation.cycle_epochs
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive(self._seed, "order", epoch))
            order = torch.randperm(len(self._targets), generator=generator)[: self._n_used]
        else:
            order = torch.arange(self._n_used)
        rest = order[start * self._size :].to(self._inputs.device)
        number = start
        for block in rest.split(self._block) if len(rest) else ():
            inputs = self._inputs.index_select(0, block)
            if self._last:
                inputs = inputs.permute(0, 3, 1, 2)  # (B, H, W, C) in memory, (B, C, H, W) by index
            if self._prepare is not None:
                inputs = self._prepare(inputs)
            pairs = zip(inputs.split(self._size), self._targets.index_select(0, block).split(self._size), strict=True)
            if self._augmentation is None:
                yield from pairs
                continue
            for x, y in pairs:
                yield self._augmented(x, y, epoch, number)
                number += 1

    def _augmented(self, x: Tensor, y: Tensor, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        assert self._augmentation is not None
        generator = torch.Generator().manual_seed(derive(self._seed, "augment", epoch, number))
        x = augment(x, self._augmentation, generator)
        if self._augmentation.mixup or self._augmentation.cutmix:
            return mix(x, y, self._n_classes, self._augmentation, generator)
        return x, y


class LoaderBatches:
    """Batches of somebody else's ``Dataset`` or ``DataLoader``.

    Before each epoch and each batch the generators of PyTorch, NumPy and Python are seeded from (seed, epoch, batch),
    so shuffling and random transforms in the main process repeat, and so do those in workers that live for one
    epoch. A resumed epoch skips its first batches by reading them.

    Args:
        source: a ``Dataset`` (shuffled here; as with tensors a single left-over sample is left out) or a
            ``DataLoader`` (taken as it is) of (input, target) pairs.
        batch_size: for a ``Dataset``.
        seed: rules the order.
        device: where the batches go.

    Raises:
        DataError: no batches, no length, or batches that are no pairs of tensors.
    """

    def __init__(
        self, source: Dataset[Any] | DataLoader[Any], batch_size: int, *, seed: int, device: torch.device
    ) -> None:
        if isinstance(source, DataLoader):
            self._loader: DataLoader[Any] = source
        else:
            n = len(source) if isinstance(source, Sized) else 0
            lonely = n > 1 and batch_size > 1 and n % batch_size == 1
            self._loader = DataLoader(source, batch_size=batch_size, shuffle=n > 0, drop_last=lonely)
        try:
            self._n_batches = len(self._loader)
        except TypeError:
            raise DataError(
                f"{type(self._loader.dataset).__name__} does not know how many samples it has",
                expected="a Dataset with a length",
                next_step="Give it a __len__, or pass tensors.",
            ) from None
        if self._n_batches == 0:
            raise DataError(
                "the loader has no batches", expected="at least one", next_step="With drop_last, lower its batch size."
            )
        self._seed = seed
        self._device = device

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self._n_batches

    @property
    def n_samples(self) -> int:
        """Samples in one epoch; 0 when the loader does not say."""
        if self._loader.drop_last and self._loader.batch_size:
            return self._n_batches * self._loader.batch_size
        rows = next((s for s in (self._loader.sampler, self._loader.dataset) if isinstance(s, Sized)), ())
        return len(rows)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from number ``start`` on."""
        self._seed_order(epoch)
        batches = iter(self._loader)
        for number in range(self._n_batches):
            _seed_all(derive(self._seed, "loader", epoch, number))
            batch = next(batches, None)
            if batch is None:
                raise DataError(f"the loader ended after {number} batches", expected=f"{self._n_batches}, its length")
            pair = isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)
            if not pair:
                raise DataError(
                    f"the loader yields {type(batch).__name__}", expected="pairs of tensors (inputs, targets)"
                )
            if number >= start:
                yield batch[0].to(self._device), batch[1].to(self._device)

    def _seed_order(self, epoch: int) -> None:
        seed = derive(self._seed, "loader", epoch)
        _seed_all(seed)
        own = (self._loader.generator, getattr(self._loader.sampler, "generator", None))
        for generator in own:
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        set_epoch = getattr(self._loader.sampler, "set_epoch", None)  # PyTorch's distributed sampler
        if set_epoch is not None:
            set_epoch(epoch)


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - other people's transforms draw from the global generator
    random.seed(seed)
