"""Training under the doctor's eye: the first steps are watched, what was seen and found goes into the run folder.

The weights are the same with and without, bit for bit; a doctor that fails takes nothing with it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from dimwise import train
from dimwise.chain.recipe import Recipe
from dimwise.data.sets import Data
from dimwise.doctor.inside import SPOOL, describe
from dimwise.progress import Progress
from dimwise.tasks import Task
from dimwise.train import Fitted

if TYPE_CHECKING:
    from dimwise.doctor.seen import Seen
    from dimwise.doctor.watch import Watch

T = TypeVar("T")

STEPS = 200
"""Steps that are watched: the mistakes of a loop show within twenty, and the rest of the training costs nothing."""
FILE = "seen.json"
"""What was seen, in the run folder; ``dimwise doctor RUN`` judges it again."""


def fit(
    network: nn.Module,
    data: Data,
    task: Task,
    recipe: Recipe,
    *,
    run_dir: Path,
    progress: Progress,
    resume: bool = False,
) -> tuple[Fitted, dict[str, Any]]:
    """:func:`dimwise.train.fit` of a recipe, watched unless the recipe says ``doctor = false``.

    Returns:
        what was fitted; and for ``result.json`` ``{"checks": [finding, ...], "checked": {"steps": n, "rules": [slug,
        ...], "not_checked": [{"rule", "why"}, ...]}}``, or nothing when nobody looked.
    """
    checks: dict[str, Any] = {}
    plain: dict[str, Any] = {"augment": recipe.augment, "run_dir": run_dir, "progress": progress, "resume": resume}
    if recipe.doctor and not os.environ.get(SPOOL):  # else `dimwise doctor` watches this very process
        plain["watched"] = functools.partial(_watched, run_dir, progress, checks)
    fitted = train.fit(network, data, task, recipe.train, **plain)
    return fitted, checks


@contextmanager
def _watched(run_dir: Path, progress: Progress, checks: dict[str, Any]) -> Iterator[None]:
    watching = harmless(_begin, progress, "look at this training")
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if watching is not None:
            checks |= harmless(lambda: _conclude(watching, error, run_dir), progress, "look at this training") or {}


def _begin() -> Watch:
    from dimwise.doctor import watch

    watching = watch.begin(max_steps=STEPS)
    watching.live.seen.seeded = True  # from the recipe's seed, step by step
    return watching


def _conclude(watching: Watch, error: BaseException | None, run_dir: Path) -> dict[str, Any]:
    """Stop watching, write down what was seen, ask the rules."""
    from dimwise.doctor import watch, wire

    seen = watch.end(watching)
    seen.finished = error is None
    if error is not None:
        seen.error = describe(type(error), error, error.__traceback__)
    path = run_dir / FILE
    if path.is_file():  # of a resumed run, the stretch that shows more stays
        before = wire.read(path)
        seen = before if before.n_steps >= seen.n_steps else seen
    wire.write(path, seen)
    return told(seen)


def told(seen: Seen) -> dict[str, Any]:
    """What the rules say about a training, as ``result.json`` holds it."""
    from dimwise.doctor.examine import examine

    report = examine([seen]).as_dict()
    about = {"steps": seen.n_steps, "rules": report["checked"], "not_checked": report["not_checked"]}
    return {"checks": report["findings"], "checked": about}


def harmless(action: Callable[[], T], progress: Progress, what: str) -> T | None:
    """What ``action`` gives, or None and one line when it fails: nothing that only looks may harm a training."""
    try:
        return action()
    except Exception as failed:  # noqa: BLE001 - whatever it is, the training is worth more
        progress.say(f"doctor: could not {what} ({type(failed).__name__}: {failed})")
        return None
