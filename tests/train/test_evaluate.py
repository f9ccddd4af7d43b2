"""Scoring leaves the network as it was, and gives the same numbers whatever the batch size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dimwise.data.sets import Normalise, Split
from dimwise.tasks import get
from dimwise.train import evaluate, evaluating, predict_outputs


class Caching(nn.Module):
    """Keeps a tensor made at its first forward, as position tables are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(2.0) + 1
        out: Tensor = self.layer(x) * self.table
        return out


def test_each_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with evaluating(model) as inside:
        assert not any(m.training for m in inside.modules())
    assert [m.training for m in model.modules()] == [True, True, False]


def test_also_after_an_error() -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(RuntimeError), evaluating(model):
        model(torch.ones(1, 2))
    assert model.training


def test_statistics_and_gradients_are_untouched() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    outputs = predict_outputs(model, torch.randn(7, 2))
    assert not outputs.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[1].weight.grad is None


def test_what_a_module_caches_while_scored_can_be_trained_with() -> None:
    model = Caching()
    predict_outputs(model, torch.ones(1, 2))
    model(torch.ones(1, 2)).sum().backward()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)), torch.randn(7, 4)
    torch.testing.assert_close(predict_outputs(model, x, batch_size=batch_size), model.eval()(x).detach())


def test_raw_inputs_are_normalised_on_the_way() -> None:
    raw = torch.randint(0, 255, (5, 2), dtype=torch.uint8)
    normalise = Normalise(1 / 255, (0.5, 0.1), (0.2, 0.3))
    torch.testing.assert_close(predict_outputs(nn.Identity(), raw, normalise), normalise(raw))


def test_loss_and_score_of_the_whole_split() -> None:
    """The mean over samples, not over batches: 7 rows in batches of 3."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss, score = evaluate(model, Split(x, y), None, get("classification"), batch_size=3)
    assert loss == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-6)
    assert score == pytest.approx((model(x).argmax(1) == y).double().mean().item())


def test_half_precision_outputs_become_float32() -> None:
    assert predict_outputs(nn.Linear(2, 2).bfloat16(), torch.ones(3, 2).bfloat16()).dtype == torch.float32
