"""The graph's folds on every network of the table: a valid graph of the same outputs, in a smaller file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from tests._networks import inputs, network

from dimwise import ship
from dimwise.data.sets import Data, Normalise, Split
from dimwise.fold import GRAPH_FOLDS, _onnx, get
from dimwise.fold._gather import evidence as gathered
from dimwise.fold._steps import parse
from dimwise.models import MODELS, TOKENS
from dimwise.train.config import TrainConfig

WAYS = ("quantize", "quantize(dynamic)", "quantize(weights)", "quantize(int4)", "share(palette16)", "cast")


def test_every_graph_fold_is_here():
    assert {step.name for way in WAYS for step in parse(way)} == set(GRAPH_FOLDS)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_of_the_table(name):
    shape = (12,) if name in TOKENS else (1, 32, 32) if name == "lenet5" else (3, 32, 32)
    torch.manual_seed(0)
    net = network(name, shape, 4, width=0.25 if name != "lenet5" else 1.0)
    x = inputs(name, 16, *shape)
    split = Split(x, torch.arange(16) % 4)
    normalise = torch.nn.Identity() if name in TOKENS else Normalise(1.0, (0.0,) * shape[0], (1.0,) * shape[0])
    data = Data("made", split, split, split, tuple("abcd"), normalise)
    graph = ship.graph(net, normalise, x[:1])
    text = graph.SerializeToString()
    before = _onnx.outputs(graph, x.numpy())
    evidence = gathered(data, train=TrainConfig(epochs=1), score=lambda _: 1.0)
    for way in WAYS:
        (step,) = parse(way)
        made, report = get(step.name)(graph, step.config, evidence)
        onnx.checker.check_model(made, full_check=True)
        after = _onnx.outputs(made, x.numpy())
        assert after.shape == before.shape
        assert np.isfinite(after).all()
        assert np.abs(after - before).max() < 0.5 * np.abs(before).max(), way
        assert report.layers
        assert len(made.SerializeToString()) < len(text), way
        assert graph.SerializeToString() == text
