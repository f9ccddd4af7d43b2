"""The picture of a range test says what was found, in both languages; the line of text has its shape."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from dimwise.view.lr_range import lr_range, sparkline
from dimwise.view.picture import svg

RATES = [10.0 ** (i / 4 - 5) for i in range(24)]
LOSSES = [2.0] * 10 + [1.5, 1.0, 0.6, 0.4, 0.3, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 9.0, 50.0, 1e9]


def texts(figure: Any) -> list[str]:
    root = ElementTree.fromstring(svg(figure, "f", "label"))
    return ["".join(part.itertext()).strip() for part in root.iter("text")]


@pytest.mark.parametrize(("language", "said"), [("en", "rates to try: 0.0020 to 0.020"), ("zh", "可试的学习率")])
def test_the_interval_is_drawn_and_named(language: str, said: str) -> None:
    figure = lr_range(RATES, LOSSES, LOSSES, interval=(0.002, 0.02), suggested=0.005, n_seeds=3, language=language)
    assert isinstance(figure, Figure)
    assert any(said in text for text in texts(figure))
    assert len(figure.axes[0].patches) == 1
    assert figure.axes[0].get_ylim()[1] < 10  # the billion at the end does not flatten the rest


def test_no_answer_is_said_and_nothing_is_shaded() -> None:
    figure = lr_range(RATES, LOSSES, LOSSES)
    assert "no clear answer" in texts(figure)
    assert len(figure.axes[0].patches) == 0


@pytest.mark.parametrize("rates", [[], [0.1]])
def test_a_curve_that_hardly_began_is_drawn_too(rates: list[float]) -> None:
    assert isinstance(lr_range(rates, rates, rates), Figure)


def test_bars_follow_the_values() -> None:
    line = sparkline(LOSSES[:20], width=10)
    assert len(line) == 10
    assert line[0] == "█"
    assert line[6] == line[7] == "▁"
    assert sparkline([]) == ""
    assert sparkline([3.0] * 5) == "▁▁▁▁▁"
