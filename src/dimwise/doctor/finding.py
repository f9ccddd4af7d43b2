"""What the doctor says: a finding, its place, its severity. Plain data, no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dimwise.doctor.seen import Seen

Severity = Literal["error", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint")
"""error: the run does not train what its author thinks; warning: likely harm; hint: cost or style."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the user's own code."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file.replace(chr(92), '/').rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True)
class Finding:
    """One mistake, with the numbers that show it.

    Example:
        >>> found = Finding("nan-in-input", "error", "the inputs hold NaN", "3 of 64 rows of batch 0", "drop the rows")
        >>> found.as_dict()["rule"]
        'nan-in-input'
    """

    rule: str
    """Slug of the rule; a contract."""
    severity: Severity
    title: str
    """One short sentence that names the cause in the user's words."""
    evidence: str
    """The numbers: how often, how much, against what threshold, at which line."""
    remedy: str
    """What to change; where it can be known, the changed line of code."""
    place: Place | None = None
    module: str | None = None
    """Path of the module inside its network, as in 'encoder.fc1'."""
    step: int | None = None
    """Optimizer steps taken when it was first seen."""
    cure: dict[str, Any] | None = None
    """How the remedy is applied from outside, for ``--prove``: {"kind": ..., ...}; None when it cannot be."""
    proof: dict[str, Any] | None = None
    """What ``--prove`` measured with and without the cure."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of ``--json``."""
        where = {
            "file": self.place.file if self.place else None,
            "line": self.place.line if self.place else None,
            "module": self.module,
            "step": self.step,
        }
        told = {k: getattr(self, k) for k in ("rule", "severity", "title", "evidence", "remedy", "proof")}
        return {**told, "where": where}

    def to_wire(self) -> dict[str, Any]:
        """Everything, for the way from the watched process to the one that tells."""
        return asdict(self)


def from_wire(told: dict[str, Any]) -> Finding:
    """The finding that :meth:`Finding.to_wire` wrote."""
    place = told.get("place")
    return Finding(**{**told, "place": Place(**place) if place else None})


@dataclass(frozen=True)
class NotChecked:
    """A rule that could not speak in this run, and why."""

    rule: str
    why: str


Judged = Finding | NotChecked | None
Rule = Callable[["Seen"], "Judged | Iterable[Finding | NotChecked]"]
"""A rule looks at what was seen and returns: a finding or several; None when all is well; or why it cannot tell."""


@dataclass
class Report:
    """All that one examination found."""

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    overhead: float | None = None
    """Wall time under the doctor against without, estimated from the time spent watching; None when unknown."""

    def sorted(self) -> Report:
        """Worst first; the earliest first among equals."""
        late = 1 << 60
        order = sorted(
            self.findings, key=lambda f: (SEVERITIES.index(f.severity), f.step if f.step is not None else late, f.rule)
        )
        return replace(self, findings=order)

    def as_dict(self) -> dict[str, Any]:
        """The object of ``--json``."""
        return {
            "findings": [f.as_dict() for f in self.findings],
            "checked": list(self.checked),
            "not_checked": [asdict(n) for n in self.not_checked],
            "overhead": self.overhead,
        }
