"""Training under the doctor's eye: the same weights, findings in the folder, and no harm whatever goes wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from dimwise import chain
from dimwise.chain import checked
from dimwise.doctor import watch, wire
from dimwise.errors import NonFiniteLoss
from dimwise.progress import Progress
from dimwise.train import job

# What the clock would decide is decided here, so that two runs can be compared bit by bit.
FIXED = ["train.precision='fp32'", "train.layout='contiguous'", "train.compile='no'", "model.name='mlp'"]


def trained(runs_dir, *settings, **more):
    return chain.train(chain.load("digits", [*FIXED, *settings]), runs_dir=runs_dir, **more)


def weights(run):
    return load_file(run / "checkpoints" / "last.safetensors")


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    "settings",
    [
        ("train.epochs=12", "model.dropout=0.2"),  # more steps than are watched
        ("train.epochs=2", "train.optimizer='nesterov'", "train.clip_norm=1.0", "train.accumulate=2", "train.ema=0.9"),
    ],
)
def test_the_weights_are_the_same_bit_for_bit_with_and_without_the_doctor(tmp_path, settings):
    watched = trained(tmp_path, *settings)
    alone = trained(tmp_path, *settings, "doctor=false")
    assert "checks" in watched.checks
    assert alone.checks == {}
    assert not (alone.run / "seen.json").exists()
    ours, theirs = weights(watched.run), weights(alone.run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert watched.told["score"] == alone.told["score"]


def test_a_built_in_recipe_is_free_of_errors_and_warnings_and_the_folder_holds_what_was_seen(tmp_path):
    result = trained(tmp_path, "train.epochs=2")
    told = json.loads((result.run / "result.json").read_text())
    assert [f for f in told["checks"] if f["severity"] != "hint"] == []
    assert {"missing-zero-grad", "lr-too-high", "no-shuffle", "train-valid-leak"} <= set(told["checked"]["rules"])
    seen = wire.read(result.run / "seen.json")
    assert told["checked"]["steps"] == seen.n_steps == result.told["steps"]
    assert seen.finished
    assert checked.told(seen)["checks"] == told["checks"]


def test_a_bad_rate_is_found(tmp_path):
    told = trained(tmp_path, "train.epochs=3", "train.lr=2", "train.label_smoothing=0").checks
    assert "lr-too-high" in [f["rule"] for f in told["checks"]], told["checks"]
    finding = told["checks"][0]
    assert set(finding) == {"rule", "severity", "title", "evidence", "remedy", "proof", "where"}
    assert finding["where"]["file"] is None or not finding["where"]["file"].endswith("bin/dimwise")


def test_after_its_steps_everything_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "STEPS", 5)
    before = (torch.autograd.backward, nn.Module.eval, torch.Tensor.item)
    states = []

    def conclude(one):
        backward = torch.autograd.backward
        hooks = [*module_hooks._global_forward_hooks, *optimizer_hooks._global_optimizer_post_hooks]
        states.append((one.on, backward is before[0], hooks))
        return real(one)

    real = watch.end
    monkeypatch.setattr(watch, "end", conclude)  # called when training is over
    result = trained(tmp_path, "train.epochs=1")
    assert states == [(False, True, [])]
    assert (torch.autograd.backward, nn.Module.eval, torch.Tensor.item) == before
    assert result.checks["checked"]["steps"] == 5
    assert result.told["steps"] > 5


@pytest.mark.parametrize("broken", ["begin", "end"])
def test_a_failing_doctor_harms_no_run(tmp_path, monkeypatch, broken):
    def fail(*_args, **_kwargs):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(watch, broken, fail)
    heard = Heard()
    try:
        result = trained(tmp_path, "train.epochs=1", progress=heard)
    finally:
        monkeypatch.undo()
    assert result.told["score"]["value"] > 0.3
    assert result.checks == {}
    assert heard.lines == ["doctor: could not look at this training (ValueError: a bug of ours)"]


def test_a_run_that_fails_leaves_what_was_seen(tmp_path):
    with pytest.raises(NonFiniteLoss):
        trained(tmp_path, "train.epochs=3", "train.lr=100", "train.optimizer='nesterov'")
    run = next(tmp_path.iterdir())
    seen = wire.read(run / "seen.json")
    assert not seen.finished
    assert seen.error["type"] == "NonFiniteLoss"
    assert "loss-not-finite" in [f["rule"] for f in checked.told(seen)["checks"]]


def test_a_resumed_run_keeps_the_stretch_that_shows_more(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_LOG_EVERY_S", float("inf"))  # a fast machine ends before a step is logged
    result = trained(tmp_path, "train.epochs=2")
    again = chain.resume(result.run)  # nothing is left to do
    assert again.as_dict()["images_per_s"] > 0
    assert again.checks["checked"]["steps"] == result.checks["checked"]["steps"] > 0


def test_whoever_is_watched_from_outside_does_not_watch_himself(tmp_path, monkeypatch):
    monkeypatch.setenv("DIMWISE_DOCTOR", str(tmp_path))
    assert trained(tmp_path / "runs", "train.epochs=1").checks == {}
