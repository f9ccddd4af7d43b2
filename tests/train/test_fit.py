"""``fit`` as a whole: what is kept, when it stops, what it says, what it leaves as it was."""

from __future__ import annotations

import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dimwise.train as room
from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Data, Normalise, Split
from dimwise.errors import DataError, ModelError, NonFiniteLoss, RunError, UserError
from dimwise.progress import Progress
from dimwise.runs.metrics import read
from dimwise.tasks import Task
from dimwise.train import Fitted, Interrupted, TrainConfig, evaluate, fit, job, plain_step


def config(**told: Any) -> TrainConfig:
    usual: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "precision": "fp32", "layout": "contiguous"}
    usual |= told
    return TrainConfig(**usual)


def rows(n: int = 18, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, (x.sum(1) > 0).long()


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=generator), torch.arange(n) % 3


def mlp(*, dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 2))


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(v, b[k]) for k, v in a.items())


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    raw, y = torch.randint(0, 255, (30, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.arange(30) % 3
    train, valid, test = (Split(raw[a:b], y[a:b]) for a, b in ((0, 18), (18, 24), (24, 30)))
    return Data("toy", train, valid, test, labels=("a", "b", "c"), normalise=Normalise(1 / 255, (0.5,), (0.3,)))


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


# --- the same numbers again -------------------------------------------------------------------------------------


def test_two_runs_are_bit_equal_and_two_seeds_differ() -> None:
    runs = []
    for seed in (0, 0, 1):
        torch.rand(3)  # whatever was drawn before
        runs.append(state(fit(mlp(), rows(), config=config(seed=seed)).model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_loaders_repeat_too(kind: str) -> None:
    dataset = TensorDataset(*rows())
    source: Any = dataset if kind == "dataset" else DataLoader(dataset, batch_size=5, shuffle=True)
    runs = [fit(mlp(), source, config=config()) for _ in range(2)]
    assert same(state(runs[0].model), state(runs[1].model))
    assert runs[0].steps == (2 * 5 if kind == "dataset" else 2 * 4)


def test_a_dataset_learns_as_its_tensors_do() -> None:
    x, y = rows(400)
    fitted = fit(mlp(dropout=0), TensorDataset(x, y), config=config(epochs=4, batch_size=16), valid=Split(x, y))
    assert fitted.history[-1]["valid_score"] > 0.95


def test_global_generators_and_threads_are_given_back() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()  # type: ignore[index, union-attr] # noqa: NPY002
    fit(mlp(), TensorDataset(*rows()), config=config(threads=1, epochs=1))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index, union-attr] # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == before[3]


def test_dimwise_data_brings_its_validation_and_task() -> None:
    fitted = fit(conv(), data(), config=config())
    assert 0 <= fitted.history[-1]["valid_score"] <= 1
    raw = data()
    normalised = (raw.normalise(raw.train.inputs), raw.train.targets)
    assert same(state(fitted.model), state(fit(conv(), normalised, config=config(), valid=_valid(raw)).model))


def _valid(raw: Data) -> Split:
    return Split(raw.normalise(raw.valid.inputs), raw.valid.targets)


def test_large_data_is_normalised_on_the_way_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(conv(), data(), config=config())
    monkeypatch.setattr("dimwise.train.feed._WHOLE_BYTES", 10)
    piecewise = fit(conv(), data(), config=config())
    assert same(state(whole.model), state(piecewise.model))
    assert [r["valid_loss"] for r in whole.history] == [r["valid_loss"] for r in piecewise.history]


# --- what is kept -----------------------------------------------------------------------------------------------


class Scripted:
    """A task whose validation losses and scores are told in advance."""

    score_name = "told"

    def __init__(self, *pairs: tuple[float, float]) -> None:
        self.pairs = list(pairs)
        self.weights: list[dict[str, Tensor]] = []
        self.model: nn.Module | None = None
        self._at = 0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.requires_grad or len(targets) != 5:  # a training batch, or the check before it
            return nn.functional.cross_entropy(outputs, targets)
        assert self.model is not None
        self.weights.append(state(self.model))
        return torch.tensor(self.pairs[self._at][0])

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        self._at += 1
        return self.pairs[self._at - 1][1]


def scripted(pairs: list[tuple[float, float]], **told: Any) -> tuple[Fitted, Scripted]:
    model, task = mlp(), Scripted(*pairs)
    task.model = model
    fitted = fit(model, rows(), task, config(epochs=len(pairs), **told), valid=Split(*rows(5, seed=9)))
    return fitted, task


def test_best_weights_are_restored() -> None:
    fitted, task = scripted([(1.0, 0.5), (1.0, 0.9), (0.5, 0.9), (0.4, 0.7)])
    assert same(state(fitted.model), task.weights[2])  # the best score; of equal ones the lower loss
    assert not same(task.weights[2], task.weights[3])
    assert not fitted.model.training


def test_keep_last() -> None:
    fitted, task = scripted([(1.0, 0.9), (1.0, 0.1)], keep="last")
    assert same(state(fitted.model), task.weights[1])


@pytest.mark.parametrize(
    ("losses", "patience", "stops_after"),
    [([3, 2, 2, 2, 1, 1], 2, 4), ([3, 2, 2, 1, 1, 1], 3, None), ([1, 2, 3, 4], 1, 2), ([1, 2, 3, 4], 0, None)],
)
def test_early_stopping(losses: list[float], patience: int, stops_after: int | None) -> None:
    fitted, task = scripted([(loss, 1 - loss / 10) for loss in losses], patience=patience)
    assert fitted.stopped_early == (stops_after is not None)
    assert len(fitted.history) == (stops_after or len(losses))
    best = min(range(len(fitted.history)), key=lambda i: losses[i])
    assert same(state(fitted.model), task.weights[best])


def test_patience_counts_epochs_not_scorings() -> None:
    fitted, _ = scripted([(1.0, 0.5)] * 9, patience=3, eval_every=2)
    assert [r["epoch"] for r in fitted.history if "valid_loss" in r] == [1, 3, 5]
    assert len(fitted.history) == 6


def test_eval_every_scores_the_last_epoch_too() -> None:
    fitted, _ = scripted([(1.0, 0.5)] * 5, eval_every=2)
    assert [r["epoch"] for r in fitted.history if "valid_score" in r] == [1, 3, 4]


def test_a_score_that_is_never_a_number_keeps_the_last() -> None:
    fitted, task = scripted([(1.0, float("nan")), (1.0, float("nan"))])
    assert same(state(fitted.model), task.weights[1])


@pytest.mark.parametrize("valid", [None, Split(torch.empty(0, 3), torch.empty(0).long())])
def test_without_validation_the_last_weights_stay(valid: Split | None) -> None:
    fitted = fit(mlp(), rows(), config=config(patience=1), valid=valid)
    assert "valid_score" not in fitted.history[-1]
    assert (len(fitted.history), fitted.stopped_early) == (2, False)


def test_the_average_is_scored_and_kept() -> None:
    x, y = rows()
    kept = fit(mlp(), (x, y), config=config(ema=0.9, epochs=3), valid=Split(x, y))
    plain = fit(mlp(), (x, y), config=config(epochs=3), valid=Split(x, y))
    assert not same(state(kept.model), state(plain.model))
    best = max(kept.history, key=lambda r: (r["valid_score"], -r["valid_loss"]))
    assert evaluate(kept.model, Split(x, y), None, _task())[0] == pytest.approx(best["valid_loss"], rel=1e-6)
    last = fit(mlp(), (x, y), config=config(ema=0.9, epochs=3))
    again = fit(mlp(), (x, y), config=config(ema=0.9, epochs=3, keep="last"), valid=Split(x, y))
    assert same(state(last.model), state(again.model))


def _task() -> Task:
    from dimwise.tasks import get

    return get("classification")


def test_what_an_epoch_tells() -> None:
    x, y = rows()
    fitted = fit(mlp(), (x, y), config=config(), valid=Split(x, y))
    row = fitted.history[1]
    assert (row["kind"], row["epoch"], row["step"]) == ("epoch", 1, 9)
    assert list(row["grad_norms"]) == list(row["update_ratios"]) == ["0", "3"]
    assert all(0 < v < 1 for v in row["update_ratios"].values())
    assert 0 < row["seconds"] < row["t"] < fitted.seconds
    assert fitted.images_per_s > 0
    assert fitted.steps == 10


def test_the_room_can_be_called() -> None:
    assert room(mlp(), rows(), config=config(epochs=1)).steps == 5  # type: ignore[operator]


# --- layout and order of operations -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_model_gets_its_layout_back(layout: str) -> None:
    model = conv()
    fit(model, images(), config=config(layout=layout))
    assert all(p.is_contiguous() for p in model.parameters())


def test_the_model_gets_its_order_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from dimwise.train.precision import Arithmetic, Choice

    monkeypatch.setattr(sys.modules[fit.__module__], "choose", lambda *_, **__: Choice(Arithmetic(swap_pool=True)))
    model = conv()
    kinds = [type(m) for m in model]
    swapped = fit(model, images(), config=config())
    assert [type(m) for m in model] == kinds
    assert swapped.choice.arithmetic.swap_pool
    monkeypatch.undo()
    assert same(state(swapped.model), state(fit(conv(), images(), config=config()).model))


def test_the_order_comes_back_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from dimwise.train.precision import Arithmetic, Choice

    def failing(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        assert isinstance(model, nn.Sequential)
        assert isinstance(model[2], nn.MaxPool2d)
        raise KeyError

    monkeypatch.setattr(sys.modules[fit.__module__], "choose", lambda *_, **__: Choice(Arithmetic(swap_pool=True)))
    model = conv()
    with pytest.raises(KeyError):
        fit(model, images(), config=config(), step=failing)
    assert isinstance(model[2], nn.ReLU)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision: str) -> None:
    x, y = rows(200)
    told = config(precision=precision, epochs=4, batch_size=20, clip_norm=1.0, accumulate=2)
    fitted = fit(mlp(dropout=0), (x, y), config=told, valid=Split(x, y))
    assert fitted.history[-1]["valid_score"] > 0.9
    assert all(p.dtype == torch.float32 for p in fitted.model.parameters())
    assert fitted.choice.arithmetic.precision == precision
    exact = fit(mlp(dropout=0), (x, y), config=config(epochs=4, batch_size=20, clip_norm=1.0, accumulate=2))
    norms = [f.history[-1]["grad_norms"]["0"] for f in (fitted, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=0.2)  # unscaled, whatever the scaler does


def test_augmentation_reaches_the_network() -> None:
    plain = fit(conv(), images(), config=config())
    shifted = fit(conv(), images(), config=config(), augment=AugmentConfig(crop=1, mixup=0.5))
    assert not same(state(plain.model), state(shifted.model))


def test_mixing_knows_how_many_outputs_there_are() -> None:
    """The last class happens not to be in the training rows."""
    x, _ = images()
    fit(conv(), (x, torch.arange(12) % 2), config=config(), augment=AugmentConfig(mixup=1.0))


# --- the run folder ---------------------------------------------------------------------------------------------


def test_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_LOG_EVERY_S", -1.0)
    x, y = rows()
    fitted = fit(mlp(), (x, y), config=config(), valid=Split(x, y), run_dir=tmp_path / "new" / "run")
    folder = tmp_path / "new" / "run"
    assert same(load_file(folder / "checkpoints" / "best.safetensors"), state(fitted.model))
    records = read(folder / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(10))
    assert [r for r in records if r["kind"] == "epoch"] == fitted.history
    assert {"kind", "step", "epoch", "loss", "lr", "images_per_s", "t"} == records[0].keys()


def test_without_validation_best_is_what_is_handed_back(tmp_path: Path) -> None:
    fitted = fit(mlp(), rows(), config=config(ema=0.9), run_dir=tmp_path)
    assert same(load_file(tmp_path / "checkpoints" / "best.safetensors"), state(fitted.model))
    assert not same(load_file(tmp_path / "checkpoints" / "last.safetensors"), state(fitted.model))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    x, y = rows()
    first = fit(mlp(), (x, y), config=config(ema=0.9), valid=Split(x, y), run_dir=tmp_path)
    again = fit(mlp(), (x, y), config=config(ema=0.9), valid=Split(x, y), run_dir=tmp_path, resume=True)
    assert same(state(first.model), state(again.model))
    assert again.history == first.history
    assert (again.steps, again.images_per_s) == (first.steps, 0.0)


def test_resuming_a_run_that_stopped_early(tmp_path: Path) -> None:
    told = {"lr": 1e-9, "patience": 1, "epochs": 9, "schedule": "constant"}
    x, y = rows()
    first = fit(mlp(), (x, y), config=config(**told), valid=Split(x, y), run_dir=tmp_path)
    again = fit(mlp(), (x, y), config=config(**told), valid=Split(x, y), run_dir=tmp_path, resume=True)
    assert first.stopped_early
    assert again.stopped_early
    assert same(state(first.model), state(again.model))
    assert again.history == first.history


def test_more_epochs_may_be_added(tmp_path: Path) -> None:
    fit(mlp(), rows(), config=config(epochs=2), run_dir=tmp_path)
    longer = fit(mlp(), rows(), config=config(epochs=4), run_dir=tmp_path, resume=True)
    assert same(state(longer.model), state(fit(mlp(), rows(), config=config(epochs=4)).model))
    assert [r["epoch"] for r in longer.history] == [0, 1, 2, 3]


def test_resume_goes_back_to_the_older_generation(tmp_path: Path) -> None:
    said = Said()
    whole = fit(mlp(), rows(), config=config(checkpoint_every_s=0), run_dir=tmp_path)
    (tmp_path / "checkpoints" / "state-00000010.safetensors").write_bytes(b"harm")
    again = fit(mlp(), rows(), config=config(checkpoint_every_s=0), run_dir=tmp_path, resume=True, progress=said)
    assert said.lines == ["state-00000010.safetensors is damaged: going on from the checkpoint of step 9"]
    assert same(state(whole.model), state(again.model))


@pytest.mark.parametrize(
    ("told", "said"),
    [({"lr": 0.1}, "lr = 0.05 and is resumed with 0.1"), ({"batch_size": 2}, "batch_size = 4 and is resumed with 2")],
)
def test_resuming_with_other_settings_says_so(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    fit(mlp(), rows(), config=config(), run_dir=tmp_path)
    with pytest.raises(RunError, match=said):
        fit(mlp(), rows(), config=config(**told), run_dir=tmp_path, resume=True)


def test_resuming_with_other_data_or_network_says_so(tmp_path: Path) -> None:
    fit(mlp(), rows(), config=config(), run_dir=tmp_path)
    with pytest.raises(RunError, match="n_samples = 18 and is resumed with 19"):
        fit(mlp(), rows(19), config=config(), run_dir=tmp_path, resume=True)
    with pytest.raises(RunError, match="weights do not fit the network"):
        fit(nn.Linear(3, 2), rows(), config=config(), run_dir=tmp_path, resume=True)


def test_a_used_folder_is_not_written_over(tmp_path: Path) -> None:
    fit(mlp(), rows(), config=config(), run_dir=tmp_path)
    before = (tmp_path / "checkpoints" / "last.safetensors").read_bytes()
    with pytest.raises(RunError, match="already holds a training"):
        fit(mlp(), rows(), config=config(), run_dir=tmp_path)
    assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*checkpoints'"):
        fit(mlp(), rows(), config=config(), run_dir=tmp_path / "file")


def test_resume_needs_a_folder() -> None:
    with pytest.raises(UserError, match="resume needs a run folder"):
        fit(mlp(), rows(), config=config(), resume=True)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


def interrupting(at: int, times: int = 1) -> Any:
    count = 0

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        nonlocal count
        count += 1
        if count == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return plain_step(model, x, y, task)

    return step


@pytest.mark.parametrize("at", [1, 3, 5, 10])
def test_ctrl_c_finishes_the_step_and_can_be_resumed(tmp_path: Path, at: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    x, y = rows()
    with pytest.raises(Interrupted, match=f"stopped after step {at}$"):
        fit(mlp(), (x, y), config=config(ema=0.9), valid=Split(x, y), run_dir=tmp_path, step=interrupting(at))
    assert signal.getsignal(signal.SIGINT) is before
    resumed = fit(mlp(), (x, y), config=config(ema=0.9), valid=Split(x, y), run_dir=tmp_path, resume=True)
    whole = fit(mlp(), (x, y), config=config(ema=0.9), valid=Split(x, y))
    assert same(state(resumed.model), state(whole.model))
    assert [r["train_loss"] for r in resumed.history] == [r["train_loss"] for r in whole.history]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as told:
        fit(mlp(), rows(), config=config(), run_dir=tmp_path, step=interrupting(3, times=2))
    assert not isinstance(told.value, Interrupted)
    resumed = fit(mlp(), rows(), config=config(), run_dir=tmp_path, resume=True)
    assert same(state(resumed.model), state(fit(mlp(), rows(), config=config()).model))


def test_it_works_outside_the_main_thread() -> None:
    found: list[Fitted] = []
    thread = threading.Thread(target=lambda: found.append(fit(mlp(), rows(), config=config())))
    thread.start()
    thread.join()
    assert found[0].steps == 10


# --- NaN --------------------------------------------------------------------------------------------------------


def exploding(at: int) -> Any:
    """The inputs of one step make the second layer overflow."""
    count = 0

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        nonlocal count
        count += 1
        return plain_step(model, x * float("inf") if count == at else x, y, task)

    return step


def test_nan_stops_with_step_and_checkpoint_and_leaves_the_weights(tmp_path: Path) -> None:
    model = mlp()
    with pytest.raises(
        NonFiniteLoss, match=r"the loss is nan at step 3 in epoch 1.*checkpoints/last\.safetensors of step 0"
    ):
        fit(model, rows(), config=config(), run_dir=tmp_path, step=exploding(4))
    three = state(model)
    assert all(torch.isfinite(v).all() for v in three.values())
    reference = mlp()
    with pytest.raises(Interrupted):
        fit(reference, rows(), config=config(), step=interrupting(3))
    assert same(three, state(reference))
    assert fit(mlp(), rows(), config=config(), run_dir=tmp_path, resume=True).steps == 10


def test_nan_names_the_module() -> None:
    model = mlp(dropout=0)
    x, y = rows()
    x[7] *= 1e38
    model[0].weight.data.mul_(10)
    with pytest.raises(NonFiniteLoss, match=r"first module to make one is '0' \(Linear\)\. Lower train\.lr"):
        fit(model, (x, y), config=config())


def test_a_finite_loss_with_a_gradient_that_is_not(tmp_path: Path) -> None:
    """√0 is fine, its derivative is not: such weights reach neither the score nor the disk."""

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        return task.loss(model(x), y) + torch.sqrt((model(x) * 0).sum())

    with pytest.raises(NonFiniteLoss, match=r"parameter '0\.weight' holds NaN .* after 1 steps"):
        fit(mlp(), rows(), config=config(checkpoint_every_s=0), run_dir=tmp_path, step=step)
    stored = load_file(tmp_path / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(v).all() for v in stored.values())
    with pytest.raises(NonFiniteLoss, match=r"parameter '0\.weight' holds NaN"):
        fit(mlp(), rows(4), config=config(epochs=1), step=step)


# --- what cannot go together ------------------------------------------------------------------------------------


def test_a_wrong_shape_is_told_before_the_first_step() -> None:
    with pytest.raises(ModelError, match=r"does not take inputs of shape \(B, 1, 6, 6\) and type float32"):
        fit(mlp(), images(), config=config())
    with pytest.raises(ModelError, match=r"shape \(B, 3\) and type float64"):
        fit(mlp(), (rows()[0].double(), rows()[1]), config=config(precision="auto"))


def test_a_class_without_an_output() -> None:
    x, y = rows()
    with pytest.raises(DataError, match="classes go from 0 to 2 but the network has 2 outputs"):
        fit(mlp(), (x, y.clone().index_fill_(0, torch.tensor(17), 2)), config=config())
    with pytest.raises(DataError, match="classes go from -1"):
        fit(mlp(), (x, y - 1), config=config())


def test_targets_that_do_not_fit_the_task() -> None:
    with pytest.raises(ModelError, match=r"loss does not take 2 outputs and targets of shape \(B, 5\)"):
        fit(mlp(), (rows()[0], torch.rand(18, 5)), "multilabel", config())


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 4)])
def test_rows_that_do_not_match(n: int, m: int) -> None:
    with pytest.raises(DataError, match=f"{n} inputs and {m} targets"):
        fit(mlp(), (torch.ones(n, 3), torch.ones(m).long()), config=config())


def test_augmentation_and_loaders() -> None:
    with pytest.raises(UserError, match="augmentation is set but the data is a loader"):
        fit(mlp(), TensorDataset(*rows()), config=config(), augment=AugmentConfig(flip=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"train\.device is 'cuda' but this machine has none"):
        fit(mlp(), rows(), config=config(device="cuda"))


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x), x


def test_a_network_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the network returns a tuple; expected one tensor of shape \(B, outputs\)"):
        fit(TwoOutputs(), rows(), config=config())


def test_a_network_with_more_outputs_than_labels_is_refused() -> None:
    x, y = rows()
    split = Split(x, y)
    data = Data("d", split, split, split, ("no", "yes"), Normalise(1.0, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ModelError, match="the network has 3 outputs; expected 2, one for each label of 'd'"):
        fit(nn.Linear(3, 3), data, config=config())
    fit(nn.Linear(3, 3), (x, y), config=config())  # tensors have no labels to count


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("digits", "the data is a str; expected dimwise data, a pair of tensors"),
        ((np.zeros((4, 3), np.float32), np.zeros(4)), r"a tuple of ndarray, ndarray; expected .*torch\.from_numpy"),
        ((torch.zeros(4, 3),), "the data is a tuple of Tensor"),
    ],
)
def test_data_of_another_kind_is_refused(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit(mlp(), data, config=config())
