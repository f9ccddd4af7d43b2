"""Every fold on networks for texts: a network or graph that still reads tokens, or one line that says why not."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import pytest
import torch
from tests._networks import network, shown

from dimwise import fold, ship
from dimwise.data.sets import Data
from dimwise.errors import DimwiseError
from dimwise.fold import FOLDS, GRAPH_FOLDS, _onnx
from dimwise.models import TOKENS
from dimwise.train.config import TrainConfig

WORK = {"distill", "equalise", "fuse", "prune", "quantize", "reduce", "share", "sparsify"}
"""Folds that have something to do in a network for texts; others may refuse, as separable does without convolutions."""
SMALL = {"epochs": 1, "round_to": 2, "min_channels": 2}


@pytest.fixture(scope="module", params=list(TOKENS))
def read(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Any, Data]:
    """A network, its graph and its data."""
    torch.manual_seed(0)
    data = shown(request.param, (12,), 48)
    net = network(request.param, (12,), 2, width=0.25).eval()
    return net, ship.graph(net, data.normalise, data.train.inputs[:1]), data


@pytest.mark.parametrize("name", FOLDS)
def test_every_fold_takes_tokens_or_says_why_not(name: str, read: tuple[torch.nn.Module, Any, Data]) -> None:
    net, graph, data = read
    train = TrainConfig(epochs=1, batch_size=16, precision="fp32", layout="contiguous", threads=1)
    evidence = fold.evidence(data, train=train)
    verb = fold.get(name)
    kind = get_type_hints(verb)["config"]
    known = {field.name for field in dataclasses.fields(kind)}
    config = kind(**{key: value for key, value in SMALL.items() if key in known})
    try:
        made, report = verb(graph if name in GRAPH_FOLDS else net, config, evidence)
    except DimwiseError as error:
        assert name not in WORK, error  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    rows = data.valid.inputs[:5]
    if name in GRAPH_FOLDS:
        outputs = torch.from_numpy(_onnx.outputs(made, rows.numpy()))
    else:
        with torch.no_grad():
            outputs = made.eval()(rows)
    assert outputs.shape == (5, 2)
    assert torch.isfinite(outputs).all()
    assert report.cost_after["size_bytes"] <= 1.1 * report.cost_before["size_bytes"]
