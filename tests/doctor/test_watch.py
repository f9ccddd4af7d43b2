"""The watcher: what it sees of real loops, and that it gives everything back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dimwise
from dimwise.doctor import watch, wire
from dimwise.doctor.finding import Place
from dimwise.doctor.rules import loop as loop_rules
from dimwise.doctor.rules import optimizer as optimizer_rules
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


def test_networks_under_vmap_are_left_alone_until_they_have_values() -> None:
    def loop() -> None:
        models = [net().eval() for _ in range(3)]
        stacked, buffers = torch.func.stack_module_state(models)
        torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (X,)))(stacked, buffers)
        usual(1, models[0])

    seen = seen_of(loop)
    assert seen.roots[0].n_params == 16 * 8 + 16 + 4 * 16 + 4
    assert set(seen.roots[0].layers) == {"0", "3"}


class Words(nn.Module):
    def __init__(self, tie: str) -> None:
        super().__init__()
        self.table, self.hidden, self.out = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12)
        if tie == "copied":
            self.out.weight.data.copy_(self.table.weight.data)
        elif tie == "one":
            self.out.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.hidden(self.table(x)))
        return out


def test_a_tie_that_is_only_a_copy_is_seen() -> None:
    models = {tie: Words(tie) for tie in ("copied", "one", "")}

    def loop(tie: str, lr: float) -> None:
        model = models[tie]
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.arange(12)), torch.arange(12)).backward()
            optimizer.step()

    assert seen_of(lambda: loop("copied", 0.0)).roots[0].copied == []  # still equal: nothing drifts
    assert seen_of(lambda: loop("copied", 0.1)).roots[0].copied == [("table.weight", "out.weight")]
    assert seen_of(lambda: loop("one", 0.1)).roots[0].copied == []
    assert seen_of(lambda: loop("", 0.1)).roots[0].copied == []


def test_a_network_that_the_script_readies_for_training() -> None:
    front, head = net(), nn.Linear(4, 4)

    def loop(ready: bool) -> None:
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for _ in range(3):
            if ready:
                front.train()
            F.cross_entropy(head(front(X)), Y).backward()
            optimizer.step()

    assert [r.readied for r in seen_of(lambda: loop(True)).roots.values()] == [True, False]
    assert [r.readied for r in seen_of(lambda: loop(False)).roots.values()] == [False, False]


@pytest.mark.parametrize("how", ["none", "zeros", "meant"])
def test_gradients_taken_away_by_hand_between_backward_and_step(how: str) -> None:
    model = net()

    def loop() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            loss = F.cross_entropy(model(X), Y)
            (loss * 0.0 if how == "meant" else loss).backward()
            for p in model.parameters():
                if how == "none":
                    p.grad = None
                elif how == "zeros" and p.grad is not None:
                    p.grad.zero_()
            optimizer.step()

    seen = seen_of(loop)
    kinds = [e.kind for e in seen.events]
    between = sum(pair == ("grads_cleared", "step") for pair in pairwise(kinds))
    assert between == (0 if how == "meant" else 4)
    assert bool(loop_rules.zero_grad_before_step(seen)) == (how != "meant")


def test_weights_of_a_network_that_is_gone_have_no_home() -> None:
    kept: list[Any] = []

    def folds(anew: bool) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kept.append(optimizer)
        for fold in range(2):
            if fold and anew:
                model = net()
            kept[1:] = [model]
            for _ in range(4):
                model.zero_grad()
                F.cross_entropy(model(X), Y).backward()
                optimizer.step()

    for anew in (True, False):
        kept.clear()
        seen = seen_of(lambda anew=anew: folds(anew))
        assert seen.optimizers[0].n_homeless == (2 if anew else 0)
        assert bool(optimizer_rules.optimizer_holds_stale_parameters(seen)) == anew


def test_leaves_beyond_the_networks_are_counted_without_an_optimizer() -> None:
    model = net()

    def loop() -> None:
        F.cross_entropy(model(X), Y).backward()
        F.cross_entropy(model(X.clone().requires_grad_()), Y).backward()

    assert [e.beyond for e in seen_of(loop).of("backward")] == [0, 1]
    assert {e.beyond for e in seen_of(usual).of("backward")} == {None}


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


def fit(model: nn.Module, given: torch.Tensor, loss: object, n_steps: int = 6) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss(model(given)).backward()  # type: ignore[operator]
        optimizer.step()


class ByHand(nn.Module):
    """Softmax without ``softmax``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grown = self.linear(x).exp()
        return grown / grown.sum(1, keepdim=True)


def test_softmax_is_seen_through_a_change_of_shape_and_when_written_by_hand() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=1))
    rows = Y.view(2, -1)
    seen = seen_of(lambda: fit(model, X, lambda p: F.cross_entropy(p.view(2, -1, 4).transpose(1, 2), rows)))
    assert (seen.losses[0].input_fn, seen.losses[0].rows_sum_to_one) == ("SoftmaxBackward0", 6)
    seen = seen_of(lambda: fit(ByHand(), X, lambda p: F.cross_entropy(p, Y)))
    assert (seen.losses[0].input_fn, seen.losses[0].rows_sum_to_one) == ("DivBackward0", 6)
    assert seen_of(lambda: fit(net(), X, lambda z: F.cross_entropy(z, Y))).losses[0].rows_sum_to_one == 0


def test_a_sigmoid_is_seen_through_a_squeeze() -> None:
    model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
    told = seen_of(
        lambda: fit(model, X, lambda p: F.binary_cross_entropy_with_logits(p.squeeze(1), (Y > 1).float()))
    ).losses[0]
    assert (told.input_fn, told.in_unit_range) == ("SigmoidBackward0", 6)


class Noise(nn.Module):
    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x) if self.always or self.training else x


class Channels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout2d(self.conv(x), 0.5).mean((2, 3))


def test_noise_of_ones_own_that_stays_on_in_evaluation() -> None:
    for always, n in ((True, 2), (False, 0)):
        model = nn.Sequential(nn.Linear(8, 16), Noise(always), nn.Linear(16, 4))
        assert seen_of(lambda model=model: usual(model=model)).roots[0].own_noise_in_eval == n


def test_dropout_of_whole_channels_is_dropout() -> None:
    model, images = Channels().eval(), torch.randn(4, 3, 8, 8)
    assert seen_of(lambda: model(images)).roots[0].functional_dropout_in_eval == 1


def test_images_that_were_reshaped_are_noise_a_row_apart() -> None:
    last = torch.rand(16, 8, 8, 3, generator=torch.Generator().manual_seed(0)).cumsum(1).cumsum(2)  # smooth images
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4))
    told = [
        seen_of(lambda x=x: fit(model, x, lambda z: z.square().mean(), 1)).roots[0].first_input_layout or {}
        for x in (last.reshape(16, 3, 8, 8), last.permute(0, 3, 1, 2))
    ]
    apart = [t["row_apart"] / t["row_apart_if_last"] for t in told]
    assert apart[0] > 1.4 > 1.0 > apart[1]


def test_the_few_entries_of_a_table_that_are_looked_up_are_counted() -> None:
    model = nn.Sequential(nn.Embedding(100, 4), nn.Flatten(), nn.Linear(20, 4))
    for words, n in ((torch.ones(64, 5, dtype=torch.long), 1), (torch.arange(320).view(64, 5) % 100, 8)):
        seen = seen_of(lambda words=words: fit(model, words, lambda z: z.square().mean()))
        told = next(iter(seen.train_batches()))
        assert (told.table_rows, told.n_tokens) == (100, n)


def test_a_first_look_at_the_shapes_is_no_training() -> None:
    held_out = X[:64] + 9.0

    def loop() -> None:
        model = net()
        model(next(iter(DataLoader(TensorDataset(held_out, Y[:64]), 64)))[0])
        usual(model=model)
        with torch.no_grad():
            model.eval()(held_out)

    told = seen_of(loop)
    assert [b.in_train for b in told.eval_batches() if b.n_hashed == 64] == [0]
    assert [x.trains for x in told.loaders.values()][:2] == [False, True]


class Decoder(nn.Module):
    """Asks for all symbols at once, from what an encoder remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(100, 8), nn.Linear(8, 4)

    def forward(self, blanks: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(blanks).sum(1) + memory)


def test_blanks_beside_a_memory_are_no_text() -> None:
    decoder, blanks = Decoder(), torch.ones(256, 5, dtype=torch.long)
    told = next(iter(seen_of(lambda: decoder(blanks, X).sum().backward()).train_batches()))
    assert told.table_rows == 0


class InPlace(nn.Module):
    def __init__(self, copies: bool) -> None:
        super().__init__()
        self.copies, self.linear = copies, nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone() if self.copies else x
        x -= 1.0
        return self.linear(x)


def test_a_network_that_writes_into_what_it_is_given() -> None:
    given = X.clone()
    for copies, n in ((False, 5), (True, 0)):
        seen = seen_of(lambda copies=copies: fit(InPlace(copies), given, lambda z: z.square().mean()))
        assert next(iter(seen.train_batches())).mutated_inside == n


def test_writing_into_a_fresh_batch_harms_nobody() -> None:
    def loop() -> None:
        model = InPlace(False)
        for _ in range(4):
            fit(model, X.clone(), lambda z: z.square().mean(), 1)

    assert next(iter(seen_of(loop).train_batches())).mutated_inside == 0


def test_hooks_that_pile_up_are_counted_until_they_are_removed() -> None:
    def remember(*_: object) -> None: ...

    def loop(remove: bool) -> None:
        model = net()
        for _ in range(4):
            handle = model[0].register_forward_hook(remember)
            fit(model, X, lambda z: F.cross_entropy(z, Y), 1)
            if remove:
                handle.remove()

    (told,) = seen_of(lambda: loop(False)).hooks_piled
    assert (told["kind"], told["on"], told["n"], told["since"], told["step"]) == ("forward hook", "Linear", 4, 0, 3)
    assert seen_of(lambda: loop(True)).hooks_piled == []


class Noisy(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return X[i] + float(np.random.normal()), int(Y[i])  # noqa: NPY002


def alike(_worker: int) -> None:
    np.random.seed(42)  # noqa: NPY002


def apart(_worker: int) -> None:
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002


def test_workers_that_are_seeded_alike_say_so() -> None:
    def loop(init: object) -> None:
        model = net()
        for x, y in DataLoader(Noisy(), 8, num_workers=2, worker_init_fn=init, multiprocessing_context="fork"):  # type: ignore[arg-type]
            fit(model, x, lambda z, y=y: F.cross_entropy(z, y), 1)

    assert seen_of(lambda: loop(alike)).loaders[0].alike_in_workers == ["numpy.random"]
    assert seen_of(lambda: loop(apart)).loaders[0].alike_in_workers == []


class Stored(torch.utils.data.Dataset):
    def __init__(self, changes: bool) -> None:
        self.images, self.changes = X.clone(), changes
        self.images[0, 0] = float("nan")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = self.images[i] if self.changes else self.images[i].clone()
        image += 1.0
        return image.nan_to_num(), int(Y[i])


def test_a_loader_made_anew_each_epoch_is_one_loader() -> None:
    def loop(changes: bool) -> None:
        stored, model = Stored(changes), net()
        for _ in range(3):
            for x, y in DataLoader(stored, 64):
                fit(model, x, lambda z, y=y: F.cross_entropy(z, y), 1)
            with torch.no_grad():  # another loader may get the memory that the first one had
                for x, _ in DataLoader(TensorDataset(X, Y), 128):
                    model(x)

    for changes in (True, False):
        told = seen_of(lambda changes=changes: loop(changes)).loaders[0]
        assert (told.n_iterations, told.n_batches) == (3, 12)
        assert told.arrays_changed == (["dataset.images"] if changes else [])
