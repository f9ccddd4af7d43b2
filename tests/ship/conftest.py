"""Exports cost seconds: each is made once and shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from dimwise.data.sets import Data, Normalise, Split
from dimwise.ship import to_onnx

LABELS = ("cat", "dog", "fox")


class SmallNet(nn.Module):
    """Convolution, batch norm with statistics of its own, residual, dropout: everything that has two modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 2 * 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:  # exporters turn layers they know to evaluation; this one they do not know
            x = x + 1
        x = torch.relu(self.bn(self.conv1(x)))  # (B, 8, 4, 6)
        x = torch.max_pool2d(x + self.conv2(x), 2)  # (B, 8, 2, 3)
        return self.fc(self.drop(x.flatten(1)))


def make_net() -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet()
    with torch.no_grad():
        assert net.bn.running_mean is not None
        assert net.bn.running_var is not None
        net.bn.running_mean.normal_()
        net.bn.running_var.uniform_(0.5, 2)
        net.bn.weight.uniform_(0.5, 2)
        net.bn.bias.normal_()
    return net


def make_data() -> Data:
    generator = torch.Generator().manual_seed(1)

    def split(n: int) -> Split:
        inputs = torch.randint(0, 256, (n, 3, 4, 6), generator=generator, dtype=torch.uint8)
        return Split(inputs, torch.arange(n) % 3)

    return Data(
        name="noise",
        train=split(8),
        valid=split(8),
        test=split(90),
        labels=LABELS,
        normalise=Normalise(1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)),
        reading={"kind": "image", "channels": 3, "height": 4, "width": 6},
    )


@pytest.fixture
def fresh_net() -> SmallNet:
    """The same network as ``net``, to be changed."""
    return make_net()


@pytest.fixture(scope="session")
def net() -> SmallNet:
    return make_net()


@pytest.fixture(scope="session")
def data() -> Data:
    return make_data()


@pytest.fixture(scope="session")
def image_artifact(net: Any, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported as a user would, and only read by tests."""
    return to_onnx(net, data, tmp_path_factory.mktemp("ship") / "fp32", name="fp32", source={"recipe": "t"}).folder


@pytest.fixture(scope="session")
def image_proto(image_artifact: Path) -> Any:
    """The graph in it."""
    return onnx.load(image_artifact / "model.onnx")


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of an artifact to break."""

    def copy(folder: Path) -> Path:
        target = tmp_path / "copy"
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    return copy
