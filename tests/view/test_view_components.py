"""The scree says how much is kept; the projection names each class where it lies."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from dimwise.view.components import MOST_BARS, projection, scree
from dimwise.view.picture import svg


def texts(figure: Any) -> list[str]:
    root = ElementTree.fromstring(svg(figure, "f", "label"))
    return ["".join(part.itertext()).strip() for part in root.iter("text")]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_are_drawn_in_each_language(language):
    assert isinstance(scree([0.7, 0.2, 0.1], n_kept=2, language=language), Figure)
    assert isinstance(projection(np.zeros((3, 2)), [0, 1, 1], ["a", "b"], language=language), Figure)


def test_the_scree_tells_what_is_kept_together():
    figure = scree([0.7, 0.2, 0.1], n_kept=2)
    assert "2 kept: 90.0 % of the variance" in texts(figure)
    bars, line = figure.axes[0].patches, figure.axes[0].lines[0]
    assert [bar.get_height() for bar in bars] == [0.7, 0.2, 0.1]
    assert list(line.get_ydata()) == pytest.approx([0.7, 0.9, 1.0])
    assert not [text for text in texts(scree([0.7, 0.3])) if "kept" in text]


def test_many_components_are_cut_but_counted():
    many = np.full(200, 1 / 200)
    figure = scree(many, n_kept=100)
    assert len(figure.axes[0].patches) == MOST_BARS
    assert "100 kept: 50.0 % of the variance" in texts(figure)


def test_each_class_is_named_at_its_middle():
    points = np.array([[0.0, 0.0], [2.0, 2.0], [9.0, 1.0]])
    axes = projection(points, [0, 0, 2], ["cat $", "dog", "cow"], highlight="cow").axes[0]
    placed = {note.get_text(): note.xy for note in axes.texts}
    assert placed["cow"] == (9.0, 1.0)
    assert placed[r"cat \$"] == (1.0, 1.0)
    assert "dog" not in placed
    first, second = (tuple(c.get_facecolor()[0][:3]) for c in axes.collections)
    assert first != second
