"""The planner on a list of ten budgets for digits and for Fashion-MNIST: what it meets, and what it names infeasible.

Limits are fractions of what the network takes as it was trained, measured on the machine at hand, so that the list
asks the same of every machine. The last three cannot be met: they ask for less than a call, a file or a process
takes. All budgets of a data set share one folder, as they would for a user who asks again: what was measured for the
first budget is known to the second.

With ``--missed`` only those budgets are asked again, with more time, that the record says were missed; their answers
replace the old ones. A budget that was met in 90 seconds is met in twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _record import RECORDS, Record, data_dir, wait_until_quiet

from dimwise import measure

# (name, latency and size as fractions of the original, other terms, whether it can be met)
BUDGETS: tuple[tuple[str, float, float, str, bool], ...] = (
    ("a tenth faster", 0.9, 0.0, "drop<=0.5pt", True),
    ("a quarter faster", 0.75, 0.0, "drop<=0.5pt", True),
    ("a third of the size", 0.0, 0.33, "drop<=0.5pt", True),
    ("a tenth of the size", 0.0, 0.1, "drop<=1pt", True),
    ("a fifteenth of the size", 0.0, 0.067, "drop<=1pt, prefer=size", True),
    ("faster and a fifth of the size", 0.85, 0.2, "drop<=1pt", True),
    ("nothing lost", 0.0, 0.0, "drop<=0pt", True),
    ("less than a call takes", 0.01, 0.0, "drop<=1pt", False),
    ("less than a file holds", 0.0, 0.0, "size<=300B, drop<=1pt", False),
    ("less than a process takes", 0.0, 0.0, "memory<=100kB, drop<=1pt", False),
)
QUICK = (0, 3, 7)
RECIPES = {
    "digits": [],
    "fashion": ["--set", "train.epochs=6", "--set", "data.train_limit=20000"],
}


def dimwise(*words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "dimwise", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DIMWISE_DATA": str(data_dir())})
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise SystemExit(f"dimwise {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def one_recipe(name: str, settings: list[str], runs: str, seconds: float, chosen: tuple[int, ...]) -> list[Any]:
    _, trained = dimwise("train", name, *settings, "--runs-dir", runs)
    run = trained["run"]
    _, first = dimwise("fold", run, "--apply", "quantize(weights)", "--runs-dir", runs)
    rows = []
    for i in chosen:
        title, latency, size, terms, possible = BUDGETS[i]
        limits = [terms]
        if latency:
            limits.append(f"latency<={latency * first['original']['latency_ms']:.6g}ms")
        if size:
            limits.append(f"size<={round(size * first['original']['size_bytes'])}B")
        began = time.perf_counter()
        code, told = dimwise("fold", run, "--budget", ", ".join(limits), "--time", f"{seconds:g}s", "--runs-dir", runs)
        rows.append(
            {
                "recipe": name,
                "budget": title,
                "asked": told["asked"],
                "possible": possible,
                "verdict": told["verdict"],
                "right": (code == 0) == possible,
                "text": told["text"],
                "ended": told["ended"],
                "allowed_s": seconds,
                "date": time.strftime("%Y-%m-%d"),
                "commit": measure.environment()["commit"],
                "tried": told["tried"],
                "seconds": time.perf_counter() - began,
                "prediction": told["prediction"],
                "test": told["test"],
            }
        )
        print(name, title, told["verdict"], told["text"], f"{rows[-1]['seconds']:.0f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", type=float, default=1200.0, help="seconds for each budget")
    parser.add_argument("--quick", action="store_true", help="three budgets of digits, a minute each; no record")
    parser.add_argument("--missed", action="store_true", help="only what the record says was missed")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="only these")
    asked = parser.parse_args()
    seconds = min(asked.time, 60.0) if asked.quick else asked.time
    recipes = {name: RECIPES[name] for name in (["digits"] if asked.quick else asked.recipes)}
    chosen = QUICK if asked.quick else tuple(range(len(BUDGETS)))
    busy = "" if asked.quick else wait_until_quiet()
    with tempfile.TemporaryDirectory() as place:
        for name, settings in recipes.items():
            held = held_rows(name) if asked.missed else []
            again = tuple(i for i in chosen if not any(r["budget"] == BUDGETS[i][0] and r["right"] for r in held))
            rows = one_recipe(name, settings, str(Path(place) / name), seconds, again)
            command = f"python benchmarks/planner.py --time {asked.time:g} --recipes {name}"
            record = Record(
                f"planner_{name}", command + " --missed" * asked.missed, f"the planner on ten budgets of {name}"
            )
            judge(record, joined(held, rows), f"planner on {name}, at most {seconds:g} s each")
            if busy:
                record.notes.append(busy)
            if not asked.quick:
                print(record.write())


def held_rows(name: str) -> list[dict[str, Any]]:
    """The answers in the record of that recipe; none where there is no record."""
    path = RECORDS / f"planner_{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["figures"]["budgets"] if path.is_file() else []
    return rows


def joined(held: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All answers, the newest to each budget, in the order of the list."""
    newest = {row["budget"]: row for row in [*held, *rows]}
    return [newest[title] for title, *_ in BUDGETS if title in newest]


def judge(record: Record, rows: list[dict[str, Any]], where: str) -> None:
    """What was asked, beside what the answers to all budgets say."""
    record.figures["budgets"] = rows
    times = sorted({row["allowed_s"] for row in rows})
    if len(times) > 1:
        for seconds in times:
            those = [row for row in rows if row["allowed_s"] == seconds]
            when = ", ".join(sorted({f"{row['date']} (commit {row['commit']})" for row in those}))
            titles = ", ".join(row["budget"] for row in those)
            record.notes.append(f"{seconds:g} s were allowed, on {when}, for: {titles}")
    record.runs("one search", [row["seconds"] for row in rows], "s")
    able, unable = [r for r in rows if r["possible"]], [r for r in rows if not r["possible"]]
    for what, group in (("feasible budgets met", able), ("infeasible budgets named", unable)):
        right = sum(row["right"] for row in group)
        record.target(f"{where}: {what}", f"{len(group)} of {len(group)}", str(right), right == len(group))
    # Searches in one folder know the lines of those before them: the one that knows most tells of all.
    told = max((row["prediction"] for row in rows), key=lambda told: told["n"])
    error = 100 * told.get("latency", math.inf)
    measured = f"{error:.1f} % of {told['n']}"
    record.target(f"{where}: predicted against measured latency", "≤ 10 % median error", measured, error <= 10)


if __name__ == "__main__":
    main()
