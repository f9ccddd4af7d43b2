"""What training borrows from the process is given back."""

from __future__ import annotations

import random
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from dimwise.errors import UserError
from dimwise.train import TrainConfig, fit, guards


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), guards.threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
    with guards.threads(0):
        assert torch.get_num_threads() == before


def test_generators_go_on_as_if_nothing_had_happened() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)

    seed()
    expected = [draw(), draw()]
    seed()
    found = [draw()]
    with guards.own_randomness(torch.device("cpu")):
        torch.manual_seed(9)
        draw()
    assert [*found, draw()] == expected


def test_the_first_ctrl_c_asks_and_the_second_stops() -> None:
    before = signal.getsignal(signal.SIGINT)
    with guards.ctrl_c() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_signals() -> None:
    found: list[bool] = []

    def work() -> None:
        with guards.ctrl_c() as interrupt:
            found.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_far_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"train\.threads is 9 but this machine has 2 cores; expected at most 8"):
        guards.require_threads(9)
    guards.require_threads(8)
    with pytest.raises(UserError, match=r"train\.threads is 5000"):
        fit(nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4).long()), config=TrainConfig(threads=5000))
