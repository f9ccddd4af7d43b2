"""Int8 inside PyTorch: near the float network, weights on the int8 grid, and one clear line when it cannot be."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn

from dimwise.data.sets import Split
from dimwise.errors import DataError, MissingExtra, UserError
from dimwise.fold import quantize_pytorch


def test_outputs_are_near_and_weights_are_int8(network, evidence, digits):
    pytest.importorskip("torchao")
    before = copy.deepcopy(network.state_dict())
    made = quantize_pytorch(network, evidence)
    hits = 0
    with torch.no_grad():
        for i in range(100):
            x = digits.normalise(digits.test.inputs[i : i + 1])
            want, got = network(x), made(x)
            hits += int(want.argmax() == got.argmax())
            assert (want - got).abs().max() < 0.15 * want.abs().max()
    assert hits >= 97
    kinds = [str(node.target) for node in made.graph.nodes if node.op == "call_function"]  # type: ignore[union-attr]
    assert any("quantized_decomposed.dequantize_per_channel" in kind for kind in kinds)
    assert any("quantized_decomposed.quantize_per_tensor" in kind for kind in kinds)
    assert any(t.dtype == torch.int8 for t in made.state_dict().values())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_what_cannot_be_done_is_told(network, evidence, digits, monkeypatch):
    with pytest.raises(UserError, match=r"quantize_pytorch was given a str; expected a torch\.nn\.Module"):
        quantize_pytorch("model", evidence)  # type: ignore[arg-type]
    none = dataclasses.replace(digits, train=Split(digits.train.inputs[:0], digits.train.targets[:0]))
    with pytest.raises(DataError, match="training split of 'digits' is empty: nothing to calibrate on"):
        quantize_pytorch(network, dataclasses.replace(evidence, data=none))
    for name in [n for n in sys.modules if n == "torchao" or n.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtra, match=r"int8 inside PyTorch needs torchao.*dimwise\[pt2e\]"):
        quantize_pytorch(nn.Linear(2, 2), evidence)
