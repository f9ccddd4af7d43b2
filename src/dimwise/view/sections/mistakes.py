"""Where the model is wrong: confusion matrix, commonest mistakes, the worst ones as pictures or texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dimwise.view import figures, tiles
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, el, join, short, table
from dimwise.view.picture import figure, svg
from dimwise.view.strings import Words
from dimwise.view.units import number, share_text

MAX_IMAGES = 24
MAX_TEXTS = 12


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing for tasks without classes and runs without pictures."""
    return join((_confusion(run, say), _images(run, say), _texts(run, say)))


def _confusion(run: RunFiles, say: Words) -> Safe:
    matrix = run.array("confusion", 2)
    if matrix is None or matrix.shape[0] != matrix.shape[1] or matrix.min() < 0 or len(matrix) > 2000:
        return Safe("")
    matrix = matrix.astype(np.int64)
    n = len(matrix)
    labels = [run.label(i) for i in range(n)]
    right = share_text(float(np.trace(matrix) / max(matrix.sum(), 1)))
    label = say("alt_confusion", {"n": n, "right": right})
    drawn = svg(figures.confusion(matrix, labels, language=say.language), "confusion", label)
    box = el("div", drawn, cls="scroll" + (" roomy" if 12 < n <= figures.MAX_ANNOTATED else ""))
    return el("div", figure(box, say("confusion_caption")), el("div", _pairs(matrix, run, say)), cls="beside")


def _pairs(matrix: NDArray[np.int64], run: RunFiles, say: Words) -> Safe:
    """The commonest mistakes and the hardest classes as tables."""
    pairs = tiles.worst_pairs(matrix)
    if not pairs:
        return el("p", say("no_mistakes"))
    rows = [
        (short(run.label(t)), short(run.label(g)), el("td", str(count), cls="n"), el("td", share_text(share), cls="n"))
        for t, g, count, share in pairs
    ]
    head = [
        say("col_truth"),
        say("col_guess"),
        el("th", say("col_times"), cls="n", attrs={"scope": "col"}),
        el("th", say("col_share"), cls="n", attrs={"scope": "col"}),
    ]
    parts = [el("h3", say("pairs_title")), table(head, rows, label=say("pairs_title"), cls="small")]
    if len(matrix) > 2:
        totals = matrix.sum(axis=1)
        recall = np.diag(matrix) / np.maximum(totals, 1)
        order = [i for i in np.argsort(recall, kind="stable") if totals[i] > 0 and recall[i] < 1][:5]
        names = ", ".join(f"{short(run.label(int(i)))} ({share_text(float(recall[i]))})" for i in order)
        parts.append(el("p", say("hardest", {"classes": names}), cls="note"))
    return join(parts)


def _images(run: RunFiles, say: Words) -> Safe:
    inputs = run.array("mistakes_inputs", 4)
    truth, guess = run.array("mistakes_truth", 1), run.array("mistakes_guess", 1)
    if inputs is None or truth is None or guess is None:
        return Safe("")
    probabilities = run.array("mistakes_prob", 1)
    shown = min(len(inputs), len(truth), len(guess), MAX_IMAGES)
    items = []
    for i in range(shown):
        share = number(float(probabilities[i])) if probabilities is not None and i < len(probabilities) else None
        items.append(_image(inputs[i], run.label(int(truth[i])), run.label(int(guess[i])), share, say))
    return join((el("h3", say("worst_title")), el("p", say("worst_intro"), cls="note"), el("ul", *items, cls="tiles")))


def _texts(run: RunFiles, say: Words) -> Safe:
    texts = run.texts("mistakes_texts")
    truth, guess, sure = (run.array(f"mistakes_{name}", 1) for name in ("truth", "guess", "prob"))
    if not texts or truth is None or guess is None or sure is None:
        return Safe("")
    rows = [
        (
            el("td", short(text, 400)),
            short(run.label(int(t)), 18),
            el("td", el("b", short(run.label(int(g)), 18))),
            el("td", share_text(number(float(p))), cls="n"),
        )
        for text, t, g, p in list(zip(texts, truth, guess, sure, strict=False))[:MAX_TEXTS]
    ]
    head = [say("col_text"), say("col_truth"), say("col_guess"), el("th", say("col_sure"), cls="n")]
    title, intro = el("h3", say("worst_title")), el("p", say("worst_texts_intro"), cls="note")
    return join((title, intro, table(head, rows, label=say("worst_title"))))


def _image(image: NDArray[np.generic], truth: str, guess: str, share: float | None, say: Words) -> Safe:
    truth, guess = short(truth, 18), short(guess, 18)
    alt = say("alt_mistake", {"truth": truth, "guess": guess, "share": share_text(share)})
    side = {"src": tiles.data_uri(tiles.photo(image), side_px=72), "alt": alt, "width": 72, "height": 72}
    bar = el("i", attrs={"style": f"width:{100 * min(max(share, 0.0), 1.0):.0f}%"}) if share is not None else ""
    words = el("span", truth, " ", el("b", f"→ {guess}", cls="long" if len(truth + guess) > 8 else ""))
    return el("li", el("img", attrs=side), el("span", bar, cls="bar"), words, el("small", share_text(share)))
