"""Progressive training: images start small and grow, the weights stay.

A convolution costs as much as its map has pixels, so an epoch on images of 5/8 of the side costs two fifths. Coarse
features are learnt there as well; the last epochs at full size settle the rest. The network must end in a global pool,
so that it takes images of any size.

Source: Howard 2018 (fast.ai on DAWNBench), Touvron et al. 2019 (FixRes), Leclerc et al. 2023 (FFCV).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from dimwise.data.batches import Batches
from dimwise.errors import DataError

_STEPS = (0.35, 0.7)  # fractions of the run at which images grow; the last third and the evaluation are at full size


def side_frac(epoch: int, n_epochs: int, start: float) -> float:
    """Side of the images of an epoch as a fraction of the full side: ``start``, the middle, then 1.

    Args:
        epoch: from 0.
        n_epochs: of the whole run.
        start: fraction at the start, 0 < start ≤ 1.

    Example:
        >>> [side_frac(e, 10, 0.5) for e in range(10)]
        [0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 1.0, 1.0, 1.0]
    """
    done = epoch / n_epochs
    if done < _STEPS[0]:
        return start
    return (1 + start) / 2 if done < _STEPS[1] else 1.0


def shrink(x: Tensor, frac: float) -> Tensor:
    """Images (B, C, H, W) at a fraction of their sides, to multiples of 4 pixels; each pixel the mean of its area.

    Memory order and type are kept. With ``frac`` = 1 the very same tensor comes back.

    Raises:
        DataError: when the inputs are no images.

    Example:
        >>> import torch
        >>> shrink(torch.ones(2, 3, 32, 32), 0.625).shape
        torch.Size([2, 3, 20, 20])
    """
    if frac == 1:
        return x
    if x.dim() != 4:
        raise DataError(
            f"augment.grow_from is set for inputs of shape {tuple(x.shape[1:])}",
            expected="images (C, H, W)",
            next_step="Set augment.grow_from=1.",
        )
    sides = [max(4, round(side * frac / 4) * 4) for side in x.shape[2:]]
    return F.interpolate(x, size=sides, mode="area")


class Growing:
    """Batches whose images grow over the run.

    Args:
        batches: the batches at full size.
        start: fraction of the side at the start.
        n_epochs: of the whole run.
    """

    def __init__(self, batches: Batches, start: float, n_epochs: int) -> None:
        self._batches = batches
        self._start = start
        self._n_epochs = n_epochs

    @property
    def n_batches(self) -> int:
        """Batches in one epoch."""
        return self._batches.n_batches

    @property
    def n_samples(self) -> int:
        """Samples in one epoch."""
        return self._batches.n_samples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from number ``start`` on, at the size of that epoch."""
        frac = side_frac(epoch, self._n_epochs, self._start)
        for x, y in self._batches.epoch(epoch, start):
            yield shrink(x, frac), y


class Shrinking:
    """Shrinks the batches of a whole run one after the other, each to the size of its epoch.

    For a training step that needs a batch at its full size as well: :class:`Growing` hides it.

    Args:
        start: fraction of the side at the start.
        n_epochs: of the run.
        n_batches: in one epoch.

    Example:
        >>> import torch
        >>> shrinking = Shrinking(0.5, n_epochs=3, n_batches=2)
        >>> [shrinking(torch.ones(1, 1, 8, 8)).shape[-1] for _ in range(6)]
        [4, 4, 4, 4, 8, 8]
    """

    def __init__(self, start: float, n_epochs: int, n_batches: int) -> None:
        self._start = start
        self._n_epochs = n_epochs
        self._n_batches = n_batches
        self._n_seen = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The next batch of the run, smaller."""
        epoch = self._n_seen // self._n_batches
        self._n_seen += 1
        return shrink(x, side_frac(epoch, self._n_epochs, self._start))
