"""The doctor and its peers on the gallery of mistakes: who names what, who cries over mended forms.

python benchmarks/doctor_peers.py --python PEERS/bin/python [--tools dimwise,torchtest2,...] [--only SLUG ...]

The peers live in an environment of their own; ``HOW`` below says how to make it. ``--keep FOLDER`` writes each tool's
raw findings there and takes them from there the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _peer_traincheck
from _peer_names import CLASSIC, OURS, PEERS, alarms, counts, mark, new_findings, together
from _record import Record

from dimwise.lab import mistakes

HERE = Path(__file__).resolve().parent
HOW = f"python -m venv PEERS && PEERS/bin/pip install -c constraints.txt -e . scikit-learn {' '.join(PEERS)}"
KEPT = 12
"""Findings of one run that go into the record; TrainCheck alone has dozens."""

Said = dict[tuple[str, bool], dict[str, Any]]
"""(mistake, mended) -> {"said", "failed", "seconds_s"}."""


def main() -> int:
    said = _arguments()
    python = Path(said.python)
    if not os.access(python, os.X_OK):
        print(f"no Python at {python}: make it with `{HOW}` and name it with --python", file=sys.stderr)
        return 2
    tools = said.tools.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        found = {tool: _kept(tool, python, said.only, Path(said.keep or scratch)) for tool in tools}
    record = Record("doctor_peers", "python benchmarks/doctor_peers.py", "the doctor and its peers on the gallery")
    record.figures |= {"versions": _versions(python), "rows": rows(found, said.only), "how": HOW}
    for tool, answers in found.items():
        record.runs(f"seconds of a script under {tool}", [one["seconds_s"] for one in answers.values()], "s")
    _conclude(record)
    print(record.write())
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default="PEERS/bin/python", help=f"of an environment made by: {HOW}")
    parser.add_argument("--tools", default=",".join((OURS, *PEERS)))
    parser.add_argument("--only", nargs="*", default=list(mistakes.MISTAKES))
    parser.add_argument("--keep", help="folder for raw findings")
    return parser.parse_args()


def _kept(tool: str, python: Path, slugs: Sequence[str], folder: Path) -> Said:
    """The tool's findings, those that are in the folder from there; each answer is written as soon as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tool}.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    found: Said = {(one["slug"], one["mended"]): one for one in map(json.loads, lines)}
    missing = [slug for slug in slugs if not {(slug, False), (slug, True)} <= found.keys()]
    run = {OURS: _ours, "traincheck": _traincheck}.get(tool, _peer)
    with path.open("a", encoding="utf-8") as kept:
        for slug, mended, answer in run(tool, python, missing):
            found[slug, mended] = {"slug": slug, "mended": mended, **answer}
            kept.write(json.dumps(found[slug, mended]) + "\n")
            kept.flush()
            print(tool, slug, "mended" if mended else "broken", [one[0] for one in answer["said"]][:6], flush=True)
    return {key: found[key] for key in found if key[0] in slugs}


def _cases(slugs: Sequence[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """(mistake, mended, arguments of its script)."""
    for slug in slugs:
        for mended in (False, True):
            yield (
                slug,
                mended,
                ["--arch", mistakes.archs(slug)[0], "--seed", "0", *(["--mended"] if mended else [])],
            )


def _ours(tool: str, python: Path, slugs: Sequence[str]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    from dimwise.lab.examined import examined

    for slug, mended, arguments in _cases(slugs):
        start = time.monotonic()
        report, _ = examined(mistakes.path(slug), arguments)
        told = [(one.rule, one.severity, one.title) for one in report.findings]
        yield slug, mended, {"said": told, "failed": None, "seconds_s": round(time.monotonic() - start, 2)}


def _peer(tool: str, python: Path, slugs: Sequence[str]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """One process for all cases: it imports PyTorch once and forks."""
    command = [str(python), str(HERE / "_peer_watch.py"), tool]
    source = os.pathsep.join(filter(None, (str(HERE.parent / "src"), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for slug, mended, arguments in _cases(slugs):
            process.stdin.write(json.dumps({"script": str(mistakes.path(slug)), "arguments": arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{tool} ended at {slug}: is it installed in {python}?")
            yield slug, mended, json.loads(line)
        process.stdin.close()


def _traincheck(tool: str, python: Path, slugs: Sequence[str]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    for slug in slugs:
        if slug in _peer_traincheck.TRACED:
            both = _peer_traincheck.answers(python, slug, mistakes.path(slug), mistakes.archs(slug)[0])
            for mended, answer in both.items():
                yield slug, mended, answer


def _versions(python: Path) -> dict[str, str]:
    """Of the peers that are installed."""
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    told = json.loads(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout)
    return {peer: told[peer] for peer in (*PEERS, "torch") if peer in told}


def rows(found: dict[str, Said], slugs: Sequence[str]) -> list[dict[str, Any]]:
    """One row a mistake: each tool's mark, its alarms, and what it said."""
    made = []
    for slug in slugs:
        cells = {}
        for tool, answers in found.items():
            if (slug, False) not in answers or (slug, True) not in answers:
                continue
            broken, mended = answers[slug, False], answers[slug, True]
            new = new_findings(broken["said"], mended["said"])
            cells[tool] = {
                "mark": mark(tool, slug, broken["said"], mended["said"]),
                "said": [_short(one) for one in new[:KEPT]],
                "n_said": len(new),
                "alarms": [_short(one) for one in alarms(tool, mended["said"])[:KEPT]],
                "failed": [one["failed"] for one in (broken, mended) if one["failed"]],
            }
        made.append({"slug": slug, "arch": mistakes.archs(slug)[0], "peers": cells})
    return made


def _short(finding: Sequence[str]) -> list[str]:
    rule, level, message = finding
    return [rule[:160], level, message[:160]]


def _conclude(record: Record) -> None:
    made = record.figures["rows"]
    classic = [row for row in made if row["slug"] in CLASSIC]
    ours, peers = counts(classic, OURS), together(classic)
    record.target(
        "doctor: causes of the classic mistakes named, by all peers together "
        f"{peers['N']} of {len(classic)} (`doctor_peers.json`)",
        f"≥ {min(12, len(classic))} of {len(classic)}",
        str(ours["N"]),
        ours["N"] >= min(12, len(classic)),
    )
    tried = counts(made, "traincheck")["tried"]
    record.notes += [
        "One seed and one network a mistake. A finding counts when the mended form does not get it too.",
        f"TrainCheck takes minutes a mistake and was tried on {tried}, of the loop and the optimizer. Its reference is "
        "one mended run, its healthy control the same script from another seed; from more references it would infer "
        "fewer invariants that hold by chance.",
        "`loader-starves-trainer` is decided by the clock; the machine was busy with other work.",
        "trainproof also compares a log with that of a good run; that was not tried, as no other tool but TrainCheck "
        "got a good run to compare with.",
    ]


if __name__ == "__main__":
    sys.exit(main())
