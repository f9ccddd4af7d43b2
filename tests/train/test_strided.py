"""Gradients of strided depthwise convolutions: PyTorch's own, found another way; and nothing else is touched."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimwise.models import build
from dimwise.tasks import get
from dimwise.train import TrainConfig, fit, strided
from dimwise.train.precision import Arithmetic, choose
from dimwise.train.strided import Dilating, is_strided_depthwise


def gradients(conv: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = conv(x)
    return list(torch.autograd.grad((y * y.detach().cos()).sum(), [x, *conv.parameters()]))


@pytest.mark.parametrize("side", [5, 6, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (3, 2, 0), (5, 3, 2), (2, 2, 0), (1, 2, 0)])
def test_gradients_are_those_of_the_convolution(side: int, kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride, padding, groups=4).double()
    assert is_strided_depthwise(conv)
    x = torch.randn(2, 4, side, side + 2, dtype=torch.float64)
    want = gradients(conv, x)
    with Dilating():
        found = gradients(conv, x)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)


def test_unequal_strides_and_kernels_and_both_layouts() -> None:
    for stride, layout in itertools.product([(2, 1), (1, 2), (3, 2)], [torch.contiguous_format, torch.channels_last]):
        conv = nn.Conv2d(6, 6, (3, 5), stride, (1, 0), groups=6, bias=False).double()
        conv.weight.data = conv.weight.data.contiguous(memory_format=layout)
        x = torch.randn(2, 6, 9, 8, dtype=torch.float64).contiguous(memory_format=layout)
        want = gradients(conv, x)
        with Dilating():
            found = gradients(conv, x)
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    "told",
    [
        {"groups": 1},
        {"groups": 2},
        {"groups": 4, "stride": 1},
        {"groups": 4, "dilation": 2},
        {"groups": 4, "padding": 3},
        {"groups": 4, "out_channels": 8},
    ],
)
def test_other_convolutions_are_left_alone(told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, "stride": 2, **told})
    assert not is_strided_depthwise(conv)
    monkeypatch.setattr(strided._StridedDepthwise, "apply", None)  # would fail if it were called
    with Dilating():
        conv(torch.randn(1, 4, 9, 9, requires_grad=True)).sum().backward()


def test_under_autocast_it_computes_in_bf16_and_gives_fp32_gradients() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    x = torch.randn(4, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = gradients(conv, x)
        with Dilating():
            assert conv(x).dtype == torch.bfloat16
            found = gradients(conv, x)
    assert [g.dtype for g in found] == [torch.float32] * 3
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())


def test_no_gradient_asked_none_computed() -> None:
    conv = nn.Conv2d(4, 4, 3, 2, 1, groups=4)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 4, 6, 6)
    with Dilating(), torch.no_grad():
        plain = conv(x)
    with Dilating():
        y = conv(x)
    y.sum().backward()
    assert torch.equal(y, plain)
    assert conv.weight.grad is None
    assert conv.bias is not None
    torch.testing.assert_close(conv.bias.grad, torch.full((4,), 9.0))


def test_it_is_tried_where_there_is_such_a_layer_and_changes_nothing_but_time() -> None:
    torch.manual_seed(0)
    net = build("mobilenetv2", (3, 16, 16), 3, width=0.25)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    task, told = get("classification"), TrainConfig(threads=1, precision="fp32")
    names = [row["name"] for row in choose(net, x, y, task, told, device=torch.device("cpu"), budget_s=0.0).candidates]
    assert "fp32, channels-last, dilated gradients" in names
    plain = build("resnet20", (3, 16, 16), 3, width=0.25)
    found = choose(plain, x, y, task, told, device=torch.device("cpu"), budget_s=0.0)
    assert not any("dilated" in row["name"] for row in found.candidates)
    losses = []
    for dilate in (False, True):
        model = copy.deepcopy(net).train()
        with Arithmetic(dilate=dilate).context():
            loss = task.loss(model(x), y)
        loss.backward()
        losses.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)


def test_a_layout_that_was_named_leaves_the_network_as_it_is_written() -> None:
    net = build("mobilenetv2", (3, 16, 16), 3, width=0.25)
    x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 3
    told = TrainConfig(epochs=1, batch_size=32, precision="fp32", layout="contiguous", threads=1)
    fitted = fit(net, (x, y), config=told)
    assert not fitted.choice.arithmetic.dilate
    assert dataclasses.asdict(fitted.choice.arithmetic)["layout"] == "contiguous"
    with torch.no_grad():
        assert F.conv2d(x, torch.ones(3, 1, 3, 3), None, 2, 1, 1, 3).shape == (64, 3, 8, 8)
