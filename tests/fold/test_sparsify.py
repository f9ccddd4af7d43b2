"""Sparsity: which weights become zero, that they stay so, and what it is good for."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests._networks import inputs, network
from torch import nn

from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import ModelError, UserError
from dimwise.fold._evidence import Evidence
from dimwise.fold._gather import evidence as gathered
from dimwise.fold.sparsify import SparsifyConfig, compressed_bytes, masks, sparsify
from dimwise.models import MODELS, TOKENS, build
from dimwise.train.config import TrainConfig
from dimwise.train.fit import fit


def told(n: int = 80, shape: tuple[int, ...] = (3, 8, 8)) -> Evidence:
    """Images of two classes that differ by their mean."""
    y = torch.arange(n) % 2
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)) + y.view(-1, *[1] * len(shape))
    normalise = Normalise(1.0, (0.5,) * shape[0], (1.1,) * shape[0])
    data = Data("made", Split(x, y), Split(x, y), Split(x, y), ("a", "b"), normalise)
    return gathered(data, train=TrainConfig(epochs=4, batch_size=16, lr=0.01, precision="fp32", layout="contiguous"))


def config(**more: Any) -> SparsifyConfig:
    return SparsifyConfig(**({"epochs": 0} | more))


def small() -> nn.Module:
    torch.manual_seed(0)
    return build("small_cnn", (3, 8, 8), 2, width=0.5).eval()


def zeros(net: nn.Module) -> dict[str, float]:
    return {n: (p == 0).double().mean().item() for n, p in net.named_parameters() if p.dim() > 1}


# Which weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["global", "layer"])
def test_the_smallest_become_zero_and_the_others_stay_as_they_are(pattern: str) -> None:
    net = small()
    sparse, report = sparsify(net, config(sparsity=0.7, pattern=pattern), told())
    pairs = [(p.detach(), sparse.get_parameter(n).detach()) for n, p in net.named_parameters()]
    for before, after in pairs:
        assert torch.equal(after[after != 0], before[after != 0])
        if before.dim() == 1:
            assert torch.equal(before, after)
    weights = [(b, a) for b, a in pairs if b.dim() > 1]
    for group in [weights] if pattern == "global" else [[pair] for pair in weights]:
        gone = torch.cat([b[a == 0].abs() for b, a in group])
        left = torch.cat([b[a != 0].abs() for b, a in group])
        assert gone.max() <= left.min()
        assert len(gone) == round(0.7 * (len(gone) + len(left)))
    assert {row["name"]: row["zeros_frac"] for row in report.layers} == pytest.approx(zeros(sparse))


def test_two_of_four_along_the_input_channels() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2))
    found = masks(
        {n: p for n, p in net.named_parameters() if p.dim() > 1 and p.shape[1] % 4 == 0}, config(pattern="2:4")
    )
    assert set(found) == {"0.weight", "2.weight"}
    for name, mask in found.items():
        size = net.get_parameter(name).detach().abs().movedim(1, -1).reshape(-1, 4)
        kept = mask.movedim(1, -1).reshape(-1, 4)
        assert (kept.sum(1) == 2).all()
        assert (size.masked_fill(kept, 0).amax(1) <= size.masked_fill(~kept, torch.inf).amin(1)).all()


def test_layers_that_do_not_come_in_fours_and_those_named_are_left() -> None:
    _, report = sparsify(small(), config(pattern="2:4", skip=("fc",)), told())
    assert report.untouched == {"conv1": "its 3 input channels do not come in fours", "fc": "it is named in skip"}
    assert {round(row["zeros_frac"], 6) for row in report.layers} == {0.5}


def test_input_channels_of_a_transposed_convolution_come_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 8, 2),
        nn.ConvTranspose2d(8, 6, 2),
        nn.ConvTranspose2d(6, 8, 1, groups=2),
        nn.Flatten(),
        nn.Linear(8 * 100, 2),
    ).eval()
    sparse, report = sparsify(net, config(pattern="2:4", skip=("4",)), told())
    assert [row["name"] for row in report.layers] == ["1.weight"]
    assert ((sparse[1].weight.movedim(0, -1).reshape(-1, 4) == 0).sum(1) == 2).all()
    assert report.untouched["0"] == "its 3 input channels do not come in fours"
    assert report.untouched["2"] == "a grouped transposed convolution"


# Under the mask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["global", "2:4"])
def test_zeros_stay_zeros_through_fine_tuning(pattern: str) -> None:
    seen = told()
    net = fit(small(), seen.data, seen.task, seen.train).model.eval()
    masked, _ = sparsify(net, config(sparsity=0.9, pattern=pattern), seen)
    tuned, report = sparsify(net, config(sparsity=0.9, pattern=pattern, epochs=2), seen)
    moved = 0
    for name, before in masked.named_parameters():
        after = tuned.get_parameter(name)
        if before.dim() > 1:
            assert (after[before == 0] == 0).all()
            moved += int((after != before).sum())
    assert moved > 0
    assert report.score_after > 0.9
    assert not tuned.training


def test_each_step_begins_under_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def step(model: nn.Module, *_: Any) -> torch.Tensor:
        shares.append(sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1))
        return torch.zeros(())

    def recover(sparse: nn.Module, *_: Any, around: Any, **__: Any) -> nn.Module:
        with torch.no_grad():
            for p in sparse.parameters():
                p.add_(1)  # an optimizer that knows no masks
        around(step)(sparse, None, None, None)
        return sparse

    monkeypatch.setattr(sys.modules[sparsify.__module__], "recover", recover)
    net = small()
    sparsify(net, config(sparsity=0.75, epochs=1), told())
    assert shares == [round(0.75 * sum(p.numel() for p in net.parameters() if p.dim() > 1))]


def test_rounds_reach_the_same_share() -> None:
    sparse, _ = sparsify(small(), config(sparsity=0.8, rounds=3, epochs=3), told())
    weights = torch.cat([p.detach().flatten() for p in sparse.parameters() if p.dim() > 1])
    assert (weights == 0).double().mean().item() == pytest.approx(0.8, abs=1e-3)


# What it is good for ------------------------------------------------------------------------------------------------


def test_the_file_compresses_and_no_time_is_promised() -> None:
    net, seen = build("small_cnn", (3, 8, 8), 2).eval(), told()
    _, report = sparsify(net, config(sparsity=0.8), seen)
    assert report.cost_before["compressed_bytes"] == compressed_bytes(net)
    assert 0.2 < report.cost_after["compressed_bytes"] / report.cost_before["compressed_bytes"] < 0.4
    for cost in ("params", "macs", "size_bytes"):
        assert report.cost_after[cost] == report.cost_before[cost]
    assert report.notes[0].startswith("no time is saved")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table(name: str) -> None:
    shape = (12,) if name in TOKENS else (1, 32, 32) if name == "lenet5" else (3, 32, 32)
    net = network(name, shape, 2, width=0.25 if name != "lenet5" else 1.0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    example = inputs(name, 1, *shape)
    seen = dataclasses.replace(told(4), example=example, score=lambda _: 0.5, cost=lambda _: {"params": 1.0})
    sparse, _ = sparsify(net, config(sparsity=0.5), seen)
    assert sparse(inputs(name, 2, *shape)).shape == (2, 2)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    weights = [p for n, p in sparse.named_parameters() if p.dim() > 1 and "weight" in n]
    n_zeros = sum((p == 0).sum().item() for p in weights)
    assert n_zeros == pytest.approx(0.5 * sum(p.numel() for p in weights), rel=0.02)


# What is not possible -----------------------------------------------------------------------------------------------


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"sparsify was given a bytes; expected a torch.nn.Module"):
        sparsify(b"onnx", config(), told())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"sparsify.skip names 'conv9', which is no layer"):
        sparsify(small(), config(skip=("conv9",)), told())
    with pytest.raises(ModelError, match=r"Sequential has no weight that can become zero \(1: its 3 input channels"):
        sparsify(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)), config(pattern="2:4"), told())
    broken = small()
    with torch.no_grad():
        next(iter(broken.parameters()))[0] = float("nan")
    with pytest.raises(ModelError, match=r"conv1.weight holds numbers that are not finite; expected finite weights"):
        sparsify(broken, config(), told())


@pytest.mark.parametrize("wrong", [{"sparsity": 0.0}, {"sparsity": 1.0}, {"pattern": "1:4"}, {"rounds": 0}])
def test_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SparsifyConfig(**wrong)
