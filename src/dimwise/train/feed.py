"""From what the user has (dimwise data, tensors, a ``Dataset``, a ``DataLoader``) to what the loop reads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dimwise.data.augment import AugmentConfig
from dimwise.data.batches import Batches, LoaderBatches, TensorBatches
from dimwise.data.grow import Growing
from dimwise.data.sets import Data, Split
from dimwise.errors import DataError, ModelError, UserError, a_kind
from dimwise.measure import evaluating
from dimwise.tasks import Task
from dimwise.tasks.classification import Classification
from dimwise.train.config import TrainConfig
from dimwise.train.precision import Arithmetic

_WHOLE_BYTES = 2 << 30  # inputs up to this size as float32 are normalised once, larger ones batch by batch

Source = Data | tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]
"""What :func:`dimwise.train.fit.fit` takes as data."""


@dataclass(frozen=True)
class Feed:
    """What one run reads."""

    batches: Batches
    held_out: Split | None
    """The validation split, or None."""
    normalise: nn.Module | None
    """Raw → network input for ``held_out``; None when that was done already."""


def device_of(config: TrainConfig) -> torch.device:
    """Where the config wants it.

    Raises:
        UserError: CUDA is named and there is none.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is 'cuda' but this machine has none", next_step="Set train.device='auto'.")
    return torch.device(config.device)


def first_batch(data: Source, config: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The first rows as a batch, or None for a loader: reading one would draw from its generator.

    Raises:
        DataError: when there is not a single row, or the rows of inputs and targets differ in number.
    """
    if isinstance(data, (Dataset, DataLoader)):
        return None
    if not isinstance(data, Data):
        _require_tensors(data)
    inputs, targets = (data.train.inputs, data.train.targets) if isinstance(data, Data) else data
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise DataError(f"{len(inputs)} inputs and {len(targets)} targets", expected="as many of both, at least one")
    x = inputs[: config.batch_size]
    x = data.normalise(x) if isinstance(data, Data) else x
    return x.to(device), targets[: config.batch_size].to(device)


def _require_tensors(data: Any) -> None:
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return
    parts = ", ".join(type(part).__name__ for part in data) if isinstance(data, (tuple, list)) else ""
    raise DataError(
        f"the data is {a_kind(data)}{f' of {parts}' if parts else ''}",
        expected="dimwise data, a pair of tensors (inputs, targets), a Dataset or a DataLoader",
        next_step="Arrays become tensors with torch.from_numpy." if "ndarray" in parts else "",
    )


def require_labels(n_outputs: int, data: Source) -> None:
    """An output without a label could be trained, but never be served.

    Raises:
        ModelError: the network has more or fewer outputs than ``data`` has labels.
    """
    if isinstance(data, Data) and data.labels and n_outputs != data.n_outputs:
        raise ModelError(
            f"the network has {n_outputs} outputs",
            expected=f"{data.n_outputs}, one for each label of {data.name!r}",
            next_step="Build it for that many.",
        )


def check(model: nn.Module, batch: tuple[Tensor, Tensor], targets: Tensor, task: Task) -> int:
    """Make sure that network, inputs, targets and task go together, before an hour is spent.

    Args:
        model: the network; its mode and statistics stay as they are.
        batch: the first inputs and targets, on the device of the model.
        targets: those of the whole training split.
        task: whose loss is tried.

    Returns:
        Number of outputs.

    Raises:
        ModelError: when they do not go together, with the shapes.
        DataError: when a class has no output.
    """
    x, y = batch[0][:2], batch[1][:2]
    with evaluating(model):
        try:
            outputs = model(x)
        except Exception as error:  # a user's forward may raise anything
            raise ModelError(
                f"the network does not take inputs of shape (B, {_shape(x)}) and type {_type(x)}: {_line(error)}",
                next_step="Build it for this shape, or reshape the data.",
            ) from error
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the network returns {a_kind(outputs)}",
                expected="one tensor of shape (B, outputs)",
                next_step="Wrap it in a module that returns the scores alone.",
            )
        n_outputs = outputs.shape[-1] if outputs.dim() else 0
        if isinstance(task, Classification) and not targets.is_floating_point() and targets.dim() == 1:
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= n_outputs:
                raise DataError(
                    f"the classes go from {low} to {high} but the network has {n_outputs} outputs",
                    expected="classes from 0 to outputs - 1",
                    next_step="Give the last layer one output a class, or number the classes from 0.",
                )
        try:
            task.loss(outputs, y)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the loss does not take {n_outputs} outputs and targets of shape (B, {_shape(y)}) "
                f"and type {_type(y)}: {_line(error)}",
                next_step="Check the last layer, the targets and the task.",
            ) from error
    return n_outputs


def _shape(rows: Tensor) -> str:
    return ", ".join(str(n) for n in rows.shape[1:])


def _type(rows: Tensor) -> str:
    return str(rows.dtype).removeprefix("torch.")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160] or type(error).__name__


def feed(
    data: Source,
    config: TrainConfig,
    *,
    valid: Split | None,
    augment: AugmentConfig | None,
    arithmetic: Arithmetic,
    device: torch.device,
    n_outputs: int = 0,
) -> Feed:
    """Training batches in the layout and type they are computed in, and the held-out split.

    Args:
        data: what the user has.
        config: batch_size and seed.
        valid: held-out split of normalised inputs; stands before the one that ``data`` brings.
        augment: what happens to training batches on their way.
        arithmetic: layout and type of the inputs.
        device: where they go.
        n_outputs: width of mixed targets, for MixUp and CutMix of integer labels; 0 lets the data say.
    """
    valid = valid if valid is not None and len(valid) else None
    if isinstance(data, (Dataset, DataLoader)):
        if augment is not None and augment != AugmentConfig():
            raise UserError(
                "augmentation is set but the data is a loader",
                expected="tensors or dimwise data",
                next_step="Augment inside the Dataset, or pass tensors.",
            )
        return Feed(LoaderBatches(data, config.batch_size, seed=config.seed, device=device), valid, None)
    normalise: nn.Module | None = None
    held_out = valid
    if isinstance(data, Data):
        inputs, targets = data.train.inputs.to(device), data.train.targets
        normalise = copy.deepcopy(data.normalise).to(device)
        if valid is None and len(data.valid):
            held_out = data.valid
    else:
        inputs, targets = data[0].to(device), data[1]
    if not n_outputs and augment is not None and (augment.mixup or augment.cutmix):
        n_outputs = data.n_outputs if isinstance(data, Data) else int(targets.max()) + 1
    large = normalise is not None and inputs.numel() * 4 > _WHOLE_BYTES

    def prepare(x: Tensor) -> Tensor:
        return arithmetic.inputs(x if normalise is None else normalise(x))

    batches: Batches = TensorBatches(
        inputs if large else prepare(inputs),
        targets.to(device),
        config.batch_size,
        seed=config.seed,
        augmentation=augment,
        n_classes=n_outputs,
        prepare=prepare if large else None,
    )
    if augment is not None and augment.grow_from < 1:
        batches = Growing(batches, augment.grow_from, config.epochs)
    if held_out is None or held_out is valid or normalise is None:
        return Feed(batches, held_out, None)
    if held_out.inputs.numel() * 4 > _WHOLE_BYTES:
        return Feed(batches, held_out, normalise)
    return Feed(batches, Split(normalise(held_out.inputs.to(device)), held_out.targets), None)
