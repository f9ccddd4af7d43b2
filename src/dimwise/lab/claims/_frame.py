"""The frame of every claim: what was published, what was measured, and a verdict that code decides.

A script of this folder has three names: ``CLAIM``; ``measure(setup) -> dict``, the numbers as plain JSON; and
``decide(measured) -> Verdict``, which looks at nothing else, so that a record can be judged again.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from dimwise.errors import UserError, nearest
from dimwise.progress import SILENT, Progress
from dimwise.runs.atomic import write_json

RECORDS = Path("benchmarks/records/claims")
"""Where the project keeps its records, seen from its own folder."""
WORK = Path("runs/claims")
"""Where what takes long is kept between the parts of a measurement."""

Word = Literal["holds", "refuted", "partly", "needs other hardware"]

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Claim:
    """A published number."""

    id: str
    statement: str
    """As it was published, in one sentence."""
    published: float
    unit: str
    scale: str
    """What is measured here in its stead, and why that speaks for it; empty when it is measured as published."""


@dataclass(frozen=True)
class Verdict:
    """What the measurement says about the claim."""

    word: Word
    reason: str
    """One sentence with the numbers that decided."""


@dataclass(frozen=True)
class Setup:
    """What a measurement may use."""

    work: Path
    """Folder of this claim for what takes long to make; a later call finds it there and goes on."""
    data_dir: Path | None = None
    """Folder of data sets; None means ``DIMWISE_DATA``, else the user's cache folder."""
    quick: bool = False
    """A small pass through all of the code, in about a minute; its numbers decide nothing."""
    n_seeds: int = 3
    progress: Progress = field(default=SILENT)


@dataclass(frozen=True)
class Record:
    """The record of one claim, as its file holds it."""

    claim: Claim
    measured: dict[str, Any]
    verdict: Verdict
    command: str
    path: Path
    """Of the record itself."""


def script(claim_id: str) -> Any:
    """The module that measures a claim.

    Raises:
        UserError: when there is none of that number.

    Example:
        >>> script("N3").CLAIM.published
        0.92
    """
    from dimwise.lab.claims import CLAIMS

    if claim_id not in CLAIMS:
        raise UserError(
            f"there is no experiment for the claim {claim_id!r}",
            expected="one of: " + ", ".join(CLAIMS),
            next_step=nearest(claim_id, CLAIMS),
        )
    return import_module(CLAIMS[claim_id])


def prove(claim_id: str, setup: Setup, records: Path = RECORDS) -> Record:
    """Measure a claim, decide, and write the record.

    A quick pass writes into the folder of work, so that it never stands for the real record.

    Args:
        claim_id: a key of ``CLAIMS``.
        setup: data, seeds and the folder of work.
        records: folder of the record, ``records/N3.json``.

    Raises:
        UserError: when there is no such claim.
        RunError: when the record cannot be written.
    """
    from dimwise.measure import environment

    experiment = script(claim_id)
    claim: Claim = experiment.CLAIM
    started = time.perf_counter()
    measured: dict[str, Any] = experiment.measure(setup)
    verdict: Verdict = experiment.decide(measured)
    path = (setup.work if setup.quick else records) / f"{claim_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m dimwise.lab.claims {claim_id}" + (" --quick" if setup.quick else "")
    told = {
        **asdict(claim),
        "verdict": verdict.word,
        "reason": verdict.reason,
        "quick": setup.quick,
        "command": command,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "seconds_s": round(time.perf_counter() - started, 1),
        "environment": environment(),
        "measured": measured,
    }
    write_json(path, told)
    return Record(claim, measured, verdict, command, path)


def kept(folder: Path, name: str, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, kept as ``folder/name.json``; a later call with the same settings reads it there.

    A measurement of hours is made of such parts: stopped between two of them, it goes on at the next.

    Args:
        folder: made when it is not there.
        name: of the part, such as ``teacher-0``.
        settings: everything the result depends on, as plain JSON; other settings make it anew.
        make: returns plain JSON.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> [kept(folder, "part", {"seed": 0}, lambda: {"score": score}) for score in (0.5, 0.7)]
        [{'score': 0.5}, {'score': 0.5}]
        >>> kept(folder, "part", {"seed": 1}, lambda: {"score": 0.7})
        {'score': 0.7}
    """
    path = folder / f"{name}.json"
    plain = json.loads(json.dumps(settings))
    if path.is_file():
        told = json.loads(path.read_text("utf-8"))
        if told["settings"] == plain:
            found: dict[str, Any] = told["result"]
            return found
    folder.mkdir(parents=True, exist_ok=True)
    result = make()
    write_json(path, {"settings": plain, "result": result})
    return result


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of repeated measurements and its 95 % interval by Student's t, x̄ ± t · s / √n.

    Args:
        values: n of them, at least one; of a single one nothing is known but itself, and the interval is endless.

    Returns:
        (mean, low, high), in the unit of the values.

    Example:
        >>> [round(v, 3) for v in mean_interval([0.90, 0.92, 0.94])]
        [0.92, 0.87, 0.97]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    t = _T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.96
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def at_least(values: Sequence[float], published: float, what: str, unit: str = "") -> Verdict:
    """The verdict on "at least so much": the whole interval of the mean above it, below it, or around it.

    Example:
        >>> at_least([3.1, 3.2, 3.15], 3.0, "speed-up", "×").word, at_least([2.0, 3.5], 3.0, "speed-up").word
        ('holds', 'partly')
        >>> at_least([0.5, 0.51, 0.5], 0.92, "share kept").reason
        'share kept 0.503 (95 % interval 0.489 to 0.518 over 3), claimed at least 0.92.'
    """
    mean, low, high = mean_interval(values)
    word: Word = "holds" if low >= published else "refuted" if high < published else "partly"
    where = f"95 % interval {low:.3g} to {high:.3g} over {len(values)}" if len(values) > 1 else "measured once"
    return Verdict(word, f"{what} {mean:.3g}{unit} ({where}), claimed at least {published:g}{unit}.")
