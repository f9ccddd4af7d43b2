"""Keep a candidate as an artifact, proven to compute what its network computes; without a graph, its network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dimwise import ship
from dimwise.data.sets import Split
from dimwise.fold import Evidence
from dimwise.plan.on_target import Candidate
from dimwise.plan.record import Line
from dimwise.runs.atomic import write_json
from dimwise.ship.artifact import describe
from dimwise.ship.manifest import MANIFEST
from dimwise.ship.network import is_network, save_network

REPORTS = "folds.json"
"""In an artifact's folder: the reports of its folds, in order."""
LOOKED_AT = 512
"""Inputs on which every candidate of a search is compared with its network; artifacts are proven on the whole split."""
TOLERANCE, LOOSE = 1e-4, 1.0
"""Largest difference of outputs of a float32 graph and of a rounded one, as fractions of the outputs' norm."""


def parity_of(candidate: Candidate, evidence: Evidence) -> str:
    """Empty when the graph computes what its network computes, on some held-out inputs; else what differs."""
    proof = _proof(candidate, evidence, LOOKED_AT)
    if proof is None or proof.passed:
        return ""
    return f"the exported graph differs from its network: outputs off by {proof.max_scaled_diff:.2g} of their size"


def _proof(candidate: Candidate, evidence: Evidence, most: int | None = None) -> ship.Parity | None:
    """On the validation split, or so many of it."""
    if candidate.model is None:
        return None
    valid = evidence.data.valid
    return ship.parity(
        ship.torch_reference(candidate.model, evidence.data.normalise),
        candidate.runner,
        Split(valid.inputs[:most], valid.targets[:most]),
        evidence.task,
        batches=(1, 3),
        tolerance=TOLERANCE if candidate.exact else LOOSE,
        max_score_drop=1.0,  # whether the score is good enough is for the budget to say
    )


def keep(candidate: Candidate, place: Path, evidence: Evidence, line: Line) -> None:
    """Write the candidate's artifact, marked as proven; its network, where PyTorch serves and there is no graph.

    Raises:
        RunError: when the folder cannot be written.
        ParityError: when it does not compute what its network computes.
    """
    data, source = evidence.data, {"steps": line.steps, "seed": line.seed}
    if candidate.proto is None:
        assert candidate.model is not None, "a candidate has a graph or a network"
        save_network(candidate.model, data, place, source=source, score=candidate.valid_score)
        _tell(candidate, place)
        return
    artifact = ship.save(
        candidate.proto,
        place,
        labels=data.labels,
        reading=data.reading,
        task=data.task,
        name=line.name,
        preprocessing=describe(data.normalise),
        source=source,
    )
    proof = _proof(candidate, evidence)
    if proof is not None:
        ship.gate(artifact, proof)
    _tell(candidate, place)


def _tell(candidate: Candidate, place: Path) -> None:
    """Beside what was made, what its folds changed, left alone and tried; where that is not known it stays."""
    if candidate.reports:
        write_json(place / REPORTS, [asdict(report) for report in candidate.reports])


def reports_of(place: Path) -> list[dict[str, Any]]:
    """What :func:`keep` told beside an artifact; empty where there is nothing that can be read."""
    try:
        told = json.loads((place / REPORTS).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in told if isinstance(entry, dict)] if isinstance(told, list) else []


def is_kept(place: Path) -> bool:
    """Whether :func:`keep` wrote something there."""
    return (place / MANIFEST).is_file() or is_network(place)
