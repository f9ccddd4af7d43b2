"""The gallery under the doctor: each mistake is named, each mended form is left in peace.

One network and one seed a mistake here; all networks and five seeds in ``benchmarks/doctor_gallery.py``.
"""

from __future__ import annotations

import pytest

from dimwise.doctor.rules import ACROSS, RULES
from dimwise.lab import mistakes
from dimwise.lab.examined import examined

# The networks take turns, so that each family of rules meets each of them.
CASES = [(slug, mistakes.archs(slug)[i % len(mistakes.archs(slug))]) for i, slug in enumerate(mistakes.MISTAKES)]

SHORT = ("--epochs", "3")
"""About seventy steps: enough for every rule, the slowest of which needs fifty."""


def test_every_rule_has_its_mistake() -> None:
    assert set(mistakes.MISTAKES) == {*RULES, *ACROSS}
    assert len(CASES) == 53


@pytest.mark.parametrize(("slug", "arch"), CASES)
def test_the_mistake_is_named_and_its_cure_is_silent(slug: str, arch: str) -> None:
    broken, run = examined(mistakes.path(slug), ["--arch", arch, *SHORT])
    if slug != "loader-starves-trainer":  # who waits for whom is a matter of the clock: the benchmark looks at it
        assert slug in [f.rule for f in broken.findings], (run.exit_code, broken.findings, run.remarks)
    mended, run = examined(mistakes.path(slug), ["--arch", arch, "--mended", *SHORT])
    assert run.exit_code == 0
    assert [f for f in mended.findings if f.severity != "hint" or f.rule == slug] == []
