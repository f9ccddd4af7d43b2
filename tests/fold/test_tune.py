"""The short training that wins a score back."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any

import torch

from dimwise import fold
from dimwise.data import load as load_data
from dimwise.data.augment import AugmentConfig
from dimwise.data.config import DataConfig
from dimwise.fold._tune import grown, recover
from dimwise.models import build
from dimwise.train import TrainConfig


def test_a_trained_network_sees_images_at_their_full_size():
    data = load_data(DataConfig(source="digits", train_limit=200))
    told: dict[str, Any] = {"precision": "fp32", "layout": "contiguous", "threads": 1}
    augment = AugmentConfig(crop=1, grow_from=0.5)
    looks = fold.evidence(data, train=TrainConfig(epochs=4, **told), augment=augment)
    torch.manual_seed(0)
    network = build("small_cnn", data.input_shape, data.n_outputs, width=0.25)
    seen = set()

    def watched(step: Any) -> Any:
        def looking(model: Any, x: torch.Tensor, y: torch.Tensor, task: Any) -> torch.Tensor:
            seen.add(tuple(x.shape[1:]))
            return step(model, x, y, task)

        return looking

    recover(deepcopy(network), network, looks, fold="prune", epochs=2, lr_frac=0.1, teacher=False, around=watched)
    assert seen == {(1, 8, 8)}
    assert grown(looks) == dataclasses.replace(augment, grow_from=1.0)
    assert grown(fold.evidence(data)) is None
