"""What the tests of graphs share: networks of digits, and their graphs written by hand."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.train import TrainConfig, fit


def _proto(nodes, constants, input_info, output_shape, opset=18):
    """An onnx.ModelProto; constants: name -> array; input_info: (dtype, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", *input_info)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _graph_of(net: nn.Sequential, normalise: Normalise, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The graph of raw uint8 input -> normalise -> net, written by hand: the exporter takes seconds."""
    view = (1, -1) + (1,) * (len(shape) - 1)
    constants = {
        "factor": normalise.factor.view(view).numpy(),
        "offset": normalise.offset.view(view).numpy(),
    }
    nodes = [
        helper.make_node("Cast", ["input"], ["raw"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["raw", "factor"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "offset"], ["x"], "shift"),
    ]
    x = "x"
    for i, layer in enumerate(net):
        y = "output" if i == len(net) - 1 else f"t{i}"
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            constants |= {f"{i}.{name}": p.detach().numpy() for name, p in layer.named_parameters()}
        inputs = [x, f"{i}.weight", f"{i}.bias"]
        if isinstance(layer, nn.Conv2d):
            pads = [*layer.padding, *layer.padding]
            nodes.append(helper.make_node("Conv", inputs, [y], f"conv{i}", pads=pads, group=layer.groups))
        elif isinstance(layer, nn.Linear):
            nodes.append(helper.make_node("Gemm", inputs, [y], f"gemm{i}", transB=1))
        elif isinstance(layer, nn.ReLU):
            nodes.append(helper.make_node("Relu", [x], [y], f"relu{i}"))
        elif isinstance(layer, nn.MaxPool2d):
            nodes.append(helper.make_node("MaxPool", [x], [y], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2]))
        else:
            assert isinstance(layer, nn.Flatten)
            nodes.append(helper.make_node("Flatten", [x], [y], f"flatten{i}"))
        x = y
    n_outputs = [m for m in net if isinstance(m, nn.Linear)][-1].out_features
    return _proto(nodes, constants, (TensorProto.UINT8, ["N", *shape]), ["N", n_outputs])


@pytest.fixture(scope="session")
def proto() -> Callable[..., onnx.ModelProto]:
    return _proto


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., onnx.ModelProto]:
    return _graph_of


@pytest.fixture(scope="session")
def digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8), 0 to 16
    targets = torch.from_numpy(bunch.target)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    parts = [Split(inputs[part], targets[part]) for part in order.split([1000, 500, 297])]
    labels = tuple(str(i) for i in range(10))
    return Data("digits", parts[0], parts[1], parts[2], labels, Normalise(1 / 16, (0.3,), (0.38,)))


@pytest.fixture(scope="session")
def network(digits: Data) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    config = TrainConfig(epochs=6, lr=1e-2, precision="fp32", layout="contiguous", threads=1)
    fit(net, digits, config=config)
    return net.eval()


@pytest.fixture(scope="session")
def graph(network: nn.Sequential, digits: Data) -> onnx.ModelProto:
    assert isinstance(digits.normalise, Normalise)
    return _graph_of(network, digits.normalise, (1, 8, 8))


@pytest.fixture(scope="session")
def evidence(digits: Data) -> fold.Evidence:
    return fold.evidence(digits)
