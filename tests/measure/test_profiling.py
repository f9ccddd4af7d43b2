"""Layer costs against closed forms, published numbers and PyTorch's own counter."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from tests._networks import usual, zeros
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dimwise.errors import ModelError
from dimwise.measure import Profile, n_params, profile
from dimwise.models import MODELS, USUAL, build


def only(profiled: Profile, name: str) -> Any:
    return next(row for row in profiled.rows if row.name == name)


@pytest.mark.parametrize("name", MODELS)
def test_totals_agree_with_pytorch_for_every_network(name: str) -> None:
    with torch.device("meta"):
        model = usual(name, width=0.25).eval()
        example = zeros(name, 2, *USUAL[name][0])
    profiled = profile(model, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    assert profiled.flops == counter.get_total_flops()
    assert profiled.params == n_params(model)
    assert sum(row.macs for row in profiled.rows) == profiled.macs
    assert {row.calls for row in profiled.rows} == {1}


def test_large_networks_have_the_published_macs() -> None:
    """He et al. 2015 table 1 (1.8 and 11.3 G, 11.5 G with the strides of v1.5), Sandler et al. 2018 table 4 (300 M)."""
    found = {}
    for name in ("resnet18", "resnet152", "mobilenetv2"):
        with torch.device("meta"):
            found[name] = profile(build(name, *USUAL[name]), torch.zeros(1, 3, 224, 224)).macs / 1e9
    assert found["resnet18"] == pytest.approx(1.8, rel=0.02)
    assert found["resnet152"] == pytest.approx(11.5, rel=0.01)
    assert found["mobilenetv2"] == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "output"),
    [
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5, (3, 5)),
        (nn.Linear(7, 5, bias=False), (3, 2, 7), 6 * 7 * 5, (3, 2, 5)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), 2 * 16 * 6 * 4 * 9, (2, 6, 4, 4)),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5), 9 * 8 * 9, (1, 8, 3, 3)),
        (nn.Conv1d(2, 3, 5), (1, 2, 9), 5 * 3 * 2 * 5, (1, 3, 5)),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), (1, 3, 4, 4), 16 * 3 * 2 * 4, (1, 2, 8, 8)),
        (nn.BatchNorm2d(4), (2, 4, 3, 3), 0, (2, 4, 3, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_closed_forms(layer: nn.Module, shape: tuple[int, ...], macs: int, output: tuple[int, ...]) -> None:
    (row,) = profile(layer, torch.zeros(shape)).rows
    assert (row.macs, row.input_shape, row.output_shape) == (macs, shape, output)
    assert row.params == n_params(layer)
    assert row.activation_bytes == 4 * torch.Size(output).numel()
    assert (row.name, row.kind) == ("model", type(layer).__name__)


class Attention(nn.Module):
    """Products without a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


class NeedsValues(nn.Module):
    """Cannot run on shapes alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.sum().item() < 0:
            raise AssertionError
        return self.inner(x)


@pytest.mark.parametrize("wrap", [nn.Sequential, NeedsValues], ids=["shapes", "values"])
def test_attention_is_charged_to_the_module_around_it(wrap: Any) -> None:
    profiled = profile(wrap(Attention()), torch.zeros(2, 5, 8))
    inner = [row for row in profiled.rows if row.kind == "Attention"]
    assert [row.macs for row in inner] == [2 * 2 * 5 * 5 * 8]  # batch · (q kᵀ and p v) · T² · E
    assert profiled.macs == 2 * (2 * 5 * 5 * 8 + 5 * 8 * 24)


@pytest.mark.parametrize("wrap", [nn.Sequential, NeedsValues], ids=["shapes", "values"])
def test_multihead_attention_counts_its_four_projections(wrap: Any) -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    model = wrap(Self())
    enabled = torch.backends.mha.get_fastpath_enabled()
    profiled = profile(model, torch.zeros(1, 5, 8))
    assert profiled.macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    assert profiled.params == n_params(model)
    assert torch.backends.mha.get_fastpath_enabled() == enabled


def test_lstm() -> None:
    model = nn.LSTM(3, 6, batch_first=True)
    assert profile(model, torch.zeros(2, 5, 3)).macs == 2 * 5 * 4 * 6 * (3 + 6)


def test_a_module_used_twice_has_its_parameters_once_and_its_work_twice() -> None:
    layer = nn.Linear(4, 4)
    profiled = profile(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4))
    assert profiled.params == 20
    assert profiled.macs == 32
    assert only(profiled, "0").calls == 2
    assert [row.name for row in profiled.rows] == ["0", "1"]


def test_a_shared_parameter_is_counted_in_the_first_row() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    profiled = profile(nn.Sequential(first, second), torch.zeros(1, 4))
    assert [row.params for row in profiled.rows] == [16, 0]


def test_views_take_no_bytes_and_idle_layers_are_listed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.drop, self.idle = nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.flatten(x))

    profiled = profile(Odd(), torch.zeros(1, 2, 3))
    assert profiled.activation_bytes == 0
    idle = only(profiled, "idle")
    assert (idle.params, idle.macs, idle.input_shape, idle.calls) == (8, 0, (), 0)


def test_what_a_module_with_children_returns_is_counted_inside() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.relu = nn.Parameter(torch.ones(3)), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x * self.scale)

    profiled = profile(nn.Sequential(Scaled()), torch.zeros(2, 3))
    assert [(row.kind, row.params, row.activation_bytes) for row in profiled.rows] == [
        ("Scaled", 3, 0),
        ("ReLU", 0, 24),
    ]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("wrap", [nn.Sequential, NeedsValues], ids=["shapes", "values"])
def test_the_model_is_left_as_it_was(wrap: Any) -> None:
    model = wrap(build("small_cnn", (1, 8, 8), 10, dropout=0.5)).train()
    norm = model.get_submodule("0.norm1" if wrap is nn.Sequential else "inner.norm1").eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    profile(model, torch.ones(2, 1, 8, 8))
    assert hooks(model) == 0
    assert model.training
    assert not norm.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(p.is_meta for p in model.parameters())


def test_a_model_that_cannot_be_copied_is_run_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert profile(model, torch.zeros(1, 4)).macs == 8
    assert hooks(model) == 0


def test_an_example_that_does_not_fit_is_named_and_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).train()
    with pytest.raises(ModelError, match=r"cannot take input of shape \(1, 5\): mat1 and mat2 shapes"):
        profile(model, torch.zeros(1, 5))
    assert hooks(model) == 0
    assert model.training


def test_table_has_header_rows_and_totals() -> None:
    table = profile(build("mlp", (1, 28, 28), 10), torch.zeros(1, 1, 28, 28)).table()
    assert table[0] == ["layer", "kind", "input", "output", "parameters", "MACs", "activation bytes"]
    assert table[2] == ["fc1", "Linear", "1×784", "1×128", "100,480", "100,352", "512"]
    assert table[-1] == ["total", "", "", "", "101,770", "101,632", "1,064"]
    assert len(table) == 6
    assert {len(row) for row in table} == {7}
