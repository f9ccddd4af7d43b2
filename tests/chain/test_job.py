"""The whole chain on real data, against the contract that scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dimwise import chain, models, ship
from dimwise.data import load as load_data
from dimwise.errors import BudgetError, NonFiniteLoss, ParityError, RecipeError, RunError
from dimwise.runs import folder, metrics
from dimwise.tasks import get
from dimwise.train import evaluate
from dimwise.view.report import report

CONTRACT = {"run", "score", "stages", "chosen", "artifact", "parity", "seconds"}
STAGE = {"name", "score", "size_bytes", "latency_ms", "params", "macs"}


def digits(settings: list[str]) -> chain.Recipe:
    """The recipe with these settings, and no search unless they ask for one."""
    return chain.load("digits", ["fold.time_s=0", *settings])


def test_the_result_has_the_contracts_shape(digits_run):
    told = digits_run.as_dict()
    assert CONTRACT <= set(told)
    assert set(told["score"]) == {"name", "value", "n"}
    assert all(STAGE <= set(stage) for stage in told["stages"])
    assert [s["name"] for s in told["stages"]] == ["trained", "onnx", "quantize", "prune+quantize", "distill"]
    assert told["chosen"] in [s["name"] for s in told["stages"][1:]]
    assert set(told["parity"]) == {"passed", "score_delta", "max_scaled_diff", "batches"}
    assert told["parity"]["batches"] == [1, 3, 64]
    assert json.loads(json.dumps(told)) == told
    assert digits_run.exit_code == 0


def test_the_run_folder_holds_what_the_contract_names(digits_run):
    told = digits_run.as_dict()
    run = Path(told["run"])
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "result.json", "pictures.npz"):
        assert (run / name).is_file(), name
    for name in ("last", "best"):
        assert (run / "checkpoints" / f"{name}.safetensors").is_file()
    assert json.loads((run / "result.json").read_text())["chosen"] == told["chosen"]
    assert chain.load(run / "recipe.toml").train.epochs == 12
    assert [r for r in metrics.read(run / "metrics.jsonl") if r["kind"] == "epoch"][-1]["epoch"] == 11


def test_stage_zero_is_the_trained_network_in_eager_pytorch(digits_run):
    told = digits_run.as_dict()
    data = load_data(chain.load("digits").data)
    network = models.build("small_cnn", data.input_shape, data.n_outputs)
    network.load_state_dict(load_file(Path(told["run"]) / "checkpoints" / "best.safetensors"))
    score = evaluate(network, data.test, data.normalise, get("classification"))[1]
    assert told["stages"][0]["score"] == pytest.approx(score)
    assert told["stages"][0]["params"] == sum(p.numel() for p in network.parameters())
    assert score > 0.9


def test_the_artifact_scores_on_its_runtime_what_the_result_says(digits_run):
    told = digits_run.as_dict()
    data = load_data(chain.load("digits").data)
    artifact = ship.read(told["artifact"])
    assert artifact.manifest.status == "ok"
    outputs = ship.session(artifact.model_path).run(data.test.inputs.numpy())
    score = float((outputs.argmax(1) == data.test.targets.numpy()).mean())
    assert told["score"]["value"] == pytest.approx(score)


def test_folds_make_it_smaller(digits_run):
    stages = {s["name"]: s for s in digits_run.as_dict()["stages"]}
    assert stages["quantize"]["size_bytes"] < 0.4 * stages["onnx"]["size_bytes"]
    assert stages["prune+quantize"]["macs"] < 0.65 * stages["onnx"]["macs"]
    assert stages["distill"]["params"] < 0.5 * stages["onnx"]["params"]


def test_pictures_are_plain_arrays_of_the_test_set(digits_run):
    with np.load(Path(digits_run.as_dict()["run"]) / "pictures.npz", allow_pickle=False) as pictures:
        confusion = pictures["confusion"]
        assert confusion.sum() == digits_run.as_dict()["score"]["n"]
        assert np.trace(confusion) / confusion.sum() == pytest.approx(digits_run.as_dict()["score"]["value"])
        assert len(pictures["mistakes_truth"]) == min(24, confusion.sum() - np.trace(confusion))
        assert pictures["filters"].shape == (32, 1, 3, 3)


def test_an_impossible_budget_fails_and_names_the_nearest(tmp_path):
    settings = ["train.epochs=2", "fold.candidates=['quantize']", "budget.size_bytes=1000", "budget.drop=1.0"]
    settings.append("ship.parity_max_score_drop=1.0")  # a rounding can move the score of two epochs
    recipe = digits(settings)
    result = chain.run(recipe, runs_dir=tmp_path)
    assert isinstance(result.failure, BudgetError)
    assert result.exit_code == 1
    assert "The nearest is 'quantize': size is" in str(result.failure)
    assert result.as_dict()["chosen"] == "quantize"


def test_an_int8_graph_far_from_its_network_is_not_delivered_as_equal(tmp_path):
    settings = ["train.epochs=2", "fold.candidates=['quantize']", "budget.drop=1.0", "budget.size_bytes=100000"]
    settings += ["ship.parity_max_score_drop=1.0", "ship.parity_int8_tolerance=1e-9"]
    result = chain.run(digits(settings), runs_dir=tmp_path)
    assert isinstance(result.failure, ParityError)
    assert result.exit_code == 1
    assert "outputs off by at most 1e-09 of their size" in str(result.failure)
    assert result.as_dict()["parity"]["passed"] is False


def test_no_fold_better_keeps_the_original(tmp_path):
    settings = ["train.epochs=2", "fold.candidates=[]", "budget.size_bytes=0"]
    result = chain.run(digits(settings), runs_dir=tmp_path)
    assert result.as_dict()["chosen"] == "onnx"
    assert result.as_dict()["reasons"]["onnx"] == "no fold is better: keep the original"
    assert result.as_dict()["parity"]["max_scaled_diff"] < 1e-4


def test_a_users_own_network_goes_the_whole_way(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def small(input_shape, n_outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n_outputs))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = digits(["train.epochs=3", "fold.candidates=['quantize']", "budget.drop=1.0"])
    result = chain.run(recipe, runs_dir=tmp_path / "runs", model="own_nets:small")
    assert result.as_dict()["stages"][0]["params"] == 64 * 32 + 32 + 32 * 10 + 10
    with pytest.raises(RunError, match="own_nets:small"):
        chain.resume(result.run)


def test_a_recipe_may_not_name_code():
    with pytest.raises(RecipeError, match="A recipe runs no code: name your own with --model"):
        digits(["model.name='own_nets:small'"])


def test_a_loss_that_explodes_stops_the_run_and_is_marked(tmp_path):
    recipe = chain.load(
        "digits",
        ["model.name=mlp", "train.lr=100", "train.optimizer='sgd'", "train.schedule='constant'", "train.ema=0"],
    )
    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) at step \d+.*last good checkpoint"):
        chain.train(recipe, runs_dir=tmp_path)
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "status.json").read_text())["status"] == "failed"


def test_train_alone_then_resumed_changes_nothing(tmp_path):
    result = chain.train(digits(["train.epochs=2"]), runs_dir=tmp_path)
    assert set(result.as_dict()) == {"run", "score", "seconds", "steps", "images_per_s"}
    before = load_file(result.run / "checkpoints" / "last.safetensors")
    again = chain.resume(result.run)
    after = load_file(result.run / "checkpoints" / "last.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert again.as_dict()["score"] == result.as_dict()["score"]


def test_one_seed_gives_one_run(tmp_path):
    recipe = digits(["train.epochs=2", "train.precision='fp32'", "train.layout='contiguous'"])
    first, second = (chain.train(recipe, runs_dir=tmp_path) for _ in range(2))
    a, b = (load_file(r.run / "checkpoints" / "last.safetensors") for r in (first, second))
    assert first.run != second.run
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.real
@pytest.mark.parametrize("target", ["Survived", "Fare"])
def test_a_table_goes_the_whole_way(tmp_path, data_dir, target):
    """Titanic: classification of survivors, regression of the fare."""
    settings = [
        "data.source=csv",
        f"data.path={data_dir / 'titanic' / 'train.csv'}",
        f"data.target={target}",
        "augment.crop=0",
        "model.name=mlp",
        "train.epochs=8",
        "train.label_smoothing=0.0",
        "fold.candidates=['quantize']",
        "budget.drop=0.05",
        "budget.size_bytes=0",
    ]
    result = chain.run(digits(settings), runs_dir=tmp_path)
    told = result.as_dict()
    assert told["score"]["name"] == ("accuracy" if target == "Survived" else "r2")
    assert told["score"]["value"] > (0.7 if target == "Survived" else 0.1)


def test_a_fold_that_cannot_be_done_costs_its_candidates_and_not_the_run(tmp_path):
    settings = ["model.name=mlp", "train.epochs=2", "fold.candidates=['prune', 'prune+quantize', 'quantize']"]
    settings += ["fold.prune.macs=0.000001", "ship.parity_max_score_drop=1.0", "budget.drop=1.0"]
    settings.append("budget.size_bytes=0")
    told = chain.run(digits(settings), runs_dir=tmp_path).as_dict()
    assert [s["name"] for s in told["stages"]] == ["trained", "onnx", "quantize"]
    assert "MACs" in told["reasons"]["prune"]
    assert told["reasons"]["prune+quantize"] == told["reasons"]["prune"]


def test_another_librarys_exception_in_a_fold_costs_its_candidates_and_not_the_run(tmp_path, monkeypatch):
    calls = []

    def broken(*_: object) -> None:
        calls.append("prune")
        raise LookupError("no such\nthing")

    monkeypatch.setattr("dimwise.plan.apply._fold_network", broken)
    settings = ["model.name=mlp", "train.epochs=1", "fold.candidates=['prune', 'prune+quantize', 'quantize']"]
    settings += ["ship.parity_max_score_drop=1.0", "budget.drop=1.0", "budget.size_bytes=0"]
    told = chain.run(digits(settings), runs_dir=tmp_path).as_dict()
    assert [s["name"] for s in told["stages"]] == ["trained", "onnx", "quantize"]
    assert told["skipped"] == {"prune": "LookupError: no such", "prune+quantize": "LookupError: no such"}
    assert calls == ["prune"]


UNEXPORTABLE = """
import torch
from torch import nn

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        if x.sum() > 0:  # a choice that follows from the values of a tensor
            x = x * 1.5
        return self.last(x)

    def __deepcopy__(self, memo):
        raise LookupError("one of a kind")

def net(input_shape, n_outputs):
    return Stubborn()
"""


def test_a_network_that_cannot_be_exported_is_kept_as_it_was_trained(tmp_path, monkeypatch):
    (tmp_path / "own_stubborn.py").write_text(UNEXPORTABLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    candidates = ["quantize", "prune", "distill"]
    settings = ["train.epochs=1", "train.precision=fp32", "train.layout=contiguous", "budget.size_bytes=0"]
    recipe = digits([*settings, f"fold.candidates={candidates}"])
    result = chain.run(recipe, runs_dir=tmp_path / "runs", model="own_stubborn:net")
    told = result.as_dict()
    assert result.exit_code == 1
    assert str(result.failure).startswith(
        "nothing can be shipped, the trained network is kept: torch cannot export the model: "
    )
    assert "\n" not in str(result.failure)
    assert (told["chosen"], told["artifact"], told["parity"]) == ("trained", None, None)
    (stage,) = told["stages"]
    assert stage["params"] == 64 * 16 + 16 + 16 * 10 + 10
    assert stage["train_peak_memory_bytes"] is None
    assert told["score"]["value"] == stage["score"]
    assert set(told["skipped"]) == {"onnx", *candidates}
    assert json.loads((result.run / "result.json").read_text())["chosen"] == "trained"
    assert (result.run / "checkpoints" / "best.safetensors").is_file()
    assert folder.status(result.run) == "failed"
    page = report(result.run).read_text("utf-8")
    assert page.count("torch cannot export the model") == 2  # the failure, and why there is no onnx
    assert page.count("onnx cannot be made, and this is made from the same network.") == 3


def test_candidates_of_the_runtime_have_a_peak_memory(digits_run):
    trained, *served = digits_run.as_dict()["stages"]
    assert trained["peak_memory_bytes"] > trained["size_bytes"]
    assert all(stage["size_bytes"] < stage["peak_memory_bytes"] < 100e6 for stage in served)


def test_memory_that_cannot_be_measured_fails_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    recipe = digits(["model.name=mlp", "train.epochs=1", "fold.candidates=[]", "budget.size_bytes=0"])
    told = chain.run(recipe, runs_dir=tmp_path).as_dict()
    assert told["stages"][1]["peak_memory_bytes"] is None


def test_a_search_adds_its_best_to_the_listed_candidates(tmp_path, monkeypatch):
    from dimwise.plan import begin, space

    monkeypatch.setattr(space, "STUDENTS", ("",))
    monkeypatch.setattr(space, "CUTS", ("",))
    monkeypatch.setattr(begin, "NUMBERS", ("", "quantize(weights)"))
    settings = ["model.name=mlp", "train.epochs=2", "fold.candidates=[]", "fold.time_s=60", "doctor=false"]
    settings += ["ship.parity_max_score_drop=1.0", "budget.drop=1.0", "budget.size_bytes=0", "budget.prefer=size"]
    result = chain.run(digits(settings), runs_dir=tmp_path)
    told = result.as_dict()
    assert [s["name"] for s in told["stages"]] == ["trained", "onnx", "quantize(weights)"]
    assert told["chosen"] == "quantize(weights)"
    assert told["artifact"].endswith("artifacts/quantize-weights")
    assert (result.run / "plan" / "onnxruntime-1-1" / "plan.jsonl").is_file()
    assert told["search"] == {"time_s": 60, "looked_at": 1, "whole": 1}
