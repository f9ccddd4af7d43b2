"""A small trained network of digits, shared by the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dimwise import fold
from dimwise.data import load as load_data
from dimwise.data.config import DataConfig
from dimwise.fold import Evidence
from dimwise.models import build
from dimwise.plan.apply import Subject
from dimwise.train import TrainConfig, fit


@dataclass(frozen=True)
class Trained:
    """A subject and its evidence."""

    subject: Subject
    evidence: Evidence


@pytest.fixture(scope="session")
def trained() -> Trained:
    """An mlp that has seen 400 digits a few times."""
    data = load_data(DataConfig(source="digits", train_limit=400))
    told: dict[str, Any] = {"precision": "fp32", "layout": "contiguous", "threads": 1}
    config = TrainConfig(epochs=8, lr=0.01, **told)
    torch.manual_seed(0)
    network = fit(build("mlp", data.input_shape, data.n_outputs, width=0.5), data, config=config).model.eval()
    return Trained(Subject(network), fold.evidence(data, train=config))
