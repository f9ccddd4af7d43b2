"""What each mistake of the gallery costs: both forms of each script from the same seed, on each of its networks.

``python benchmarks/gallery_harm.py [--archs cnn,lstm,transformer] [--seeds 0] [--only SLUG ...]``; rows that are not
run again stay as they are in the record.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from _record import RECORDS, Record

from dimwise.lab.mistakes import MISTAKES, archs, harm

NAME = "gallery_harm"


def earlier() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows of the record that is there."""
    path = RECORDS / f"{NAME}.json"
    rows = json.loads(path.read_text())["figures"]["pairs"] if path.exists() else []
    return {(row["slug"], row["arch"], row["seed"]): row for row in rows}


def row_of(told: dict[str, Any]) -> dict[str, Any]:
    """One pair as a row: scores, what they are, exit codes, seconds of both processes."""
    broken, mended = told["broken"], told["mended"]
    return {
        "slug": told["slug"],
        "arch": told["arch"],
        "seed": told["seed"],
        "name": mended["name"],
        "broken": broken["score"],
        "mended": mended["score"],
        "broken_returncode": broken["returncode"],
        "mended_returncode": mended["returncode"],
        "broken_s": broken["seconds_s"],
        "mended_s": mended["seconds_s"],
    }


def summarise(record: Record) -> None:
    """Both forms' accuracies with their spread, rules that show no harm, and whether every mended form finished."""
    pairs = record.figures["pairs"]
    accuracies = [r for r in pairs if r["name"] != "loss" and r["broken"] is not None and r["mended"] is not None]
    for form in ("broken", "mended"):
        record.runs(f"accuracy_{form}", [r[form] for r in accuracies], "share")
    no_harm = {r["slug"] for r in accuracies if r["broken"] >= r["mended"] - 0.01}
    record.figures["within_one_point_somewhere"] = sorted(no_harm)
    measured = {r["slug"] for r in pairs}
    record.target("rules with a measured pair", f"{len(MISTAKES)}", f"{len(measured)}", measured == set(MISTAKES))
    ended = [r for r in pairs if r["mended_returncode"] == 0 and r["mended"] is not None]
    record.target("mended forms that end with a score", f"{len(pairs)}", f"{len(ended)}", len(ended) == len(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", default="cnn,lstm,transformer")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", nargs="*", default=list(MISTAKES))
    asked = parser.parse_args()
    rows = {key: row for key, row in earlier().items() if key[0] in MISTAKES}
    for slug in asked.only:
        for arch in [a for a in asked.archs.split(",") if a in archs(slug)]:
            for seed in map(int, asked.seeds.split(",")):
                row = row_of(harm(slug, arch, seed))
                rows[slug, arch, seed] = row
                print(f"{slug:34s} {arch:12s} {seed}  {row['broken']}  {row['mended']}  {row['name']}", flush=True)
    record = Record(
        NAME,
        "python benchmarks/gallery_harm.py",
        "score of each mistake of the gallery, broken and mended, from the same seed, on scikit-learn's digits",
    )
    place = {slug: number for number, slug in enumerate(MISTAKES)}
    record.figures["pairs"] = [rows[key] for key in sorted(rows, key=lambda k: (place[k[0]], k[1], k[2]))]
    summarise(record)
    record.notes += [
        "a score named loss is better when lower; null: the script ended before its last line, as batch-too-large must",
        "seconds are of whole processes, imports included, on a machine that did other things; they are no timing",
    ]
    print(record.write())


if __name__ == "__main__":
    main()
