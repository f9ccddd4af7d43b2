"""Data looked at before any training: the rules that need no run, on sound data and on data with one mistake each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dimwise.data import load
from dimwise.data.config import DataConfig
from dimwise.data.sets import Normalise, Split
from dimwise.doctor.dataset import CHECKED, look, see
from dimwise.doctor.rules import ACROSS, RULES


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig())


def rules(data, **more):
    return {f.rule: f.severity for f in look(data, **more)[0].findings}


def test_sound_data_is_silent_and_the_rest_needs_a_run(digits):
    report, seen, remarks = look(digits)
    assert report.findings == []
    assert set(report.checked) <= set(CHECKED)
    assert {"unnormalised-input", "train-valid-leak", "no-shuffle", "class-imbalance"} <= set(report.checked)
    assert {n.rule for n in report.not_checked} | set(report.checked) == {*RULES, *ACROSS}
    assert {n.why for n in report.not_checked if n.rule not in CHECKED} == {"needs a run"}
    train, valid, test = seen.batches.values()
    assert (train.n_rows, valid.n_rows, test.n_rows) == (len(digits.train), len(digits.valid), len(digits.test))
    assert train.label_counts == dict(enumerate(torch.bincount(digits.train.targets).tolist()))
    assert "five nearest neighbours guess the label of 9" in remarks[1]


def test_validation_rows_that_are_trained_on_are_a_leak(digits):
    half = len(digits.valid) // 2
    inputs = torch.cat([digits.valid.inputs[:half], digits.train.inputs[:half]])
    targets = torch.cat([digits.valid.targets[:half], digits.train.targets[:half]])
    assert rules(dataclasses.replace(digits, valid=Split(inputs, targets))) == {"train-valid-leak": "error"}
    assert rules(dataclasses.replace(digits, valid=Split(inputs, targets)), ignore=["train-valid-leak"]) == {}


def test_rows_that_repeat_everywhere_are_no_leak():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 6, generator=generator)[torch.randint(0, 400, (900,), generator=generator)]
    sets = [Split(part, (part[:, 0] > 0).long()) for part in rows.split([600, 150, 150])]
    data = dataclasses.replace(load(DataConfig()), train=sets[0], valid=sets[1], test=sets[2])
    data = dataclasses.replace(data, normalise=Normalise(1.0, (0.0,), (1.0,)), labels=("a", "b"))
    assert rules(data).get("train-valid-leak") != "error"


def test_raw_pixels_are_not_normalised(digits):
    found = rules(dataclasses.replace(digits, normalise=Normalise(100.0, (0.0,), (1.0,))))
    assert found["unnormalised-input"] == "warning"


def test_holes_are_found(digits):
    inputs = digits.train.inputs.float()
    inputs[5, 0, 3, 3] = float("nan")
    assert "nan-in-input" in rules(dataclasses.replace(digits, train=Split(inputs, digits.train.targets)))


def test_a_rare_class_is_a_hint(digits):
    rare = digits.train.targets == 3
    keep = ~rare | (torch.cumsum(rare, 0) <= 20)
    many = digits.train.targets == 8
    inputs = torch.cat([digits.train.inputs[keep], *([digits.train.inputs[many]] * 5)])
    targets = torch.cat([digits.train.targets[keep], *([digits.train.targets[many]] * 5)])
    assert rules(dataclasses.replace(digits, train=Split(inputs, targets))).get("class-imbalance") == "hint"


def test_no_line_of_code_is_blamed(digits):
    assert all(b.place is None for b in see(digits).batches.values())
