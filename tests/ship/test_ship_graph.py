"""The exported graph against PyTorch, for networks of every kind and every network of the table."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests._networks import inputs, network
from torch import nn

from dimwise.data.sets import Data, Normalise
from dimwise.errors import ModelError
from dimwise.models import MODELS, TOKENS
from dimwise.ship import graph, session

BATCHES = (1, 3, 64)


def same_everywhere(model: nn.Module, normalise: nn.Module, proto: onnx.ModelProto, raw: torch.Tensor) -> None:
    """Outputs equal at batch sizes that the export has not seen."""
    runner = session(proto.SerializeToString())
    model.eval()
    for batch in BATCHES:
        x = raw[torch.arange(batch) % len(raw)]
        with torch.no_grad():
            expected = model(normalise(x)).numpy()
        found = runner.run(x.numpy())
        assert found.dtype == np.float32
        assert found.shape == expected.shape == (batch, expected.shape[1])
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(axis=1).mean()


def test_image_network(net: Any, data: Data, image_proto: Any) -> None:
    same_everywhere(net, data.normalise, image_proto, data.test.inputs)
    source, target = image_proto.graph.input[0], image_proto.graph.output[0]
    assert (source.name, target.name) == ("input", "output")
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert target.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert source.type.tensor_type.shape.dim[0].dim_param == target.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [d.dim_value for d in source.type.tensor_type.shape.dim[1:]] == [3, 4, 6]


def test_graph_is_lean_and_readable(net: Any, image_proto: Any) -> None:
    names = [tensor.name for tensor in image_proto.graph.initializer]
    assert {"conv1.weight", "conv2.weight", "conv2.bias", "fc.weight", "fc.bias"} <= set(names)
    assert {"normalise.factor", "normalise.offset"} <= set(names)
    assert {"conv1", "conv2", "fc"} <= {node.name for node in image_proto.graph.node}
    assert len({node.name for node in image_proto.graph.node}) == len(image_proto.graph.node)
    # Batch norm is folded into conv1, dropout gone.
    assert not {"BatchNormalization", "Dropout"} & {node.op_type for node in image_proto.graph.node}
    assert not image_proto.metadata_props
    assert not image_proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in image_proto.graph.node)
    weights = sum(4 * p.numel() for p in net.parameters())
    assert image_proto.ByteSize() < weights + 1500


def test_normalisation_inside_is_exact() -> None:
    """Every byte value, through the graph alone: the same float32 as torch computes, bit for bit."""

    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    normalise = Normalise(1 / 255, (0.1307,), (0.3081,))
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    runner = session(graph(First(), normalise, values).SerializeToString())
    assert np.array_equal(runner.run(values.numpy()), normalise(values).flatten(1).numpy())
    in_double = (values.double() / 255 - 0.1307) / 0.3081
    assert np.abs(runner.run(values.numpy()) - in_double.flatten(1).numpy()).max() < 1e-6


def test_model_is_left_as_it_was(fresh_net: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Modes, parameters, gradients and statistics stay; nothing is printed, logged or warned."""
    net = fresh_net.train()
    net.bn.eval()  # a frozen layer inside a training network
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph(net, Normalise(1 / 255, (0.5,) * 3, (0.5,) * 3), torch.zeros(1, 3, 4, 6, dtype=torch.uint8))
    assert net.training
    assert net.drop.training
    assert not net.bn.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.requires_grad and torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())
    assert capfd.readouterr() == ("", "")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer(x).mean(1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.GELU(), nn.Linear(7, 2)), (5,)),
        (Recurrent(), (4, 5)),
        (Attention(), (4, 8)),
    ],
    ids=["table", "recurrent", "attention"],
)
def test_plain_modules_on_float_rows(model: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    raw = torch.randn(10, *shape) * 5 + 2
    normalise = Normalise(1.0, (2.0,) * shape[0], (5.0,) * shape[0])
    proto = graph(model, normalise, raw)
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    same_everywhere(model, normalise, proto, raw)


SIZES = {
    "fast_cnn": (1, 28, 28),
    "lenet5": (1, 32, 32),
    "guide_cnn": (1, 12, 12),
    "mlp": (1, 6, 6),
    "small_cnn": (1, 8, 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_the_table(name: str) -> None:
    shape = SIZES.get(name, (12,) if name in TOKENS else (3, 16, 16))
    torch.manual_seed(5)
    model = network(name, shape, 4, width=1.0 if name == "lenet5" else 0.125, dropout=0.2)
    with torch.no_grad():  # trained networks have statistics; fresh ones would hide a batch norm left in train mode
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
    normalise: nn.Module = Normalise(1 / 255, (0.5,) * shape[0], (0.25,) * shape[0])
    raw = torch.randint(0, 256, (10, *shape), dtype=torch.uint8)
    if name in TOKENS:
        normalise, raw = nn.Identity(), inputs(name, 10, *shape)
    proto = graph(model, normalise, raw)
    same_everywhere(model, normalise, proto, raw)
    kind = onnx.TensorProto.INT64 if name in TOKENS else onnx.TensorProto.UINT8
    assert proto.graph.input[0].type.tensor_type.elem_type == kind


def test_compiled_and_channels_last_networks_export_what_they_wrap(net: Any, fresh_net: Any, data: Data) -> None:
    compiled: Any = torch.compile(fresh_net.to(memory_format=torch.channels_last), backend="eager")
    proto = graph(compiled, data.normalise, data.train.inputs)
    assert "conv1.weight" in {tensor.name for tensor in proto.graph.initializer}
    same_everywhere(net, data.normalise, proto, data.test.inputs)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(72, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


class FixedBatch(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).view(2, 3)


class Branching(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@torch.library.custom_op("dimwise_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Custom(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return twice(super().forward(x))


class Two(Flat):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Labels(Flat):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FixedBatch, r"the batch size is fixed inside the model; expected a forward .* x\.view\(x\.shape\[0\], -1\)"),
        (Branching, r"torch cannot export the model: Could not guard on data-dependent .* no Python if or loop"),
        (
            Custom,
            r"^torch cannot export the model: ONNX has no operator for dimwise_tests::twice; expected operators that "
            r"torch\.onnx can translate\. Write it with PyTorch's usual operations, or keep the network in PyTorch\.$",
        ),
        (Two, r"the model returns 2 tensors; expected one"),
        (Labels, r"the model returns int64 of shape \(batch\); expected float32 scores of shape \(batch, K\)"),
    ],
)
def test_what_cannot_be_exported_says_why(
    kind: type[nn.Module], message: str, data: Data, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=message):
        graph(kind(), data.normalise, data.train.inputs)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("example", [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3), torch.zeros(0, 3)])
def test_strange_examples_are_refused(example: torch.Tensor, net: Any, data: Data) -> None:
    with pytest.raises(ModelError, match=r"raw_example is float(32|64) of shape .*; expected uint8 images"):
        graph(net, data.normalise, example)
