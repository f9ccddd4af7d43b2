"""docs/fold_peers.md and its pictures, from the records of ``fold.py``: compositions of folds beside single tools."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dimwise.view import canvas
from dimwise.view.labels import place_labels
from dimwise.view.palette import ACCENT, INK, MUTED, PAPER, house_style
from dimwise.view.story import Stage, pareto

KEPT = {"eager": "unchanged, eager PyTorch", "float": "unchanged, onnxruntime"}
"""What is the network itself."""

_HEAD = """\
<!-- Written by `python benchmarks/docs.py --write` from the records of benchmarks/fold.py; edit neither. -->

# Compositions of folds beside single tools

Each network was trained once a seed, then made smaller by our folds and by what a user would otherwise reach for, each
with its defaults: onnxruntime's `quantize_static`, NNCF's `quantize`, torch-pruning with as many epochs of fine-tuning,
and Hinton's distillation into a network of half the width. All files are served by onnxruntime on one thread, one input
at a time, and timed in turns. Scores are those of the test split, means over the seeds with the least and the greatest
beside; times faster and smaller are against the network as it was trained, in eager PyTorch.

**Read it with care.** What stands in one table was timed on one machine; two tables may come from two. Few test inputs,
as the sentences of SST-2, tell two networks apart less surely than many. Rows in bold are on the frontier: nothing in
the table is both faster and better. Where the README counts the peers at whose latency ours scores as high, ours may
take up to 2 % more milliseconds than the peer, and be up to 0.1 points below it.
"""


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's text.

    Args:
        records: network -> its record, in the order of the page.
    """
    lines = [_HEAD]
    for network, record in records.items():
        lines += [f"## {network}", "", *_told(network, record), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _told(network: str, record: Mapping[str, Any]) -> list[str]:
    figures = record["figures"]
    rows, summary = figures["seeds"], figures["summary"]
    parts: Mapping[str, Mapping[str, Any]] = summary["parts"]
    best, eager = frontier(parts), parts["eager"]
    lines = [
        f"![Score against latency on {network}](fold_peers/{network}.svg)",
        "",
        "| | whose | test score, % | ms | × faster | kB | × smaller |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(parts, key=lambda n: -parts[n]["latency_ms"]):
        told = parts[name]
        scores = [100 * row["parts"][name]["test"] for row in rows]
        cells = [
            KEPT.get(name, f"`{name}`" if name in rows[-1]["ours"] else name),
            whose(name, rows),
            _spread(scores),
            f"{told['latency_ms']:.3g}",
            f"{eager['latency_ms'] / told['latency_ms']:.1f}",
            f"{told['bytes'] / 1000:,.0f}",
            f"{eager['bytes'] / told['bytes']:.1f}",
        ]
        lines.append("| " + " | ".join(f"**{cell}**" if name in best else cell for cell in cells) + " |")
    failed = [(peer, found["failed"]) for peer, found in summary["against"].items() if "failed" in found]
    lines += ["", *(f"- {peer} failed: {why}" for peer, why in failed)] if failed else []
    return [*lines, "", f"{'; '.join(_when(rows))}. Again: `{record['command']}`."]


def _when(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Day and machine of the seeds, those that share them together."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(f"{row['date']}, {row['cpu']}", []).append(str(row["seed"]))
    return [f"Seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {where}" for where, seeds in found.items()]


def _spread(scores: Sequence[float]) -> str:
    mean = f"{sum(scores) / len(scores):.1f}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):.1f} to {max(scores):.1f})"


def whose(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """ours | a peer's | nobody's, for the network itself."""
    return "" if name in KEPT else "ours" if name in rows[-1]["ours"] else "peer"


def frontier(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of what is neither slower nor worse than anything else, fastest first."""
    return [stage.name for stage in pareto([Stage(n, p["test"], latency_ms=p["latency_ms"]) for n, p in parts.items()])]


def picture(record: Mapping[str, Any]) -> str:
    """The text of an SVG: test score against milliseconds of one input, ours and the peers'."""
    drawing, buffer = _drawn(record), io.StringIO()
    with house_style({"svg.hashsalt": record["name"]}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(buffer, format="svg", facecolor=PAPER, metadata=nothing)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


@canvas.drawn
def _drawn(record: Mapping[str, Any]) -> Any:
    rows, parts = record["figures"]["seeds"], record["figures"]["summary"]["parts"]
    least = 0.9 * parts["eager"]["test"]
    shown = {name: p for name, p in parts.items() if p["test"] > least}  # a collapse would leave no room for the rest
    drawing = canvas.blank(720, 360)
    axes = canvas.add_axes(drawing, 60, 20, 40, 46)
    best = frontier(shown)
    marks = {"ours": ("o", ACCENT, 46), "peer": ("s", INK, 40), "": ("o", PAPER, 46)}
    xs, ys = ([shown[n]["latency_ms"] for n in best], [100 * shown[n]["test"] for n in best])
    axes.step(xs, ys, where="post", color=ACCENT, linewidth=1.2, alpha=0.5)
    for name, told in shown.items():
        mark, face, area = marks[whose(name, rows)]
        edge = MUTED if face == PAPER else face
        axes.scatter([told["latency_ms"]], [100 * told["test"]], s=area, marker=mark, color=face, edgecolor=edge)
    axes.set_xscale("log")
    canvas.log_axis(axes, "x")
    axes.set_xlabel("milliseconds for one input", loc="right")
    low, high = (f(100 * p["test"] for p in shown.values()) for f in (min, max))
    axes.set_ylim(low - 0.12 * (high - low + 0.1), high + 0.15 * (high - low + 0.1))
    axes.set_xlim(
        0.8 * min(p["latency_ms"] for p in shown.values()), 1.3 * max(p["latency_ms"] for p in shown.values())
    )
    points = np.array([(told["latency_ms"], 100 * told["test"]) for told in shown.values()])
    texts = ["" if whose(name, rows) == "ours" else KEPT.get(name, name) for name in shown]
    place_labels(axes, texts, points, [46.0] * len(shown), [(xs, ys)], [False] * len(shown))
    below = [f"{name}, {100 * told['test']:.1f}" for name, told in parts.items() if name not in shown]
    title = "Test score in %: ours as circles, other tools as squares"
    canvas.write_title(axes, title + (f" (below: {'; '.join(below)})" if below else ""), 60)
    return drawing
