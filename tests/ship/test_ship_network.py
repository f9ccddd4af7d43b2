"""A network as a folder where PyTorch serves: what is written is what it computes, and never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dimwise.data.sets import Data
from dimwise.errors import RunError
from dimwise.ship.network import NETWORK, is_network, save_network

SOURCE = {"steps": "prune", "seed": 3}


class Branching(nn.Module):
    """Goes another way for another value: no graph says that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(72, 3), nn.Linear(3, 3)
        self.last.weight = nn.Parameter(torch.eye(3))
        self.tied = self.last

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        return self.last(h if float(h.sum()) > 0 else h.abs())


class Noisy(nn.Module):
    """Never says the same twice, so that nothing can be proven about its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x.flatten(1)) + torch.randn(3)


def test_a_network_is_written_with_its_preprocessing(net: nn.Module, data: Data, tmp_path: Path) -> None:
    save_network(net, data, tmp_path / "kept", source=SOURCE, score=0.5)
    about = json.loads((tmp_path / "kept" / NETWORK).read_text())
    (name,) = about["files"]
    assert (name, about["score"], about["source"]) == ("network.pt2", 0.5, SOURCE)
    assert about["files"][name]["bytes"] == (tmp_path / "kept" / name).stat().st_size
    assert about["input"] == {"shape": [None, 3, 4, 6], "dtype": "uint8", "normalised": False}
    assert about["network_input"] == {"shape": [None, 3, 4, 6], "dtype": "float32"}
    assert about["preprocessing"]["where"] == "inside the graph"
    assert about["labels"] == list(data.labels)
    program: Any = torch.export.load(tmp_path / "kept" / name).module()
    x = data.test.inputs[:7]
    with torch.no_grad():
        assert torch.allclose(program(x), net.eval()(data.normalise(x)), atol=1e-5)
    assert is_network(tmp_path / "kept")
    assert not is_network(tmp_path)


@pytest.mark.parametrize("kind", [Branching, Noisy])
def test_what_no_graph_says_right_leaves_its_weights(
    kind: type[nn.Module], data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = kind().eval()
    save_network(network, data, tmp_path, source=SOURCE, score=0.5)
    about = json.loads((tmp_path / NETWORK).read_text())
    assert list(about["files"]) == ["network.safetensors"]
    assert about["input"] == {"shape": [None, 3, 4, 6], "dtype": "float32", "normalised": True}
    assert about["preprocessing"]["where"] == "before the network"
    assert "first" in about["modules"]
    weights = load_file(tmp_path / "network.safetensors")
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_what_is_written_again_leaves_nothing_of_before(net: nn.Module, data: Data, tmp_path: Path) -> None:
    save_network(Branching(), data, tmp_path, source=SOURCE, score=0.5)
    save_network(net, data, tmp_path, source=SOURCE, score=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NETWORK, "network.pt2"]


def test_a_folder_that_cannot_be_made_is_one_line(net: nn.Module, data: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="a file stands where a folder should be"):
        save_network(net, data, tmp_path / "file", source=SOURCE, score=0.5)
