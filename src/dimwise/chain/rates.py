"""The learning-rate range test beside a training: short enough to cost little, told in the report and in remedies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dimwise.chain import checked
from dimwise.chain.recipe import Recipe
from dimwise.chain.start import build, read
from dimwise.data.sets import Data
from dimwise.progress import Progress
from dimwise.runs.atomic import write_json
from dimwise.tasks import Task
from dimwise.train import Fitted, LrRangeConfig, lr_range

FILE = "lr_range.json"
"""The curve, in the run folder."""
LEAST_S = 5.0
"""Seconds that the test may always take."""
SHARE = 0.05
"""Share of the training's time that it may take beyond that: nobody waits noticeably longer for a picture."""
FEWEST_STEPS = 60
"""Shorter curves are mostly noise: nine steps a decade."""
RULES = ("lr-too-high", "lr-too-low")
"""Findings whose remedy the test makes a measured one."""


def fits(step_s: float, train_s: float) -> LrRangeConfig | None:
    """The longest test of at most its usual length that the time allows; None: not even the shortest does.

    Args:
        step_s: seconds of one optimizer step.
        train_s: seconds of the training that it stands beside.

    Example:
        >>> fits(1e-3, 10.0).n_steps, fits(0.02, 100.0).n_steps, fits(0.1, 60.0)
        (150, 83, None)
    """
    test = LrRangeConfig()
    allowed_s = max(LEAST_S, SHARE * train_s)
    n_steps = int(allowed_s / max(step_s, 1e-9) / test.n_seeds)
    return replace(test, n_steps=min(test.n_steps, n_steps)) if n_steps >= FEWEST_STEPS else None


def tried(
    recipe: Recipe,
    data: Data,
    task: Task,
    fitted: Fitted,
    checks: dict[str, Any],
    *,
    model: str | None,
    run_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Try growing rates on a fresh network of the recipe and write the curve to the run folder.

    Nothing is tried when the recipe says ``doctor = false``, when the test would take too long (the file says so), or
    when the folder has one already. Whatever goes wrong in it costs the curve only.

    Returns:
        ``checks``, its remedies about the rate naming what was measured.
    """
    path = run_dir / FILE
    if recipe.doctor and not path.is_file():
        _try(path, recipe, data, task, fitted, model, progress)
    return _advised(checks, run_dir)


def _try(
    path: Path, recipe: Recipe, data: Data, task: Task, fitted: Fitted, model: str | None, progress: Progress
) -> None:
    wanted = fits(fitted.seconds / max(1, fitted.steps), fitted.seconds)
    if wanted is None:
        write_json(path, {"left_out": "time", "share": SHARE})
        return

    def measured() -> dict[str, Any]:
        network = build(recipe, data, model)
        return lr_range(
            network, data, task, recipe.train, test=wanted, augment=recipe.augment, progress=progress
        ).as_dict()

    told = checked.harmless(measured, progress, "try learning rates")
    if told is not None:
        write_json(path, told)


def _advised(checks: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    told = advice(run_dir)
    if not told or not checks.get("checks"):
        return checks
    findings = [f | {"remedy": f["remedy"] + told} if f["rule"] in RULES else f for f in checks["checks"]]
    return checks | {"checks": findings}


def advice(run_dir: Path) -> str:
    """What the range test of a run adds to a remedy about its rate; empty when it gave no clear answer."""
    told = read(run_dir / FILE)
    try:
        (low, high), first = told["interval"], told["suggested"]
        return (
            f"; a range test of this network on this data says {low:.2g} to {high:.2g}, and to begin with {first:.2g}"
        )
    except (KeyError, TypeError, ValueError):
        return ""
