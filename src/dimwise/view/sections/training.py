"""Curves: loss, score and learning rate over the epochs."""

from __future__ import annotations

from dimwise.view import figures, sentences
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, el
from dimwise.view.picture import svg
from dimwise.view.strings import Words
from dimwise.view.units import score_text


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing when no step was recorded."""
    history = run.history
    if not history.epochs and not history.steps:
        return el("p", say("no_metrics"), cls="note")
    drawn = []
    if _has(run, "train_loss", "valid_loss") or figures.step_curve(history, "loss")[0]:
        picture = figures.loss(history, language=say.language)
        drawn.append(svg(picture, "loss", say("alt_loss", {"n": len(history.epochs)})))
    if _has(run, "valid_score"):
        picture = figures.score(history, run.score_name, language=say.language)
        top = max(v for v in history.column("valid_score") if v is not None)
        values = {
            "name": sentences.score_name_text(run, say),
            "score": score_text(top, run.score_name),
            "epoch": history.best_epoch,
        }
        drawn.append(svg(picture, "score", say("alt_score", values)))
    if figures.rate_curve(history)[0]:
        drawn.append(svg(figures.learning_rate(history, language=say.language), "lr", say("alt_lr")))
    return el("div", *(el("figure", one) for one in drawn), cls="curves")


def _has(run: RunFiles, *keys: str) -> bool:
    return any(v is not None for key in keys for v in run.history.column(key))
