"""How soon the doctor names the mistakes of the loop: the fewest watched optimizer steps after which each is found.

Three mistakes begin with an evaluation, after the first epoch; for their rules the steps count from its first pass.

python benchmarks/doctor_steps.py [--archs cnn,lstm,transformer] [--only SLUG ...]
"""

from __future__ import annotations

import argparse
import bisect
from multiprocessing.pool import ThreadPool

from _record import Record

from dimwise.doctor.rules import RULES
from dimwise.doctor.seen import Seen
from dimwise.lab import mistakes
from dimwise.lab.examined import examined

LOOP = list(RULES)[: list(RULES).index("parameters-not-in-optimizer")]
"""The rules of the loop, the first family of the table."""
STEPS = [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30, 40, 60, 100, 200]
ASKED = 20
OF_EVALUATION = ("train-in-eval-mode", "validate-in-train-mode", "grad-in-validation")
"""Mistakes that begin with an evaluation: the exhibit of the first leaves the mode on that one has set."""


def first_evaluation(seen: Seen) -> int:
    """Step of the first pass in an evaluation: without gradients, or in evaluation mode."""
    passes = [e for e in seen.of("forward") if not e.facts.get("grad", True) or not e.facts.get("training", True)]
    return passes[0].step if passes else 0


def fewest(case: tuple[str, str]) -> tuple[str, str, int | None, int]:
    """(slug, arch, steps until named, step of the first evaluation) by bisection; None: not within the longest."""
    slug, arch = case
    began: dict[int, int] = {}

    def named(n: int) -> bool:
        report, execution = examined(mistakes.path(slug), ["--arch", arch], steps=n)
        began[n] = max((first_evaluation(seen) for seen in execution.processes), default=0)
        return slug in {f.rule for f in report.findings}

    at = bisect.bisect_left(STEPS, True, key=named)
    if at == len(STEPS):
        return slug, arch, None, 0
    return slug, arch, STEPS[at], began.get(STEPS[at], 0) if slug in OF_EVALUATION else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--archs", default="cnn,lstm,transformer")
    parser.add_argument("--only", nargs="*", default=LOOP)
    said = parser.parse_args()
    wanted = said.archs.split(",")
    cases = [(slug, arch) for slug in said.only for arch in mistakes.archs(slug) if arch in wanted]
    rows: dict[str, dict[str, int | None]] = {}
    late: list[str] = []
    with ThreadPool(2) as pool:
        for slug, arch, steps, since in pool.imap_unordered(fewest, cases):
            rows.setdefault(slug, {})[arch] = None if steps is None else steps - since
            if steps is None or steps - since > ASKED:
                late.append(f"{slug} ({arch}): {steps}")
            print(f"{slug} {arch}: {steps} steps, evaluation began at {since}", flush=True)
    record = Record("doctor_steps", "python benchmarks/doctor_steps.py", "steps until mistakes of the loop are named")
    record.figures |= {"steps until named": {slug: rows[slug] for slug in said.only}, "late": late}
    known = [steps for row in rows.values() for steps in row.values() if steps is not None]
    record.runs("steps until a mistake is named", [float(s) for s in known], "steps, one a rule and network")
    n_rules = len(rows)
    record.target(
        f"doctor: steps until the {n_rules} mistakes of the loop are named",
        f"≤ {ASKED}",
        f"at most {max(known)}" + (f"; late: {', '.join(late)}" if late else ""),
        not late,
    )
    print(record.write())


if __name__ == "__main__":
    main()
