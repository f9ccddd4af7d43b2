"""The doctor on its own gallery: is each mistake named, and is each mended form left in peace?

python benchmarks/doctor_gallery.py [--seeds 5] [--archs cnn,lstm,transformer] [--only SLUG ...]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from multiprocessing.pool import ThreadPool

from _record import Record

from dimwise.lab import mistakes
from dimwise.lab.examined import examined

Case = tuple[str, str, int, bool]


def judged(case: Case) -> tuple[Case, list[tuple[str, str]]]:
    """(case, [(severity, rule), ...]) of one run."""
    slug, arch, seed, mended = case
    arguments = ["--arch", arch, "--seed", str(seed), *(["--mended"] if mended else [])]
    report, _ = examined(mistakes.path(slug), arguments, limit_s=240)
    return case, [(f.severity, f.rule) for f in report.findings]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--archs", default="cnn,lstm,transformer")
    parser.add_argument("--only", nargs="*", default=list(mistakes.MISTAKES))
    said = parser.parse_args()
    wanted = said.archs.split(",")
    cases = [
        (slug, arch, seed, mended)
        for slug in said.only
        for arch in mistakes.archs(slug)
        if arch in wanted
        for seed in range(said.seeds)
        for mended in (False, True)
    ]
    named: dict[str, list[bool]] = defaultdict(list)
    quiet: dict[str, list[bool]] = defaultdict(list)
    wrong: list[dict[str, object]] = []
    with ThreadPool(2) as pool:
        for (slug, arch, seed, mended), found in pool.imap_unordered(judged, cases):
            loud = sorted({r for s, r in found if s != "hint" or r == slug})
            good = not loud if mended else slug in {r for _, r in found}
            (quiet if mended else named)[slug].append(good)
            if not good:
                form = "mended" if mended else "broken"
                wrong.append({"slug": slug, "arch": arch, "seed": seed, "form": form, "said": loud})
                print(wrong[-1], flush=True)
    record = Record("doctor_gallery", "python benchmarks/doctor_gallery.py", "the doctor on the gallery of mistakes")
    rates = {slug: sum(hits) / len(hits) for slug, hits in named.items()}
    record.runs("share of runs in which a rule names its mistake", list(rates.values()), "fraction, one a rule")
    record.runs("share of mended runs left in peace", [sum(h) / len(h) for h in quiet.values()], "fraction, one a rule")
    record.figures |= {
        "rates": {k: round(v, 4) for k, v in sorted(rates.items())},
        "wrong": wrong,
        "seeds": said.seeds,
        "archs": wanted,
        "n_runs": len(cases),
    }
    enough = sum(rate >= 0.95 for rate in rates.values())
    record.target(
        "doctor: rules that name their mistake in ≥ 95 % of runs",
        f"all {len(rates)}",
        str(enough),
        enough == len(rates),
    )
    peace = sum(sum(h) for h in quiet.values())
    total = sum(len(h) for h in quiet.values())
    record.target("doctor: mended forms left in peace", f"all {total}", str(peace), peace == total)
    print(record.write())


if __name__ == "__main__":
    main()
