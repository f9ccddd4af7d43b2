"""Batches in an order that follows from (seed, epoch) alone, so that a resumed run sees what it would have seen.

Tensors in memory are gathered a few megabytes at a time and handed out as views: no per-sample Python. Any
``Dataset`` or ``DataLoader`` works too, at the speed of its own Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol

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
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise DataError(
                f"{len(inputs)} inputs and {len(targets)} targets", expected="as many of both, at least one"
            )
        # Rows are gathered along the first dimension of memory; images in channels-last order keep it.
        self._last = inputs.dim() == 4 and not inputs.is_contiguous()
        self._inputs = inputs.permute(0, 2, 3, 1).contiguous() if self._last else inputs.contiguous()
        self._targets = targets
        self._size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        active = augmentation is not None and augmentation != AugmentConfig()
        self._augmentation = augmentation if active else None
        self._n_classes = n_classes
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
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive(self._seed, "order", epoch))
            order = torch.randperm(len(self._targets), generator=generator)[: self._n_used]
        else:
            order = torch.arange(self._n_used)
        order = order.to(self._inputs.device)
        number = start
        for block in order[start * self._size :].split(self._block):
            inputs = self._inputs.index_select(0, block)
            if self._last:
                inputs = inputs.permute(0, 3, 1, 2)  # (B, H, W, C) in memory, (B, C, H, W) by index
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

    Before each epoch PyTorch's generator is seeded from (seed, epoch), so shuffling and random transforms in the
    main process repeat; a resumed epoch skips its first batches by reading them.

    Args:
        source: a ``Dataset`` (shuffled here) or a ``DataLoader`` (taken as it is) of (input, target) pairs.
        batch_size: for a ``Dataset``.
        seed: rules the order.
        device: where the batches go.
    """

    def __init__(
        self, source: Dataset[Any] | DataLoader[Any], batch_size: int, *, seed: int, device: torch.device
    ) -> None:
        if isinstance(source, DataLoader):
            self._loader: DataLoader[Any] = source
        else:
            self._loader = DataLoader(source, batch_size=batch_size, shuffle=isinstance(source, Sized))
        self._seed = seed
        self._device = device

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return len(self._loader)

    @property
    def n_samples(self) -> int:
        """Samples in one epoch."""
        return len(self._loader.dataset) if isinstance(self._loader.dataset, Sized) else 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from number ``start`` on."""
        torch.manual_seed(derive(self._seed, "loader", epoch))
        if self._loader.generator is not None:
            self._loader.generator.manual_seed(derive(self._seed, "loader", epoch))
        for number, batch in enumerate(self._loader):
            if not (isinstance(batch, (list, tuple)) and len(batch) == 2):
                raise DataError(f"the loader yields {type(batch).__name__}", expected="pairs (inputs, targets)")
            if number >= start:
                yield batch[0].to(self._device), batch[1].to(self._device)
