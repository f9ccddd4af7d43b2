"""Bars and page of two models side by side."""

from __future__ import annotations

from typing import Any

import pytest

from dimwise.view import compare


def layer(ms: float) -> dict[str, Any]:
    return {"kind": "Conv", "output_shape": [8, 4, 4], "params": 1200, "macs": 30, "ms": ms}


def told(n: int = 3) -> dict[str, Any]:
    side = {"latency_ms": 1.0, "params": 1200 * n, "macs": 30 * n}
    rows = [{"name": f"<{i}>", "a": layer(i), "b": None if i % 2 else layer(i / 2)} for i in range(n)]
    return {
        "a": {"name": "before", **side},
        "b": {"name": "after", **side},
        "layers": rows,
        "runtime": "onnxruntime",
        "threads": 1,
        "batch": 2,
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_layer_has_its_bars(language: str) -> None:
    figure = compare.bars(told(), language=language)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0, 1, 2, 0, 1]  # three of A, two of B
    assert [text.get_text() for text in axes.get_yticklabels()] == ["<0>", "<1>", "<2>"]
    assert "onnxruntime" in axes.get_xlabel()


def test_many_layers_leave_the_shortest_out() -> None:
    figure = compare.bars(told(50))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [f"<{i}>" for i in range(10, 50)]
    assert "10 shorter layers left out" in axes.get_xlabel()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_every_number_and_no_markup_of_names(language: str) -> None:
    page = compare.page(told(50), language=language)
    assert page.count("&lt;0&gt;") >= 1
    assert "<0>" not in page
    assert page.count("<tr") == 1 + 50 + 1
    assert "49.000" in page
    assert "<script" not in page
    assert f'lang="{"zh" if language == "zh" else "en"}' in page
