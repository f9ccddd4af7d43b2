"""Keep a candidate as an artifact, proven to compute what its network computes."""

from __future__ import annotations

from pathlib import Path

from dimwise import ship
from dimwise.data.sets import Split
from dimwise.fold import Evidence
from dimwise.plan.on_target import Candidate
from dimwise.plan.record import Line
from dimwise.ship.artifact import describe

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


def keep(candidate: Candidate, place: Path, evidence: Evidence, line: Line) -> ship.Artifact | None:
    """Write the candidate's artifact, marked as proven; None where there is no graph to write.

    Raises:
        RunError: when the folder cannot be written.
        ParityError: when it does not compute what its network computes.
    """
    if candidate.proto is None:
        return None
    data = evidence.data
    artifact = ship.save(
        candidate.proto,
        place,
        labels=data.labels,
        reading=data.reading,
        task=data.task,
        name=line.name,
        preprocessing=describe(data.normalise),
        source={"steps": line.steps, "seed": line.seed},
    )
    proof = _proof(candidate, evidence)
    return artifact if proof is None else ship.gate(artifact, proof)
