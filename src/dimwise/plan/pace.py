"""How long training takes, and how long a candidate may be trained at most in the time there is."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch

from dimwise.fold import DistillConfig, Evidence
from dimwise.fold._steps import parse
from dimwise.plan.apply import Subject
from dimwise.plan.space import training_folds
from dimwise.train.optimizer import optimizer


def seconds_per_epoch(subject: Subject, evidence: Evidence, *, n_steps: int = 3) -> float:
    """How long one pass of training takes, from a few steps of a copy; of a graph's student, as wide as they get."""
    if subject.network is None and subject.student is None:
        return 0.0
    try:
        model = copy.deepcopy(subject.network)
        if model is None:
            assert subject.student is not None
            model = subject.student(DistillConfig(scale=1.0), evidence)
        model.train()
        data, config = evidence.data, evidence.train
        rows = min(config.batch_size, len(data.train))
        x, y = data.normalise(data.train.inputs[:rows]), data.train.targets[:rows]
        update, taken = optimizer(model, config), []
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            for _ in range(n_steps):
                began = time.perf_counter()
                evidence.task.loss(model(x), y).backward()
                update.step()
                update.zero_grad()
                taken.append(time.perf_counter() - began)
    except Exception:  # noqa: BLE001  (only an estimate; what cannot be trained says so when it is)
        return 1.0
    return min(taken) * -(-len(data.train) // rows)


def full_epochs(base: Mapping[str, Any], trained_epochs: int, time_s: float, epoch_s: float) -> dict[str, int]:
    """Epochs of a full training: what the fold's settings say, but no more than a tenth of the time allows.

    Args:
        base: fold -> its settings.
        trained_epochs: those of the original's training.
        time_s: of the whole search.
        epoch_s: of one pass.

    Example:
        >>> full_epochs({}, 60, time_s=1200, epoch_s=1.0)
        {'distill': 60, 'separable': 15, 'prune': 15, 'lowrank': 15, 'qat': 15}
        >>> full_epochs({}, 60, time_s=100, epoch_s=1.0)["distill"]
        10
    """
    most = max(1, int(0.1 * time_s / max(epoch_s, 1e-6)))
    found = {}
    for name in training_folds():
        full = getattr(base.get(name), "epochs", 0) or parse(name)[0].config.epochs or trained_epochs
        found[name] = min(full if name == "distill" else max(full, trained_epochs // 4), most)
    return found
