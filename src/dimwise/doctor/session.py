"""``with dimwise.doctor() as d:`` watches what is trained inside, in a notebook or a script of one's own."""

from __future__ import annotations

import html
from collections.abc import Collection
from types import TracebackType

from dimwise.doctor import watch
from dimwise.doctor.examine import examine
from dimwise.doctor.finding import Finding, Report
from dimwise.doctor.seen import Seen


class Session:
    """One stretch of watching.

    Args:
        ignore: slugs of rules that are left out.
        steps: optimizer steps after which it looks away; None watches all.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with Session() as d:
        ...     for _ in range(12):
        ...         (net(torch.randn(8, 4)) ** 2).mean().backward()
        ...         optimizer.step()  # and no zero_grad
        >>> [f.rule for f in d.findings if f.severity == "error"]
        ['missing-zero-grad']
    """

    def __init__(self, *, ignore: Collection[str] = (), steps: int | None = None) -> None:
        self._ignore, self._steps = ignore, steps
        self._watch: watch.Watch | None = None
        self._report: Report | None = None
        self.seen: Seen | None = None
        """What was seen; None before the stretch has begun."""

    def __enter__(self) -> Session:
        self._watch, self._report = watch.begin(max_steps=self._steps), None
        self.seen = self._watch.live.seen
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._watch is not None
        if kind is not None and error is not None:
            from dimwise.doctor.inside import describe

            self._watch.live.seen.error = describe(kind, error, trace)
        self._watch.live.seen.finished = kind is None
        self.seen = watch.end(self._watch)
        self._report = examine([self.seen], ignore=self._ignore)

    @property
    def report(self) -> Report:
        """What all rules say; inside the stretch, about what was seen so far."""
        if self._report is not None:
            return self._report
        if self._watch is None:
            return Report()
        return examine([watch.conclude(self._watch)], ignore=self._ignore)

    @property
    def findings(self) -> list[Finding]:
        """Worst first."""
        return self.report.findings

    def __repr__(self) -> str:
        lines = [f"{f.severity}: {f.rule} {f.place or ''} {f.evidence}" for f in self.findings]
        return "\n".join(lines) or "no findings"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(f.severity)}</td><td>{html.escape(f.rule)}</td>"
            f"<td>{html.escape(str(f.place or ''))}</td>"
            f"<td>{html.escape(f.title)}<br>{html.escape(f.evidence)}<br>→ {html.escape(f.remedy)}</td></tr>"
            for f in self.findings
        )
        return f"<table>{rows}</table>" if rows else "<p>no findings</p>"
