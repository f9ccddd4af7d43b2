"""Bytes on disk are the file's; names of the room arrive when asked for."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from dimwise import measure
from dimwise.measure import Cost, n_params, state_size_bytes
from dimwise.models import build


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    return model


def transposed() -> nn.Module:
    model = nn.Linear(3, 5)
    model.weight = nn.Parameter(torch.zeros(3, 5).t())
    return model


@pytest.mark.parametrize(
    "model",
    [build("small_cnn", (1, 8, 8), 10), build("resnet20", (3, 8, 8), 10), tied(), nn.ReLU(), nn.Linear(3, 5).half()],
    ids=["small_cnn", "resnet20", "tied", "empty", "half"],
)
def test_size_is_that_of_the_file(model: nn.Module, tmp_path: Path) -> None:
    save_model(model, str(tmp_path / "w.safetensors"))
    # save_model notes the name of a tensor it left out in the header, and nothing else
    slack = 60 if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Embedding) else 0
    assert abs((tmp_path / "w.safetensors").stat().st_size - state_size_bytes(model)) <= slack


def test_size_of_strided_and_of_shape_only_weights() -> None:
    assert state_size_bytes(transposed()) == state_size_bytes(nn.Linear(3, 5))
    assert state_size_bytes(nn.Linear(3, 5).to("meta")) == state_size_bytes(nn.Linear(3, 5))
    assert state_size_bytes(nn.Linear(300, 5)) > 4 * 1505


def test_shared_parameters_count_once() -> None:
    assert n_params(tied()) == 400
    assert state_size_bytes(tied()) < 2 * 4 * 400


def test_cost_is_frozen_and_tells_what_was_measured() -> None:
    cost = Cost(params=1, macs=2, size_bytes=3, latency_p50_ms=0.5, best_batch=8)
    assert cost.as_dict() == {"params": 1, "macs": 2, "size_bytes": 3, "latency_p50_ms": 0.5, "best_batch": 8}
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost.params = 2  # type: ignore[misc]


def test_every_name_of_the_room_arrives_and_is_hidden_by_no_file() -> None:
    folder = Path(measure.__file__).parent
    files = {p.stem for p in folder.glob("*.py")}
    assert set(measure.__all__) == set(measure._EXPORTS)
    assert not files & set(measure.__all__)
    for name, home in measure._EXPORTS.items():
        module = importlib.import_module(home)
        assert getattr(measure, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute 'speed'"):
        measure.speed  # noqa: B018
