"""The range test beside a training: it costs little, changes nothing, and makes a remedy a measured one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from dimwise import chain
from dimwise.chain import rates
from dimwise.cli import _doctor

FIXED = ["train.precision='fp32'", "train.layout='contiguous'", "train.compile='no'", "model.name='mlp'"]


@pytest.fixture(autouse=True)
def _time_is_no_object(monkeypatch):
    """How long a step takes must not decide what these tests see."""
    monkeypatch.setattr(rates, "LEAST_S", 1e9)


def trained(runs_dir, *settings):
    return chain.train(chain.load("digits", [*FIXED, *settings]), runs_dir=runs_dir)


def test_a_run_has_its_curve_and_its_weights_are_those_of_a_run_without(tmp_path):
    tested = trained(tmp_path, "train.epochs=2")
    alone = trained(tmp_path, "train.epochs=2", "doctor=false")
    told = json.loads((tested.run / "lr_range.json").read_text())
    assert told["interval"][0] < told["suggested"] < told["interval"][1]
    assert len(told["rates"]) == len(told["losses"]) == len(told["smoothed"]) > 30
    assert not (alone.run / "lr_range.json").exists()
    ours, theirs = (load_file(one.run / "checkpoints" / "last.safetensors") for one in (tested, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_remedy_about_the_rate_names_what_was_measured(tmp_path):
    result = trained(tmp_path, "train.epochs=3", "train.lr=2", "train.label_smoothing=0")
    told = json.loads((result.run / "lr_range.json").read_text())
    by_rule = {f["rule"]: f["remedy"] for f in result.checks["checks"]}
    assert f"begin with {told['suggested']:.2g}" in by_rule["lr-too-high"]
    assert [rule for rule, remedy in by_rule.items() if "range test" in remedy] == ["lr-too-high"]
    again = {f.rule: f.remedy for f in _doctor.at_run(result.run, ()).report.findings}
    assert again == by_rule


def test_what_would_take_long_is_left_out_and_the_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "LEAST_S", 0.0)
    monkeypatch.setattr(rates, "SHARE", 1e-9)
    result = trained(tmp_path, "train.epochs=1")
    assert json.loads((result.run / "lr_range.json").read_text()) == {"left_out": "time", "share": 1e-9}
    assert rates.advice(result.run) == ""


def test_a_failing_test_costs_the_curve_only(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(rates, "lr_range", fail)
    result = trained(tmp_path, "train.epochs=1")
    assert not (result.run / "lr_range.json").exists()
    assert result.checks["checked"]["steps"] > 0


@pytest.mark.parametrize("damage", [{}, {"interval": None}, {"interval": [1]}, {"interval": ["a", "b"]}, []])
def test_a_damaged_curve_gives_no_advice(tmp_path, damage):
    (tmp_path / "lr_range.json").write_text(json.dumps(damage))
    assert rates.advice(tmp_path) == ""


def test_a_resumed_run_keeps_its_curve(tmp_path):
    result = trained(tmp_path, "train.epochs=1")
    before = (result.run / "lr_range.json").read_bytes()
    chain.resume(result.run)
    assert (result.run / "lr_range.json").read_bytes() == before
