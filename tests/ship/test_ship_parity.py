"""The parity gate: good exports pass, seeded bad ones do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dimwise.data.sets import Data, Split
from dimwise.errors import ArtifactError, DataError, ParityError
from dimwise.ship import Runner, ShipConfig, gate, parity, predict, read, session, torch_reference
from dimwise.tasks import get

TASK = get("classification")
Change = Callable[[np.ndarray], np.ndarray]
Reference = Callable[[torch.Tensor], np.ndarray]


class Swapped:
    """A runner that changes what goes in or comes out."""

    def __init__(self, runner: Runner, before: Change = lambda x: x, after: Change = lambda y: y) -> None:
        self.runner, self.before, self.after = runner, before, after
        self.sizes: list[int] = []

    def run(self, inputs: np.ndarray) -> np.ndarray:
        self.sizes.append(len(inputs))
        return self.after(self.runner.run(np.ascontiguousarray(self.before(inputs))))


@pytest.fixture
def runner(image_artifact: Path) -> Runner:
    return session(image_artifact / "model.onnx")


@pytest.fixture
def reference(net: Any, data: Data) -> Reference:
    return torch_reference(net, data.normalise)


def test_a_good_export_passes(reference: Reference, runner: Runner, data: Data) -> None:
    seen = Swapped(runner)
    result = parity(reference, seen, data.test, TASK)
    assert result.passed
    assert result.score_delta == 0
    assert 0 < result.max_scaled_diff < 1e-5
    assert set(result.as_dict()) == {"passed", "score_delta", "max_scaled_diff", "batches"}
    assert json.loads(json.dumps(result.as_dict()))["batches"] == [1, 3, 64]
    assert set(seen.sizes) == {90, 1, 3, 64}


def test_numbers_by_hand() -> None:
    """r = [[2, 0], [0, 4]], a = r + [[0, .3], [0, 0]]: diff .3 over mean norm 3; one label of two is right."""
    outputs = np.array([[2.0, 0.0], [0.0, 4.0]], np.float32)

    class Off:
        def run(self, inputs: np.ndarray) -> np.ndarray:
            return outputs[inputs[:, 0]] + np.array([[0, 0.3]], np.float32) * (inputs[:, :1] == 0)

    split = Split(torch.tensor([[0], [1]], dtype=torch.uint8), torch.tensor([0, 0]))
    result = parity(lambda x: outputs, Off(), split, TASK, tolerance=None)
    assert result.max_scaled_diff == pytest.approx(0.1)
    assert (result.score, result.reference_score, result.score_delta) == (0.5, 0.5, 0.0)
    assert result.passed  # without a tolerance only the score counts
    assert not parity(lambda x: outputs, Off(), split, TASK, tolerance=0.09).passed


def test_batch_norm_left_in_train_mode_is_found(fresh_net: Any, data: Data, reference: Reference) -> None:
    """The classic seeded fault: the exported network uses the batch's own statistics."""
    bad = nn.Sequential(data.normalise, fresh_net)
    fresh_net.bn.train()

    class Training:
        def run(self, inputs: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                fresh_net.drop.eval()
                return bad(torch.from_numpy(inputs)).numpy()

    result = parity(reference, Training(), data.test, TASK)
    assert not result.passed
    assert result.max_scaled_diff > 0.01


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda x: x[:, ::-1], lambda y: y),  # BGR for RGB
        (lambda x: x // 2, lambda y: y),  # another range
        (lambda x: x, lambda y: y[:, ::-1]),  # labels in another order
        (lambda x: x, lambda y: y + 0.01),
        (lambda x: x, lambda y: y * np.nan),
        (lambda x: x, lambda y: y[:, :2]),
        (lambda x: x, lambda y: y[::-1] if len(y) == 3 else y),  # wrong at one batch size only
    ],
    ids=["channels", "range", "labels", "offset", "nan", "shape", "batch"],
)
def test_seeded_faults_are_found(
    before: Change, after: Change, reference: Reference, runner: Runner, data: Data
) -> None:
    result = parity(reference, Swapped(runner, before, after), data.test, TASK)
    assert not result.passed
    assert result.max_scaled_diff > 1e-4


def test_score_counts_where_rounding_is_meant(reference: Reference, runner: Runner, net: Any, data: Data) -> None:
    """Without tolerance, wrong channel order is still found by the score; a scaled output is not a loss."""
    learnt = Split(data.test.inputs, torch.from_numpy(reference(data.test.inputs)).argmax(1))
    scaled = parity(reference, Swapped(runner, after=lambda y: y * 1.5), learnt, TASK, tolerance=None)
    assert scaled.passed
    assert scaled.max_scaled_diff > 0.1
    swapped = parity(reference, Swapped(runner, before=lambda x: x[:, ::-1]), learnt, TASK, tolerance=None)
    assert not swapped.passed
    assert swapped.score_delta < -0.005


def test_nan_from_a_regression_fails_and_does_not_crash() -> None:
    split = Split(torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [2.0]]))

    class Nan:
        def run(self, inputs: np.ndarray) -> np.ndarray:
            return np.full((len(inputs), 1), np.nan, np.float32)

    result = parity(lambda x: np.zeros((3, 1), np.float32), Nan(), split, get("regression"), tolerance=None)
    assert not result.passed


def test_the_gate_writes_the_verdict(
    image_artifact: Path,
    copy_of: Callable[[Path], Path],
    reference: Reference,
    runner: Runner,
    data: Data,
    tmp_path: Path,
) -> None:
    folder = copy_of(image_artifact)
    good = gate(read(folder), parity(reference, runner, data.test, TASK))
    assert good.manifest.status == "ok"
    written: Any = read(folder).manifest.parity
    assert (written["batches"], written["passed"], written["n_samples"]) == ([1, 3, 64], True, 90)
    bad = parity(reference, Swapped(runner, after=lambda y: y + 1), data.test, TASK)
    message = rf"artifact 'fp32' differs from its model: score {bad.score:.4f} .* on 90 samples, .*; expected a loss of"
    with pytest.raises(ParityError, match=message) as caught:
        gate(read(folder), bad)
    assert caught.value.exit_code == 1
    assert read(folder).manifest.status == "failed"
    with pytest.raises(ArtifactError, match=r"copy' failed its parity check: .*; expected an artifact of status ok"):
        predict(folder, [tmp_path / "x.png"])


def test_empty_split_is_refused(reference: Reference, runner: Runner, data: Data) -> None:
    with pytest.raises(DataError, match="the test split is empty"):
        parity(reference, runner, Split(data.test.inputs[:0], data.test.targets[:0]), TASK)


def test_config_defaults_are_those_of_the_function(reference: Reference, runner: Runner, data: Data) -> None:
    config = ShipConfig()
    result = parity(reference, runner, data.test, TASK)
    assert result.batches == config.batches
    assert (result.tolerance, result.max_score_drop) == (config.parity_tolerance, config.parity_max_score_drop)
