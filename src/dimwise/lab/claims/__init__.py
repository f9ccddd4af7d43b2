"""Claims: published numbers, each measured by one script here, with a verdict that code decides.

``python -m dimwise.lab.claims`` lists them, ``python -m dimwise.lab.claims N3`` measures one and writes its record. A
script says what was published (``CLAIM``), measures (``measure``) and decides (``decide``); see :mod:`._frame`. Adding
one: its file, its line here.
"""

from __future__ import annotations

from dimwise.lab.claims._frame import Claim, Record, Setup, Verdict, at_least, kept, mean_interval, prove

__all__ = [
    "CLAIMS",
    "Claim",
    "Record",
    "Setup",
    "Verdict",
    "at_least",
    "kept",
    "mean_interval",
    "prove",
]

CLAIMS: dict[str, str] = {
    "N3": "dimwise.lab.claims.distillation_keeps",
    "N4": "dimwise.lab.claims.int8_speed",
    "N16": "dimwise.lab.claims.compression_speed",
    "N22": "dimwise.lab.claims.mobilenet_int8",
    "N23": "dimwise.lab.claims.prune_resnet50",
}
"""Number of the claim -> module that measures it."""
