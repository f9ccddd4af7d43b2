"""Whole residual branches leave, and a constant stays in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests._networks import shown
from torch import nn

from dimwise.fold._channels.branches import Constant
from dimwise.fold._channels.cut import cut, disagreement, silence
from dimwise.fold._channels.trace import trace
from dimwise.fold._gather import evidence
from dimwise.fold.prune import PruneConfig, prune
from dimwise.measure import profile
from dimwise.models import build


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = build(name, (3, 32, 32), 2, width=0.25).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return net


@pytest.mark.parametrize(("name", "n_branches"), [("resnet20", 9), ("mobilenetv2", 10), ("vit", 12)])
def test_a_branch_that_left_is_one_that_is_silent(name: str, n_branches: int) -> None:
    net, x = made(name), torch.randn(2, 3, 32, 32)
    channels = trace(net, x)
    found = [g for g in channels.groups if g.branch is not None]
    assert len(found) == n_branches
    alive = channels.all_alive()
    for group in found[::2]:
        alive[group.classes] = False
    for group in channels.groups:
        if group.branch is None and channels.is_exact(group):
            alive[group.classes[: len(group.classes) // 2]] = False
    small = cut(net, channels, alive)
    assert sum(isinstance(m, Constant) for m in small.modules()) == len(found[::2])
    assert disagreement(net, channels, alive, x) is None
    more = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(small(more), silence(net, channels, alive)(more), rtol=1e-4, atol=1e-5)
    if name != "vit":  # attention's own products are no layer's
        assert profile(small, x).macs / 2 == pytest.approx(channels.macs(alive))
    small.train()(more).sum().backward()


def test_by_the_clock_branches_leave_where_thin_layers_save_nothing() -> None:
    net = build("resnet20", (3, 32, 32), 2, width=0.5).eval()
    data = shown("resnet20", (3, 32, 32), 8)
    told = evidence(data)

    def clock(network: nn.Module) -> float:
        """A runtime that computes in vectors of 16."""
        return sum(r.macs * -(-m.out_channels // 16) * 16 / m.out_channels for r, m in rows(network))

    def rows(network: nn.Module) -> Any:
        kinds = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        return [(r, kinds[r.name]) for r in profile(network, torch.zeros(1, 3, 32, 32)).rows if r.name in kinds]

    given: dict[str, Any] = {"macs": 0.4, "epochs": 0, "importance": "l1", "allocation": "latency"}
    pruned, report = prune(net, PruneConfig(**given), told, latency_of=clock)
    thin, _ = prune(
        net, PruneConfig(branches=False, **given | {"round_to": 2, "min_channels": 2}), told, latency_of=clock
    )
    assert any(row["channels_after"] == 0 for row in report.layers)
    assert report.cost_after["macs"] <= 0.4 * report.cost_before["macs"]
    assert clock(pruned) < clock(thin)
    assert not any(isinstance(m, Constant) for m in thin.modules())
