"""Proposals by Optuna: several objectives at once, asked for and told, kept where several processes can share them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dimwise.errors import MissingExtra, UserError, first_line
from dimwise.plan.record import Line, parse
from dimwise.plan.space import Point, Space
from dimwise.seeds import derive

JOURNAL = "search.journal"
OBJECTIVES = ("score lost", "latency_ms", "size_bytes")
_LINE = "line"
_WAITS_S = (0.2, 0.5, 1.0)
"""Between attempts to open a database."""


def open_study(folder: Path, name: str, *, seed: int, storage: str | None = None) -> Any:
    """The study of a search, new or as it was left.

    Args:
        folder: of the search; its journal is there unless a storage is named.
        name: what all processes that search together call it.
        seed: rules this process's proposals.
        storage: URL of a database, such as ``sqlite:///shared.db`` or ``postgresql://…``.

    Raises:
        MissingExtra: without Optuna.
        UserError: for a storage that cannot be opened.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", why="the search among folds", extra="tune") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            study = _opened(storage or _journal(folder / JOURNAL), name)
            begun = len(study.get_trials(deepcopy=False))
        except Exception as error:  # a database may raise anything
            raise UserError(
                f"the search's storage {storage or folder / JOURNAL} cannot be opened: {first_line(error)}",
                expected="a URL such as sqlite:///search.db or postgresql://user@host/name",
            ) from error
        # A process that joins or goes on draws other numbers than those already drawn.
        sampler = optuna.samplers.TPESampler(
            seed=derive(seed, "propose", begun) % 2**32, multivariate=True, n_startup_trials=8, constant_liar=True
        )
        study.sampler = sampler
    return study


def _opened(kept: Any, name: str) -> Any:
    """The study; tried again a few times, since two processes that begin at once both make a new database's tables."""
    import optuna
    from sqlalchemy.exc import DBAPIError

    make = partial(
        optuna.create_study,
        storage=kept,
        study_name=name,
        directions=["minimize"] * len(OBJECTIVES),
        load_if_exists=True,
    )
    for wait_s in _WAITS_S:
        with suppress(DBAPIError):
            return make()
        time.sleep(wait_s)
    return make()


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def ask(study: Any, space: Space) -> tuple[Any, dict[str, int]]:
    """A trial and the point that it proposes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = study.ask()
        point = {
            "student": trial.suggest_int("student", 0, len(space.students) - 1),
            "cut": trial.suggest_int("cut", 0, len(space.cuts) - 1),
            "numbers": trial.suggest_int("numbers", 0, len(space.numbers) - 1),
        }
    return trial, point


def tell(study: Any, trial: Any, values: Sequence[float]) -> None:
    """What a proposal gives, as far as it is known: predictions stand in for what was not measured."""
    study.tell(trial, [float(value) for value in values], skip_if_finished=True)


def add(study: Any, space: Space, point: Point, values: Sequence[float] | None, line: Line) -> None:
    """Let every process that shares the study know a line; without values it is none to learn from."""
    import dataclasses
    import json

    import optuna
    from optuna.distributions import IntDistribution
    from optuna.trial import TrialState

    sizes = {"student": len(space.students), "cut": len(space.cuts), "numbers": len(space.numbers)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(point),
                distributions={name: IntDistribution(0, n - 1) for name, n in sizes.items()},
                values=None if values is None else [float(value) for value in values],
                state=TrialState.FAIL if values is None else TrialState.COMPLETE,
                user_attrs={_LINE: json.dumps(dataclasses.asdict(line))},
            )
        )


def lines_of(study: Any) -> list[Line]:
    """The lines that all processes added."""
    texts = (trial.user_attrs.get(_LINE) for trial in study.get_trials(deepcopy=False))
    return [line for line in map(parse, filter(None, texts)) if line is not None]
