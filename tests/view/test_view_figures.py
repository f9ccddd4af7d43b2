"""Each picture is a Figure, says what it should, and becomes SVG that follows the page."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from dimwise.view import canvas, figures, labels, tiles
from dimwise.view.palette import DARK, VARIABLES
from dimwise.view.picture import svg
from dimwise.view.story import History, Stage, history

STAGES = [
    Stage("trained", 0.99, latency_ms=0.2, size_bytes=1e5),
    Stage("small", 0.98, latency_ms=0.02, size_bytes=1e4, chosen=True),
    Stage("worse", 0.90, latency_ms=0.1, size_bytes=2e4),
]


@pytest.fixture
def seen(records: list[dict[str, Any]]) -> History:
    return history(records)


def texts(figure: Any) -> list[str]:
    root = ElementTree.fromstring(svg(figure, "f", "label"))
    return ["".join(part.itertext()).strip() for part in root.iter("text")]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_return_figures(seen: History, language: str) -> None:
    drawn = [
        figures.loss(seen, language=language),
        figures.score(seen, language=language),
        figures.learning_rate(seen, language=language),
        figures.tradeoff(STAGES, language=language),
        figures.confusion(np.eye(3, dtype=int), ["a", "b", "c"], language=language),
        figures.layer_heat([1, 2], {"conv": [1.0, 0.1]}, "norm", language=language),
        figures.tile_sheet(tiles.filters(np.ones((4, 1, 3, 3))), ["a"]),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)


def test_notebooks_get_a_picture(seen: History) -> None:
    assert figures.loss(seen)._repr_png_().startswith(b"\x89PNG")


def test_empty_history_is_drawn_too() -> None:
    for draw in (figures.loss, figures.score, figures.learning_rate):
        assert isinstance(draw(History()), Figure)


def test_best_epoch_is_marked_and_named(seen: History) -> None:
    assert seen.best_epoch == 18
    figure = figures.score(seen)
    assert "best 99.0\u00a0%, epoch 18" in texts(figure)
    marked = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert list(marked[0].get_xdata()) == [18]


def test_step_curve_keeps_the_mean_and_is_thinned() -> None:
    steps = tuple({"kind": "step", "step": s, "loss": float(s % 7)} for s in range(3000))
    epochs, values = figures.step_curve(
        History(({"epoch": 0, "step": 1499}, {"epoch": 1, "step": 2999}), steps), "loss"
    )
    assert len(epochs) == len(values) == 300
    assert np.mean(values) == pytest.approx(np.mean([s % 7 for s in range(3000)]))
    assert 0 < epochs[0] < epochs[-1] <= 2


def test_the_learning_rate_of_a_run_too_short_for_step_records_is_drawn() -> None:
    epochs = tuple({"epoch": e, "step": 10 * e + 9, "lr": 0.1 / (e + 1)} for e in range(3))
    figure = figures.learning_rate(History(epochs))
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata()) == [0.1, 0.05, 0.1 / 3]
    (one,) = figures.learning_rate(History(epochs[:1])).axes[0].lines
    assert one.get_marker() == "o"  # a line of one point is none


def test_tradeoff_names_every_stage_and_draws_the_front() -> None:
    figure = figures.tradeoff(STAGES, latency_limit_ms=0.05)
    found = texts(figure)
    assert {"trained \u00a0100\u00a0kB", "small \u00a010.0\u00a0kB", "worse \u00a020.0\u00a0kB", "budget"} <= set(found)
    front = figure.axes[0].lines[0]
    assert list(front.get_xdata()) == [0.02, 0.2]
    narrow = texts(figures.tradeoff(STAGES, width_px=340))
    assert {"trained", "small", "worse"} <= set(narrow)


def test_tradeoff_of_one_place() -> None:
    twice = [Stage("a", 0.5, latency_ms=1.0), Stage("b", 0.5, latency_ms=1.0), Stage("c", 0.5)]
    assert len(texts(figures.tradeoff(twice))) > 2


def test_confusion_shows_counts_up_to_twenty_classes() -> None:
    matrix = np.array([[5, 2], [0, 7]])
    assert {"5", "2", "7", "cat", "dog"} <= set(texts(figures.confusion(matrix, ["cat", "dog"])))
    assert "0" not in texts(figures.confusion(matrix, ["cat", "dog"])), "no number where nothing happened"
    many = figures.confusion(np.eye(figures.MAX_ANNOTATED + 1, dtype=int), [])
    assert texts(many) == ["guess", "truth"]


def test_dollar_signs_are_not_formulas() -> None:
    found = texts(figures.confusion(np.eye(2, dtype=int), ["$\\frac{", "$5 or $6"]))
    assert "$\\frac{" in found
    assert "$5 or $6" in found


def test_heat_writes_the_last_number_of_each_layer() -> None:
    found = texts(figures.layer_heat([1, 2, 3], {"conv1": [1.0, 0.5, 0.25], "fc": [2.0, None, 0.0]}, "norm"))
    assert {"conv1", "fc", "0.25", "2.0"} <= set(found)


def test_heat_of_one_value_and_of_many_layers() -> None:
    assert "1.0" in texts(figures.layer_heat([1], {"conv": [1.0]}, "norm"))
    rows = {f"layer{i}": [float(i + 1)] for i in range(200)}
    assert len([t for t in texts(figures.layer_heat([1], rows, "norm")) if t.startswith("layer")]) == 40


def test_svg_takes_colours_and_font_from_the_page() -> None:
    text = svg(figures.tradeoff(STAGES, latency_limit_ms=0.05), "abc", 'a "label" <b>')
    assert not [colour for colour in VARIABLES if colour in text.lower()]
    assert {"var(--accent)", "var(--muted)", "var(--line)", "var(--bad)", "var(--ink)"} <= set(
        re.findall(r"var\(--\w+\)", text)
    )
    assert "DejaVu" not in text
    assert "xmlns" not in text
    assert "metadata" not in text
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("abc-") for name in ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)


def test_two_pictures_share_no_identifier(seen: History) -> None:
    one, two = (re.findall(r' id="([^"]*)"', svg(figures.loss(seen), name, "")) for name in ("one", "two"))
    assert one
    assert not set(one) & set(two)


def test_users_own_settings_do_not_show(seen: History) -> None:
    import matplotlib

    expected = svg(figures.loss(seen), "f", "")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert svg(figures.loss(seen), "f", "") == expected
        assert matplotlib.rcParams["font.size"] == 30


def test_labels_with_room_touch_nothing() -> None:
    rng = np.random.default_rng(0)
    centres = np.stack([np.linspace(50, 950, 8), rng.uniform(40, 260, 8)], axis=1)
    boxes, _ = labels.arrange(centres, np.full(8, 6.0), [70.0] * 8, np.zeros((0, 4)), (1000.0, 300.0))
    common = labels._overlaps(boxes, boxes)
    np.fill_diagonal(common, 0)
    assert common.max() == 0
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2].max() <= 1000


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("front", "back"),
    [
        ("--ink", "--paper"),
        ("--muted", "--paper"),
        ("--accent", "--paper"),
        ("--bad", "--paper"),
        ("--paper", "--accent"),
    ],
)
def test_contrast(front: str, back: str, dark: bool) -> None:
    colours = {variable: DARK[colour] if dark else colour for colour, variable in VARIABLES.items()}
    high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_luminance_of_the_test_is_right() -> None:
    assert luminance("#ffffff") == pytest.approx(1)
    assert luminance("#808080") == pytest.approx(0.2159, abs=1e-3)


def test_a_point_without_a_label_has_neither_text_nor_line() -> None:
    def annotations(names: list[str]) -> int:
        made = canvas.blank(300, 200)
        axes = canvas.add_axes(made, 40, 10, 10, 30)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        points = np.full((len(names), 2), 0.5)  # so close that some stand away, with a line
        labels.place_labels(axes, names, points, [40.0] * len(names), [], [False] * len(names))
        return len(axes.texts)

    assert annotations([""] * 6) == 0
    assert annotations(["a label"] * 6) >= 6
