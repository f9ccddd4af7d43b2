"""What folds share that change a trained network and then win its score back: a short, gentle training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from dimwise.data.augment import AugmentConfig
from dimwise.errors import DataError
from dimwise.fold._evidence import Evidence
from dimwise.fold._teaching.teachers import lessons, network_teacher
from dimwise.fold.distill import KINDS, DistillConfig, taught_by
from dimwise.seeds import derive
from dimwise.train.fit import fit
from dimwise.train.loop import StepFunction, plain_step


def recover(
    small: nn.Module,
    original: nn.Module,
    evidence: Evidence,
    *,
    fold: str,
    epochs: int,
    lr_frac: float,
    teacher: bool,
    around: Callable[[StepFunction], StepFunction] | None = None,
) -> nn.Module:
    """Train ``small`` as the original was, more shortly and gently, towards the original's outputs.

    Args:
        small: the changed network; trained in place, on the device of the training.
        original: the network it came from; not changed.
        evidence: how the original was trained, and on what.
        fold: name of the fold, so that each draws its own random numbers.
        epochs: passes over the training split, ≥ 1.
        lr_frac: learning rate as a fraction of the original training's, in (0, 1].
        teacher: learn from the original's outputs as well as the labels, where the task has such a loss.
        around: makes another training step of the usual one, such as one under a mask.

    Returns:
        The network with the weights that were kept.

    Raises:
        NonFiniteLoss: as in training.
    """
    settings = dataclasses.replace(
        evidence.train, epochs=epochs, lr=evidence.train.lr * lr_frac, seed=derive(evidence.seed, fold, "tune")
    )
    kind = evidence.data.task
    looks, step = dataclasses.replace(evidence, augment=grown(evidence)), cast(StepFunction, plain_step)
    if teacher and kind in KINDS:
        config, network = DistillConfig(), deepcopy(original)
        looks, lesson = lessons(network, network_teacher(network), looks, views=config.views, epochs=epochs)
        step = taught_by(lesson, config, kind)
    step = step if around is None else around(step)
    return fit(
        small, looks.data, looks.task, settings, step=step, augment=looks.augment, progress=evidence.progress
    ).model


def grown(evidence: Evidence) -> AugmentConfig | None:
    """The augmentation of the original's training with images at their full size from the start.

    Small images are for what has everything to learn; in a network that is trained they move the statistics of its
    norms to where they must come back from.
    """
    return None if evidence.augment is None else dataclasses.replace(evidence.augment, grow_from=1.0)


def training_batches(evidence: Evidence, n_batches: int, *, fold: str, need: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised training inputs and their targets in a seeded order, 64 at a time, without augmentation.

    Args:
        evidence: whose training split is read.
        n_batches: most batches.
        fold: name of the fold, so that each draws its own order.
        need: what to say when there are none: what for, and what works without.

    Raises:
        DataError: when the training split is empty.
    """
    data = evidence.data
    if len(data.train) == 0:
        raise DataError(f"{data.name} has no training inputs", expected="some hundred of them", next_step=need)
    generator = torch.Generator().manual_seed(derive(evidence.seed, fold, "batches"))
    order = torch.randperm(len(data.train), generator=generator)[: 64 * n_batches]
    for rows in order.split(64):
        yield data.normalise(data.train.inputs[rows]), data.train.targets[rows]
