"""The doctor on its own gallery: is each mistake named, is each mended form left in peace, and what does it cost?

python benchmarks/doctor_gallery.py [--seeds 5] [--archs cnn,lstm,transformer] [--only SLUG ...] [--rows FILE]

It takes about an hour. With ``--rows`` each run is kept in a file of JSON lines as it ends, and those that the file
has are not run again: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from _record import Record

from dimwise.lab import mistakes
from dimwise.lab.examined import examined
from dimwise.progress import Terminal

Case = tuple[str, str, int, bool]
"""(slug, arch, seed, mended)"""
ENOUGH = 0.95


@dataclass
class Run:
    """One script under the doctor."""

    slug: str
    arch: str
    seed: int
    mended: bool
    found: list[tuple[str, str]]
    """(severity, rule)"""
    score: float | None
    name: str | None

    @property
    def case(self) -> Case:
        """What was run."""
        return self.slug, self.arch, self.seed, self.mended

    @property
    def loud(self) -> list[str]:
        """What a mended form must not be accused of: errors, warnings, and its own rule at any severity."""
        return sorted({rule for severity, rule in self.found if severity != "hint" or rule == self.slug})

    @property
    def good(self) -> bool:
        """A broken form's mistake is named; nothing is said about a mended form."""
        return not self.loud if self.mended else self.slug in {rule for _, rule in self.found}


def earlier(rows: Path | None) -> list[Run]:
    """Runs that a file of JSON lines holds; of several of one case the last."""
    if rows is None or not rows.is_file():
        return []
    runs = [Run(**json.loads(line)) for line in rows.read_text().splitlines()]
    return list({run.case: run for run in runs}.values())


def judged(case: Case) -> Run:
    """One run, and what was said about it."""
    slug, arch, seed, mended = case
    arguments = ["--arch", arch, "--seed", str(seed), *(["--mended"] if mended else [])]
    report, execution = examined(mistakes.path(slug), arguments, limit_s=240)
    score, name = mistakes.score(execution.output)
    return Run(slug, arch, seed, mended, [(f.severity, f.rule) for f in report.findings], score, name)


def harm(runs: Iterable[Run]) -> dict[str, dict[str, dict[str, Any]]]:
    """Slug -> arch -> what the mistake costs: the median score of all seeds in both forms (None: it ended before)."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.slug, run.arch].append(run)
    told: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (slug, arch), group in groups.items():
        name = next((r.name for r in group if r.name), None)
        if name is None:
            continue
        row: dict[str, Any] = {"name": name}
        for form in (False, True):
            scores = [r.score for r in group if r.mended == form]
            reached = [s for s in scores if s is not None]
            middle = statistics.median(reached) if len(reached) > len(scores) / 2 else None
            row["mended" if form else "broken"] = middle if middle is None else round(middle, 4)
        told[slug][arch] = row
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--archs", default="cnn,lstm,transformer")
    parser.add_argument("--only", nargs="*", default=list(mistakes.MISTAKES))
    parser.add_argument("--rows", type=Path)
    said = parser.parse_args()
    wanted = said.archs.split(",")
    cases = [
        (slug, arch, seed, mended)
        for seed in range(said.seeds)
        for slug in said.only
        for arch in mistakes.archs(slug)
        if arch in wanted
        for mended in (False, True)
    ]
    runs = [run for run in earlier(said.rows) if run.case in cases]
    known = {run.case for run in runs}
    progress = Terminal()
    with ThreadPool(2) as pool, progress.stage("gallery", total=len(cases)) as bar:
        for run in pool.imap_unordered(judged, [case for case in cases if case not in known]):
            runs.append(run)
            bar.update(len(runs), run.slug)
            if said.rows:
                with said.rows.open("a") as rows:
                    rows.write(json.dumps(dataclasses.asdict(run)) + "\n")
            if not run.good:
                print(wrong(run), flush=True)
    record = Record("doctor_gallery", "python benchmarks/doctor_gallery.py", "the doctor on the gallery of mistakes")
    summarise(record, runs)
    record.figures |= {"seeds": said.seeds, "archs": wanted, "n_runs": len(cases)}
    print(record.write())


def wrong(run: Run) -> dict[str, Any]:
    """A run that was judged otherwise than it should have been."""
    form = "mended" if run.mended else "broken"
    return {"slug": run.slug, "arch": run.arch, "seed": run.seed, "form": form, "said": run.loud}


def summarise(record: Record, runs: list[Run]) -> None:
    """Rates, what was wrong, and the harm."""
    runs = sorted(runs, key=lambda r: (list(mistakes.MISTAKES).index(r.slug), r.arch, r.seed, r.mended))
    named: dict[str, list[bool]] = defaultdict(list)
    quiet: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        (quiet if run.mended else named)[run.slug].append(run.good)
    rates = {slug: sum(hits) / len(hits) for slug, hits in named.items()}
    record.runs("share of runs in which a rule names its mistake", list(rates.values()), "fraction, one a rule")
    record.runs("share of mended runs left in peace", [sum(h) / len(h) for h in quiet.values()], "fraction, one a rule")
    record.figures["rules"] = {
        slug: {"named": sum(named[slug]), "quiet": sum(quiet[slug]), "of": len(named[slug])} for slug in named
    }
    record.figures["wrong"] = [wrong(run) for run in runs if not run.good]
    record.figures["harm"] = harm(runs)
    enough = sum(rate >= ENOUGH for rate in rates.values())
    total = f"all {len(rates)}"
    record.target("doctor: rules that name their mistake in ≥ 95 % of runs", total, str(enough), enough == len(rates))
    peace, total_runs = sum(sum(h) for h in quiet.values()), sum(len(h) for h in quiet.values())
    record.target("doctor: mended forms left in peace", f"all {total_runs}", str(peace), peace == total_runs)


if __name__ == "__main__":
    main()
