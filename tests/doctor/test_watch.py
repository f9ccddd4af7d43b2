"""The watcher: what it sees of real loops, and that it gives everything back."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dimwise
from dimwise.doctor import watch, wire
from dimwise.doctor.finding import Place
from dimwise.doctor.seen import FULL_STEPS, Seen
from dimwise.doctor.session import Session
from dimwise.doctor.watch.schedules import written_step

X, Y = torch.randn(256, 8, generator=torch.Generator().manual_seed(0)), torch.arange(256) % 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))


def seen_of(loop: object) -> Seen:
    watching = watch.begin()
    try:
        loop()  # type: ignore[operator]
    finally:
        seen = watch.end(watching)
    assert seen.notes == []
    return seen


def usual(n_epochs: int = 2, model: nn.Module | None = None) -> None:
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(n_epochs):
        model.train()
        for x, y in DataLoader(TensorDataset(X, Y), 64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model(X)


def test_a_usual_loop_is_seen_event_by_event() -> None:
    seen = seen_of(usual)
    assert [e.kind for e in seen.events[:4]] == ["zero_grad", "forward", "backward", "step"]
    assert seen.n_steps == seen.n_backward == 8
    assert all(e.place is not None and e.place.file == __file__ for e in seen.events)
    root = seen.roots[0]
    assert (root.n_train_forwards, root.n_eval_forwards, root.n_eval_in_train_mode) == (8, 2, 0)
    assert [s.grads for s in seen.of("step")] == ["some"] * 8
    assert not any(s.stale for s in seen.of("step"))


def test_losses_labels_and_layers_are_read_from_the_graph() -> None:
    seen = seen_of(usual)
    loss = seen.losses[0]
    assert (loss.name, loss.n_outputs, loss.reduction, loss.n_calls) == ("cross_entropy", 4, "mean", 8)
    train = next(iter(seen.train_batches()))
    assert train.label_counts == {0: 128, 1: 128, 2: 128, 3: 128}
    assert train.n_hashed == 256
    layer = seen.roots[0].layers["0"]
    assert (layer.kind, layer.shape, layer.n_grad, layer.changed) == ("Linear", (16, 8), 8, True)
    assert [a.function for a in seen.roots[0].activations] == ["relu"]


def test_a_smoothed_cross_entropy_is_still_one() -> None:
    def loop() -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y, label_smoothing=0.1).backward()
            optimizer.step()

    told = seen_of(loop).of("backward")
    assert [(b.loss, b.reduction, b.scaled) for b in told] == [("cross_entropy", "mean", False)] * 3


def test_gradients_never_cleared_are_seen_as_stale() -> None:
    def loop() -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(6):
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()

    assert [s.stale for s in seen_of(loop).of("step")] == [False, True, True, True, True, True]


def test_graphs_that_are_kept_are_counted() -> None:
    def loop() -> None:
        model, kept = net(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            optimizer.step()
            kept.append(loss)

    assert seen_of(loop).of("backward")[-1].alive == 14
    assert seen_of(usual).of("backward")[-1].alive == 0


def test_weights_end_the_same_watched_or_not() -> None:
    def trained(*, watched: bool) -> torch.Tensor:
        model = net()
        if watched:
            seen_of(lambda: usual(3, model))
        else:
            usual(3, model)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    assert torch.equal(trained(watched=True), trained(watched=False))


def test_everything_is_given_back() -> None:
    names = {
        torch.autograd: ("backward",),
        torch.optim.Optimizer: ("zero_grad", "__init__"),
        nn.Module: ("zero_grad", "eval"),
        torch.Tensor: ("item", "cpu", "numpy", "tolist"),
        nn.utils: ("clip_grad_norm_",),
        DataLoader: ("__iter__",),
        F: ("dropout",),
        torch.no_grad: ("__enter__",),
    }
    before = {(owner, n): getattr(owner, n) for owner, told in names.items() for n in told}
    seen_of(usual)
    assert {key: getattr(*key) for key in before} == before
    hooks = torch.nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks


def test_after_the_first_steps_it_looks_away_and_goes_on_counting() -> None:
    def loop() -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for i in range(FULL_STEPS + 60):
            rows = slice(i % 4 * 64, i % 4 * 64 + 64)
            optimizer.zero_grad()
            F.cross_entropy(model(X[rows]), Y[rows]).backward()
            optimizer.step()

    seen = seen_of(loop)
    assert seen.n_steps == FULL_STEPS + 60
    assert FULL_STEPS <= seen.n_watched_steps < FULL_STEPS + 30


def test_what_was_seen_survives_its_way_through_a_file(tmp_path: object) -> None:
    seen = seen_of(usual)
    again = wire.from_plain(wire.to_plain(seen))
    assert again.roots[0].layers["0"].update_ratio == [tuple(x) for x in seen.roots[0].layers["0"].update_ratio]
    assert wire.to_plain(again) == wire.to_plain(seen)


def test_a_block_names_a_mistake_and_a_healthy_one_is_silent() -> None:
    with dimwise.doctor() as d:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(15):
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert "missing-zero-grad" in [f.rule for f in d.findings if f.severity == "error"]
    assert "missing-zero-grad" in repr(d)
    assert "missing-zero-grad" in d._repr_html_()
    with Session() as healthy:
        usual()
    assert [f for f in healthy.findings if f.severity == "error"] == []


def test_an_exception_inside_goes_on_and_is_written_down() -> None:
    session = Session()
    try:
        with session:
            raise RuntimeError("not enough memory: you tried to allocate 1 byte")
    except RuntimeError:
        pass
    assert session.seen is not None
    assert session.seen.error is not None
    assert session.seen.error["out_of_memory"]


def test_what_another_network_made_is_told_from_data() -> None:
    def adversaries() -> None:
        maker, judge = nn.Linear(8, 8), nn.Linear(8, 2)
        optimizer = torch.optim.SGD([*maker.parameters(), *judge.parameters()], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(judge(X), torch.ones(256, dtype=torch.long)).backward()
            F.cross_entropy(judge(maker(X).detach()), torch.zeros(256, dtype=torch.long)).backward()
            F.cross_entropy(judge(maker(X)), torch.ones(256, dtype=torch.long)).backward()
            optimizer.step()

    made = {(b.n_made, b.n_batches) for b in seen_of(adversaries).train_batches()}
    assert made == {(0, 6), (3, 9)}


def test_the_line_that_would_step_a_schedule(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "self.schedule = StepLR(\n    optimizer, 1)\nother = StepLR(optimizer, 1)\noptimizer.step()\n"
        "if worse:\n    trainer.schedule.step()\n",
        encoding="utf-8",
    )
    assert written_step(Place(str(script), 2)) == 6
    assert written_step(Place(str(script), 3)) is None
    assert written_step(Place(str(tmp_path / "gone.py"), 1)) is None
