"""The pictures, one small function each; all return a matplotlib ``Figure`` and work in a notebook too.

Sizes are given in CSS pixels. Nothing here keeps state: no pyplot, no global figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.view import canvas, tiles
from dimwise.view.labels import place_labels
from dimwise.view.page import short
from dimwise.view.palette import ACCENT, BAD, INK, LINE, MUTED, PAPER
from dimwise.view.story import History, Stage, pareto
from dimwise.view.strings import Words, words
from dimwise.view.units import NBSP, PERCENT_SCORES, bytes_text, number, score_text, significant

MAX_ANNOTATED = 20
"""Up to so many classes the confusion matrix shows numbers and names; beyond, only colour."""


def _along(history: History, say: Words) -> str:
    return say("axis_epoch" if history.epochs else "axis_step")


def _xy(numbers: Sequence[float], values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    pairs = [(n, v) for n, v in zip(numbers, values, strict=True) if v is not None]
    return [n for n, _ in pairs], [v for _, v in pairs]


def _thinned(values: Sequence[Any], at_most: int = 300) -> Sequence[Any]:
    if len(values) <= at_most:
        return values
    return [values[i] for i in np.linspace(0, len(values) - 1, at_most).round().astype(int)]


def step_curve(history: History, key: str) -> tuple[list[float], list[float]]:
    """A value per step against the epoch as a fraction, thinned to 300 points by means over neighbours.

    Returns: two lists of one length, epochs and values; steps in place of epochs while no epoch has ended; empty
        when nothing was recorded.

    Example:
        >>> records = [{"kind": "step", "step": s, "loss": 1.0} for s in range(4)]
        >>> step_curve(History(({"epoch": 0, "step": 3},), tuple(records)), "loss")
        ([0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 1.0, 1.0])
    """
    rows = [(number(r.get("step")), number(r.get(key))) for r in history.steps]
    rows = [row for row in rows if None not in row]
    if not rows:
        return [], []
    steps, values = np.array(rows, dtype=float).T
    ends = [(number(r.get("step")), n) for r, n in zip(history.epochs, history.numbers, strict=True)]
    known = [(step, n) for step, n in ends if step is not None and n > 0]
    per_epoch = max((known[-1][0] + 1) / known[-1][1], 1.0) if known else 1.0
    bins = np.array_split(np.arange(len(steps)), min(len(steps), 300))
    return [float(steps[b].mean() + 1) / per_epoch for b in bins], [float(values[b].mean()) for b in bins]


def rate_curve(history: History) -> tuple[list[float], list[float]]:
    """The learning rate against the epoch: of the steps that were written down, and of the last step of each epoch.

    Steps are written down at intervals of the clock: a short run may have none.

    Example:
        >>> rate_curve(History(({"epoch": 0, "step": 3, "lr": 0.2}, {"epoch": 1, "step": 7, "lr": 0.1}), ()))
        ([1.0, 2.0], [0.2, 0.1])
    """
    ends = zip(*_xy(history.numbers, history.column("lr")), strict=True)
    points = {float(n): float(lr) for n, lr in ends}
    points |= dict(zip(*step_curve(history, "lr"), strict=True))
    return sorted(points), [points[at] for at in sorted(points)]


@canvas.drawn
def loss(history: History, *, language: str = "en") -> Any:
    """Training and validation loss per epoch, the loss of single steps behind them."""
    say = words(language)
    figure, axes = canvas.panel(say("figure_loss"), _along(history, say))
    ex, ey = step_curve(history, "loss")
    axes.plot(ex, ey, color=MUTED, alpha=0.35, linewidth=1)
    train = _xy(history.numbers, history.column("train_loss"))
    valid = _xy(history.numbers, history.column("valid_loss"))
    axes.plot(*train, color=MUTED, marker="o" if len(train[0]) < 2 else "", markersize=4)
    axes.plot(*valid, color=ACCENT, marker="o" if len(valid[0]) < 2 else "", markersize=4)
    canvas.epoch_axis(axes, max([*ex, *train[0], *valid[0], 1.0]))
    values = [v for v in (*ey, *train[1], *valid[1]) if v > 0]
    if values and max(values) / min(values) > 25 and len(values) > 2:
        axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
        canvas.log_axis(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    canvas.legend(axes, [(say("train"), MUTED), (say("validation"), ACCENT)])
    return figure


@canvas.drawn
def score(history: History, score_name: str = "accuracy", *, language: str = "en") -> Any:
    """Validation score per epoch, the best one marked."""
    say = words(language)
    figure, axes = canvas.panel(say("figure_score"), _along(history, say))
    numbers, values = _xy(history.numbers, history.column("valid_score"))
    axes.plot(numbers, values, color=ACCENT)
    canvas.epoch_axis(axes, max([*history.numbers, 1]))
    best = history.best_epoch
    if best is not None and values:
        top = max(values)
        axes.plot([best], [top], "o", color=ACCENT, markersize=7, markeredgecolor=PAPER, clip_on=False)
        text = say("best_at", {"score": score_text(top, score_name), "epoch": best})
        canvas.legend(axes, [(text, ACCENT)])
        # The first epochs are often far below: show where it is decided, cut what is lower.
        low = min(values[len(values) // 4 :] or values)
        span = max(top - low, 1e-3 if score_name in PERCENT_SCORES else 1e-6)
        axes.set_ylim(low - 0.25 * span if low > min(values) else low - 0.1 * span, top + 0.12 * span)
    if score_name in PERCENT_SCORES:
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 1.002) if low < 1 else high)
        canvas.percent_axis(axes)
    else:
        canvas.number_axis(axes)
    return figure


@canvas.drawn
def learning_rate(history: History, *, language: str = "en") -> Any:
    """Learning rate over the run."""
    say = words(language)
    figure, axes = canvas.panel(say("figure_lr"), _along(history, say))
    ex, ey = rate_curve(history)
    axes.plot(ex, ey, color=ACCENT, marker="o" if len(ex) < 2 else "", markersize=4)
    canvas.epoch_axis(axes, max([*ex, *map(float, history.numbers), 1.0]))
    axes.set_ylim(0, 1.1 * max([*ey, 1e-12]))
    canvas.number_axis(axes)
    return figure


@canvas.drawn
def tradeoff(
    stages: Sequence[Stage],
    score_name: str = "accuracy",
    *,
    latency_limit_ms: float | None = None,
    width_px: float = 720,
    language: str = "en",
) -> Any:
    """Score against latency: a bubble a stage, its area the size on disk; a line through those nobody beats.

    Args:
        stages: those without score or latency are left out.
        score_name: decides between percent and plain numbers.
        latency_limit_ms: of the budget, drawn as a dashed line.
        width_px: below 500 the labels are names alone.
        language: of the axis titles.
    """

    say = words(language)
    placed = [s for s in stages if s.score is not None and s.latency_ms is not None and s.latency_ms > 0]
    figure = canvas.blank(width_px, 380 if width_px > 500 else 340)
    axes = canvas.add_axes(figure, 56, 8, 12, 46)
    x = np.array([s.latency_ms for s in placed], dtype=float)
    y = np.array([s.score for s in placed], dtype=float)
    _tradeoff_range(axes, x, y, latency_limit_ms)
    lines = []
    front = pareto(placed)
    lines.append(([s.latency_ms for s in front], [s.score for s in front]))
    axes.plot(*lines[0], color=ACCENT, alpha=0.45, linewidth=1.4)
    if latency_limit_ms:
        lines.append(([latency_limit_ms] * 2, list(axes.get_ylim())))
        axes.plot(*lines[1], color=BAD, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            say("budget_limit"), (latency_limit_ms, lines[1][1][0]), (6, 8), textcoords="offset points", color=BAD
        )
    areas = _areas([s.size_bytes for s in placed], 1100.0 if width_px > 500 else 600.0)
    for stage, px, py, area in zip(placed, x, y, areas, strict=True):
        opacity = 0.85 if stage.chosen else 0.38
        axes.scatter(px, py, s=area, color=ACCENT if stage.chosen else MUTED, alpha=opacity, linewidths=0, zorder=3)
    texts = [
        canvas.plain(s.name)
        + (f" {NBSP}{bytes_text(s.size_bytes)}" if s.size_bytes is not None and width_px > 500 else "")
        for s in placed
    ]
    place_labels(axes, texts, np.column_stack([x, y]), areas, lines, [s.chosen for s in placed])
    if score_name in PERCENT_SCORES:
        canvas.percent_axis(axes)
    else:
        canvas.number_axis(axes)
    axes.set_xlabel(say("axis_latency"), loc="right", labelpad=8)
    return figure


def _tradeoff_range(axes: Any, x: NDArray[np.floating], y: NDArray[np.floating], limit: float | None) -> None:
    """Room around the bubbles; a logarithmic axis once latencies differ by more than four."""
    every = [*x, limit] if limit else [*x]
    low, high = min(every), max(every)
    if high / low > 4:
        pad = (high / low) ** 0.12
        axes.set_xlim(low / pad, high * pad)
        canvas.log_axis(axes, "x")
    else:
        pad = 0.18 * ((high - low) or low)
        axes.set_xlim(max(0.0, low - pad), high + pad)
    span = max(float(np.ptp(y)), 0.01)
    axes.set_ylim(y.min() - 0.25 * span, y.max() + 0.22 * span)


def _areas(sizes: Sequence[float | None], largest: float) -> list[float]:
    """Bubble areas in square points, proportional to size, between a dot and a thumb."""
    known = [s for s in sizes if s is not None and s > 0]
    if not known:
        return [120.0] * len(sizes)
    return [max(45.0, largest * (s or 0.0) / max(known)) for s in sizes]


@canvas.drawn
def confusion(matrix: NDArray[np.integer], labels: Sequence[str], *, language: str = "en") -> Any:
    """Truth in rows, guess in columns; what is wrong stands out, deeper the larger its share of the row.

    Args:
        matrix: (K, K) counts.
        labels: K names; shown, with the counts, up to :data:`MAX_ANNOTATED` classes.
        language: of the axis titles.
    """
    n = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = n <= MAX_ANNOTATED
    names = [canvas.plain(labels[i] if i < len(labels) else i, 12) for i in range(n)]
    longest = max(map(len, names)) if named else 0
    cell = max(30.0, min(44.0, 400.0 / n)) if named else 420.0 / n
    left = 30 + (7.0 * longest if named else 0)
    slanted = named and longest > 3
    top = 26 + (0 if not named else 5.6 * longest if slanted else 24)
    figure = canvas.blank(left + n * cell + (14 if not slanted else 34), top + n * cell + 8)
    axes = canvas.add_axes(figure, left, 14 if not slanted else 34, top, 8)
    axes.set(xlim=(0, n), ylim=(n, 0))
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    if named:
        _counts(axes, matrix, shares)
        middle = np.arange(n) + 0.5
        axes.set_yticks(middle, names)
        turn = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(middle, names, **turn)
        axes.xaxis.tick_top()
    else:
        off = shares * (1 - np.eye(n))
        picture = tiles.signed(np.diag(np.diag(shares)) - np.where(off > 0, 0.15 + 1.2 * np.sqrt(off), 0), 1.0)
        axes.imshow(picture, extent=(0, n, n, 0), interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.add_patch(_frame(n))
    say = words(language)
    axes.set_ylabel(say("axis_truth"), labelpad=8)
    axes.set_xlabel(say("axis_guess"), labelpad=8)
    axes.xaxis.set_label_position("top")
    return figure


def _frame(n: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), n, n, fill=False, edgecolor=LINE)


def _counts(axes: Any, matrix: NDArray[np.integer], shares: NDArray[np.floating]) -> None:
    from matplotlib.patches import Rectangle

    n = len(matrix)
    size = 12.5 if n <= 12 else 10.5
    for truth in range(n):
        for guess in range(n):
            right = truth == guess
            opacity = (
                0.08 + 0.22 * shares[truth, guess] if right else min(1.0, 0.12 + 1.1 * shares[truth, guess] ** 0.5)
            )
            count = int(matrix[truth, guess])
            if count or right:
                axes.add_patch(
                    Rectangle((guess + 0.04, truth + 0.04), 0.92, 0.92, linewidth=0,
                              facecolor=ACCENT if right else BAD, alpha=opacity)
                )  # fmt: skip
                axes.text(guess + 0.5, truth + 0.52, f"{count}", ha="center", va="center", color=INK, size=size)


@canvas.drawn
def layer_heat(
    epochs: Sequence[int],
    rows: Mapping[str, Sequence[float | None]],
    title: str,
    *,
    width_px: float = 400,
    along: str = "axis_epoch",
    shares: bool = False,
    language: str = "en",
) -> Any:
    """One row a layer, one column an epoch, deeper colour for larger numbers (logarithmic), last number at the right.

    Args:
        epochs: numbers of the columns.
        rows: layer -> one positive number a column, such as the norm of its gradient.
        title: what the numbers are.
        width_px: width of the picture.
        along: what the columns are; a name of ``strings.py``.
        shares: the numbers are shares from 0 to 1, whose colour grows with them and not with their logarithm.
        language: of the axis title.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(_thinned(list(rows), 40))
    known_above = -1.0 if shares else 0.0
    cells = [[v if v is not None and v > known_above else np.nan for v in rows[name]] for name in names]
    values = np.array(cells, dtype=float)
    logs = np.log10(np.where(values > 0, values, np.nan))
    low, high = (np.nanmin(logs), np.nanmax(logs)) if np.isfinite(logs).any() else (0.0, 1.0)
    depth = np.nan_to_num(0.08 + 0.92 * (values if shares else (logs - low) / max(high - low, 1e-9)))
    row_px, size = (22.0, 11.5) if len(names) <= 20 else (14.0, 9.5)
    left = 12 + 0.58 * size * max(len(short(name, 22)) for name in names)
    figure = canvas.blank(width_px, 36 + row_px * len(names) + 42)
    axes = canvas.add_axes(figure, left, 58, 36, 42)
    x0, x1 = epochs[0] - 0.5, epochs[-1] + 0.5
    extent = (x0, x1, len(names), 0)
    axes.imshow(tiles.signed(depth, 1.0), extent=extent, interpolation="none", aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(np.arange(len(names)) + 0.5, [canvas.plain(name, 22) for name in names], size=size)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlim(x0, x1)
    axes.set_xlabel(words(language)(along), loc="right", labelpad=5)
    canvas.write_title(axes, title, left)
    for i, row in enumerate(values):
        known = row[np.isfinite(row)]
        if len(known) or shares:
            last = float(known[-1]) if len(known) else 0.0
            text = f"{100 * last:.0f}{NBSP}%" if shares else significant(last, 2)
            axes.annotate(text, (x1, i + 0.5), (8, 0), textcoords="offset points", va="center", color=MUTED, size=size)
    return figure


@canvas.drawn
def tile_sheet(pictures: Sequence[tiles.Tile], captions: Sequence[str] = (), *, n_columns: int = 8) -> Any:
    """Filters, feature maps or mistakes as a contact sheet, for notebooks: ``tile_sheet(tiles.filters(weights))``.

    Args:
        pictures: tiles as :mod:`dimwise.view.tiles` makes them.
        captions: a line under each, if any.
        n_columns: tiles in a row.
    """
    n_columns = min(n_columns, len(pictures)) or 1
    n_rows = max(1, -(-len(pictures) // n_columns))
    figure = canvas.blank(72 * n_columns, (88 if captions else 72) * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw={"hspace": 0.35 if captions else 0.1})
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(pictures):
            axes.imshow(pictures[i], cmap="gray", vmin=0, vmax=255, interpolation="none")
            if i < len(captions):
                axes.set_title(canvas.plain(captions[i], 16), size=9, loc="center", weight="normal", pad=3)
    return figure
