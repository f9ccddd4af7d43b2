"""The choice of arithmetic: what may be chosen, what is refused, what reordering keeps."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dimwise.models import build
from dimwise.models.init import he_init_
from dimwise.tasks import get
from dimwise.train import TrainConfig, precision
from dimwise.train.precision import Arithmetic, choose, swap_relu_and_pool_, unswap_

TASK, CPU = get("classification"), torch.device("cpu")


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(first, nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 3


def chosen(config: TrainConfig, model: nn.Module | None = None) -> precision.Choice:
    one_thread = dataclasses.replace(config, threads=1)  # the number of threads is a question of its own
    return choose(model or conv(), *batch(), TASK, one_thread, device=CPU, budget_s=0.0)


def test_auto_tries_everything_and_agrees() -> None:
    found = chosen(TrainConfig())
    names = [row["name"] for row in found.candidates]
    assert names[0] == "fp32"
    assert len(names) == len(set(names)) == 8
    assert all(row["agrees"] and row["ms"] > 0 for row in found.candidates)
    assert found.as_dict()["chosen"] in names
    assert not found.arithmetic.compiled


@pytest.mark.parametrize(
    ("told", "n_candidates"),
    [
        ({"precision": "fp32", "layout": "contiguous"}, 0),
        ({"precision": "bf16", "layout": "channels_last"}, 0),
        ({"precision": "fp32"}, 4),
        ({"layout": "contiguous"}, 2),
    ],
)
def test_what_the_config_says_is_not_tried(told: dict[str, Any], n_candidates: int) -> None:
    found = chosen(TrainConfig(**told))
    assert len(found.candidates) == n_candidates
    assert all(getattr(found.arithmetic, key) == value for key, value in told.items())


def test_compile_is_not_tried_unless_asked() -> None:
    model, (x, _) = conv(), batch()
    by_config = {
        c: {a.compiled for a in precision._candidates(model, x, TrainConfig(compile=c), CPU)}
        for c in ("no", "yes", "auto")
    }  # type: ignore[arg-type]
    assert by_config == {"no": {False}, "yes": {True}, "auto": {False, True}}
    assert TrainConfig().compile == "no"


def test_the_model_is_not_touched() -> None:
    model = conv()
    before, mode = copy.deepcopy(model.state_dict()), model.training
    chosen(TrainConfig(), model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[1].p == 0.5
    assert isinstance(model[0], nn.Sequential)
    assert isinstance(model[0][1], nn.ReLU)
    assert model.training == mode


def test_a_candidate_whose_loss_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is made instant and wrong: it would win, and must not."""
    real = precision._Trial.run

    def run(self: Any, n_steps: int) -> None:
        real(self, n_steps)
        if self.arithmetic.precision == "bf16":
            self.losses = [loss * 1.05 for loss in self.losses]
            self.times_ms = [1e-6] * len(self.times_ms)

    monkeypatch.setattr(precision._Trial, "run", run)
    found = chosen(TrainConfig())
    assert found.arithmetic.precision == "fp32"
    assert {row["name"].split(",")[0] for row in found.candidates if not row["agrees"]} == {"bf16"}


def test_a_peak_rate_at_which_the_first_steps_explode_refuses_no_candidate() -> None:
    """A schedule warms up to its peak; a trial that begins there is chaos in a deep network, in any precision."""
    torch.manual_seed(0)
    model = he_init_(build("resnet20", (3, 16, 16), 10, width=0.25))
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(optimizer="nesterov", lr=0.2, threads=1)
    found = choose(model, x, torch.arange(16) % 10, TASK, config, device=CPU, budget_s=0.0)
    assert {row["name"]: row["agrees"] for row in found.candidates} == {
        "fp32": True,
        "fp32, channels-last": True,
        "bf16": True,
        "bf16, channels-last": True,
    }


def test_a_candidate_that_is_right_and_fast_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    real = precision._Trial.run

    def run(self: Any, n_steps: int) -> None:
        real(self, n_steps)
        fast = self.arithmetic.name == "bf16, channels-last"
        self.times_ms = [1.0 if fast else 9.0] * len(self.times_ms)

    monkeypatch.setattr(precision._Trial, "run", run)
    assert chosen(TrainConfig()).arithmetic == Arithmetic("bf16", "channels_last")


def test_a_precision_without_kernels_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = precision._Trial.run

    def run(self: Any, n_steps: int) -> None:
        if self.arithmetic.precision == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        real(self, n_steps)

    monkeypatch.setattr(precision._Trial, "run", run)
    assert [row["name"] for row in chosen(TrainConfig(layout="contiguous")).candidates] == ["fp32"]


@pytest.mark.parametrize(("few_rows_ms", "tried"), [(1.0, True), (3.9, True), (4.1, False), (100.0, False)])
def test_a_precision_that_a_few_rows_show_to_be_hopeless_never_sees_a_whole_batch(
    monkeypatch: pytest.MonkeyPatch, few_rows_ms: float, tried: bool
) -> None:
    real, seen = precision._Trial.run, set()

    def run(self: Any, n_steps: int) -> None:
        real(self, n_steps)
        low = self.arithmetic.precision == "bf16"
        seen.add((self.arithmetic.name, len(self._x)))
        few = len(self._x) < 8
        self.times_ms = [(few_rows_ms if low else 1.0) if few else 20.0] * len(self.times_ms)

    monkeypatch.setattr(precision._Trial, "run", run)
    names = [row["name"] for row in chosen(TrainConfig(layout="contiguous")).candidates]
    assert names == (["fp32", "bf16"] if tried else ["fp32"])
    assert {("fp32", 2), ("bf16", 2), ("fp32", 8)} <= seen
    assert (("bf16", 8) in seen) == tried


def test_a_short_step_needs_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_is_hopeless", lambda *told: pytest.fail("probed"))
    monkeypatch.setattr(precision._Trial, "ms", 9.0)
    assert len(chosen(TrainConfig(layout="contiguous")).candidates) == 2


@pytest.mark.parametrize(("all_ms", "one_ms", "threads"), [(1.0, 2.0, 0), (1.0, 1.05, 1), (9.0, 1.0, 1)])
def test_threads_that_hardly_help_are_left_idle(
    monkeypatch: pytest.MonkeyPatch, all_ms: float, one_ms: float, threads: int
) -> None:
    monkeypatch.setattr(precision._Trial, "ms_by_threads", lambda self, budget_s: (all_ms, one_ms))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = choose(conv(), *batch(), TASK, TrainConfig(), device=CPU, budget_s=0.0)
    finally:
        torch.set_num_threads(before)
    assert found.arithmetic.threads == found.as_dict()["threads"] == threads
    assert any(row["name"].endswith("one thread") for row in found.candidates) == bool(threads)


def test_a_step_that_is_all_calls_is_not_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision._Trial, "ms_by_threads", lambda self, budget_s: (0.5, 0.4))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = choose(conv(), *batch(), TASK, TrainConfig(), device=CPU, budget_s=0.0)
    finally:
        torch.set_num_threads(before)
    assert found.arithmetic == Arithmetic(threads=1)
    assert found.candidates == [{"name": "fp32, one thread", "ms": 0.4}]


def test_timing_by_threads_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    trial = precision._Trial(conv(), *batch(), TASK, TrainConfig(), Arithmetic())
    trial.run(1)
    assert all(ms > 0 for ms in trial.ms_by_threads(0.0))
    assert torch.get_num_threads() == before


def test_an_error_of_the_model_itself_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        chosen(TrainConfig(), nn.Sequential(nn.Flatten(), nn.Linear(3, 3)))


def test_when_nothing_agrees_the_plainest_is_taken() -> None:
    x, y = batch()
    found = choose(conv(), x * float("nan"), y, TASK, TrainConfig(threads=1), device=CPU, budget_s=0.0)
    assert found.arithmetic == Arithmetic()


def test_inputs_take_layout_and_type() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert Arithmetic("bf16").inputs(x).dtype == torch.bfloat16
    assert Arithmetic("fp32", "channels_last").inputs(x).is_contiguous(memory_format=torch.channels_last)
    tokens = torch.arange(4)
    assert Arithmetic("bf16").inputs(tokens) is tokens  # integers are indices: rounding them would be wrong


def outputs_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("inplace", [False, True])
def test_pool_before_relu_is_the_same_function(inplace: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(4, 2, 1)
    )
    x = torch.randn(3, 1, 9, 9)
    plain, names = outputs_and_gradients(model, x), list(model.state_dict())
    swapped = swap_relu_and_pool_(model)
    assert len(swapped) == 1
    assert isinstance(model[1], nn.MaxPool2d)
    assert list(model.state_dict()) == names
    for a, b in zip(outputs_and_gradients(model, x), plain, strict=True):
        assert torch.equal(a, b)
    unswap_(swapped)
    assert isinstance(model[1], nn.ReLU)


def test_two_pools_in_a_row_are_undone_in_order() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2))
    before = list(model)
    unswap_(swap_relu_and_pool_(model))
    assert list(model) == before


class Peeking(nn.Sequential):
    """Looks at its parts by number."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self[1](self[0](x))
        return out + self[0](x).mean()


class OwnReLU(nn.ReLU):
    pass


def test_what_must_not_be_swapped_is_left() -> None:
    watched = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    watched[0].register_forward_hook(lambda *_: None)
    for model in (
        Peeking(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(OwnReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.GELU(), nn.MaxPool2d(2)),
        watched,
    ):
        assert swap_relu_and_pool_(model) == []
