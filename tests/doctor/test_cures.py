"""Cures from outside: each does to a loop what the remedy says, and is gone when it is taken back."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from dimwise.doctor.cures import CURES, apply, watch_answers
from dimwise.doctor.prove import proof
from dimwise.doctor.seen import Seen
from dimwise.doctor.watch.patches import Patches


class Cured:
    """A block in which one cure is applied."""

    def __init__(self, **cure: object) -> None:
        self.cure, self.patches = cure, Patches()

    def __enter__(self) -> None:
        apply(self.cure, self.patches)

    def __exit__(self, *_: object) -> None:
        self.patches.undo()


def gradients_of(n_steps: int) -> list[float]:
    weight = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    found = []
    for _ in range(n_steps):
        (2 * weight).backward()
        assert weight.grad is not None
        found.append(float(weight.grad))
        optimizer.step()
    return found


def test_zero_grad_clears_what_a_step_has_used() -> None:
    assert gradients_of(3) == [2.0, 4.0, 6.0]
    with Cured(kind="zero_grad"):
        assert gradients_of(3) == [2.0, 2.0, 2.0]
    assert gradients_of(3) == [2.0, 4.0, 6.0]


def test_zero_grad_leaves_accumulation_alone() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    with Cured(kind="zero_grad"):
        (2 * weight).backward()
        (2 * weight).backward()
    assert weight.grad == 4.0


def test_keep_grad_holds_gradients_until_the_step() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    with Cured(kind="keep_grad"):
        optimizer = torch.optim.SGD([weight], lr=0.5)
        for _ in range(2):
            (2 * weight).backward()
            optimizer.zero_grad()
            optimizer.step()
    assert weight == -1.0


def test_train_mode_is_for_passes_with_gradients() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
    seen = []
    net[1].register_forward_hook(lambda module, _x, _y: seen.append(module.training))
    with Cured(kind="train_mode"):
        net(torch.ones(1, 2))
        with torch.no_grad():
            net(torch.ones(1, 2))
    assert seen == [True, False]
    assert not net.training


def test_rate_loss_and_norm_are_scaled() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    with Cured(kind="lr", factor=0.1):
        assert torch.optim.Adam([weight], lr=1.0).param_groups[0]["lr"] == 0.1
    with Cured(kind="scale_loss", divisor=4):
        (2 * weight).backward()
    assert weight.grad == 0.5
    weight.grad = None
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with Cured(kind="clip", max_norm=1.0):
        (20 * weight).backward()
        optimizer.step()
    assert abs(weight.item()) < 1e-5


def test_loaders_are_shuffled_and_resized() -> None:
    data = TensorDataset(torch.arange(8))
    with Cured(kind="shuffle"):
        assert not isinstance(DataLoader(data, 4).sampler, SequentialSampler)
    with Cured(kind="batch_size", size=2):
        assert len(DataLoader(data, batch_size=4)) == 4
    assert isinstance(DataLoader(data, 4).sampler, SequentialSampler)


def test_inputs_are_standardised_by_the_first_batch() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    with Cured(kind="normalise"):
        y = net(torch.tensor([[0.0], [10.0]]))
        again = net(torch.tensor([[5.0]]))
    assert abs(y.mean().item()) < 1e-6
    assert abs(again.item()) < 1e-6  # the mean of the first batch


def test_probabilities_in_a_loss_of_logits_are_taken_back() -> None:
    z, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    with Cured(kind="drop_softmax"):
        assert torch.allclose(F.cross_entropy(z.softmax(1), y), F.cross_entropy(z, y), atol=1e-5)
    t = torch.rand(4, 3)
    with Cured(kind="drop_sigmoid"):
        told = F.binary_cross_entropy_with_logits(z.sigmoid(), t)
    assert torch.allclose(told, F.binary_cross_entropy_with_logits(z, t), atol=1e-4)


def test_every_cure_has_been_asked_for() -> None:
    text = Path(__file__).read_text("utf-8")
    assert len(CURES) >= 11
    assert [kind for kind in CURES if f'kind="{kind}"' not in text] == []


def history(values: list[float]) -> Seen:
    return Seen(loss_history=[(i, v, 0) for i, v in enumerate(values)])


def test_a_cure_that_lowers_the_loss_helps() -> None:
    found = proof(history([2.0] * 40), history([2.0 - i / 40 for i in range(40)]), {"kind": "clip"})
    assert found is not None
    assert found["helped"]
    assert "2 without the cure" in found["summary"]


def test_a_cure_within_the_noise_does_not_help() -> None:
    wobble = [1.0 + 0.1 * (-1) ** i for i in range(40)]
    found = proof(history(wobble), history([v - 0.001 for v in wobble]), {"kind": "clip"})
    assert found is not None
    assert not found["helped"]


def test_a_number_after_nan_helps() -> None:
    found = proof(history([float("nan")] * 10), history([1.0] * 10), {"kind": "clip"})
    assert found is not None
    assert found["helped"]


def test_eval_mode_is_for_passes_without_gradients_and_leaves_modes_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    net[2].eval()
    seen = []
    net[1].register_forward_hook(lambda module, _x, _y: seen.append(module.training))
    with Cured(kind="eval_mode"):
        net(torch.ones(2, 2))
        with torch.no_grad():
            net(torch.ones(2, 2))
    assert seen == [True, False]
    assert [part.training for part in net] == [True, True, False]


def answers(net: nn.Module, cure: str | None, passes: int = 3) -> list[float]:
    told: list[tuple[int, float]] = []
    patches = Patches()
    watch_answers(told, lambda: 7, patches)
    if cure:
        apply({"kind": cure}, patches)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    net(x)  # with gradients: none of our business
    with torch.no_grad():
        for _ in range(passes):
            net(x)
    patches.undo()
    assert all(step == 7 for step, _ in told)
    return [value for _, value in told]


def test_answers_depend_on_the_company_in_training_mode_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    assert min(answers(net, None)) > 0.1
    assert len(answers(net, None)) == 3
    assert max(answers(net, "eval_mode")) < 1e-5
    assert max(answers(net.eval(), None)) < 1e-5


def test_who_looks_at_answers_changes_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    twin = copy.deepcopy(net)
    x = torch.randn(16, 4)
    torch.manual_seed(1)
    with torch.no_grad():
        expected = [twin(x), twin(x)]
    told: list[tuple[int, float]] = []
    patches = Patches()
    watch_answers(told, lambda: 0, patches)
    torch.manual_seed(1)
    with torch.no_grad():
        found = [net(x), net(x)]
    patches.undo()
    assert len(told) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))


def test_the_proof_of_an_evaluation_is_about_its_answers() -> None:
    cure = {"kind": "eval_mode"}
    without, mended = (Seen(answers=[(60, v)] * 5, loss_history=[(0, 1.0, None)] * 9) for v in (0.8, 0.0))
    found = proof(without, mended, cure)
    assert found is not None
    assert found["helped"]
    assert (found["measure"], found["without_end"], found["with_end"]) == ("change of answers", 0.8, 0.0)
    assert "change by 80.0% without the cure, by 0.0% with it; it helps" in found["summary"]
    assert proof(without, Seen(), cure) is None  # no evaluation within the stretch: nothing is proven or disproven


def test_without_a_curve_there_is_no_proof() -> None:
    assert proof(None, history([1.0]), {"kind": "clip"}) is None
