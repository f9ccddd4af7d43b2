"""``python -m dimwise.lab.claims [N3 --quick --work DIR --seeds 3]``: list or measure claims."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dimwise.errors import DimwiseError
from dimwise.lab.claims import CLAIMS
from dimwise.lab.claims._frame import RECORDS, WORK, Setup, prove, script


def main(argv: Sequence[str] | None = None) -> int:
    """List the claims, or measure those that are named; returns the exit code."""
    told = _arguments().parse_args(argv)
    try:
        for claim_id in told.claims:
            script(claim_id)  # a misspelt name is told before hours are spent on the others
        for claim_id in told.claims:
            _measure(claim_id, told)
    except DimwiseError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if not told.claims:
        for claim_id in CLAIMS:
            sys.stdout.write(f"{claim_id:<5}{script(claim_id).CLAIM.statement}\n")
    return 0


def _measure(claim_id: str, told: argparse.Namespace) -> None:
    from dimwise.progress import Terminal

    work = told.work / (f"{claim_id}-quick" if told.quick else claim_id)
    record = prove(claim_id, Setup(work, told.data_dir, told.quick, told.seeds, Terminal()), told.records)
    quick = " (a quick pass: this decides nothing)" if told.quick else ""
    sys.stdout.write(f"{claim_id}: {record.claim.statement}\n")
    sys.stdout.write(f"{record.verdict.word}: {record.verdict.reason}{quick}\n{record.path}\n")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dimwise.lab.claims", description="Measure published numbers.")
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="such as N3; without one, all are listed")
    parser.add_argument("--quick", action="store_true", help="a small pass through all of the code")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets; else DIMWISE_DATA, else the cache folder")
    parser.add_argument("--work", type=Path, default=WORK, help="where trained networks are kept between two calls")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    parser.add_argument("--seeds", type=int, default=3, help="how many repetitions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
