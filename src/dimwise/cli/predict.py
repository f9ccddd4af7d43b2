"""``dimwise predict``: an artifact at work; torch is never loaded.

The one command that is parsed by argparse: it answers in half a second, of which typer would take a third.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dimwise.cli import _out
from dimwise.errors import UserError, nearest

_EXAMPLE = """\
Examples:
    dimwise predict runs/20260131-091500-digits-a1b2/artifacts/quantize seven.png --top 3
    dimwise predict model/ *.png --json
    dimwise predict reviews/ "a moving and funny film"
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            message, hint = (
                f"no such option '{word}'",
                nearest(word, ["--top", "--allow-unknown", "--json", "--help"]) + " ",
            )
        raise UserError(f"predict: {message}", next_step=f"{hint}See: dimwise predict --help.".strip())


def parser() -> argparse.ArgumentParser:
    """What may be said after ``dimwise predict``."""
    made = _Parser(
        prog="dimwise predict",
        description="Classify files or texts with an artifact, with onnxruntime alone.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("artifact", metavar="ARTIFACT", type=Path, help="the artifact's folder, as in RUN/artifacts/NAME")
    made.add_argument(
        "files", metavar="FILE", nargs="+", help="images, .npy or .npz arrays, .csv tables; texts or files of them"
    )
    made.add_argument("--top", metavar="K", type=_count, default=3, help="how many classes to name (default: 3)")
    made.add_argument(
        "--allow-unknown", action="store_true", help="tables: take categories training never saw as none of the known"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output")
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of at least 1")
    return int(text)


def main(words: Sequence[str]) -> int:
    """Parse, predict, print; returns the exit code."""
    try:
        said = parser().parse_args(list(words))
    except SystemExit:  # --help has been printed
        return 0
    from dimwise.ship.predictor import predict

    found = predict(said.artifact, said.files, top=said.top, allow_unknown=said.allow_unknown)
    if said.json:
        _out.emit({"artifact": str(said.artifact), "predictions": found})
    else:
        _show(found)
    return 0


def _show(found: list[dict[str, Any]]) -> None:
    several = {row["file"] for row in found if row["index"] > 0}
    for row in found:
        file = f"{row['file']}[{row['index']}]" if row["file"] in several else row["file"]
        print(f"{file}  {_answer(row)}")


def _answer(row: dict[str, Any]) -> str:
    """One line: the class and its probability, then the next ones; or all that apply; or the values."""
    if "values" in row:
        return "  ".join(f"{label} {value:.6g}" for label, value in row["values"].items())
    if "labels" in row:
        said = (f"{label} ({_percent(row['probabilities'][label])})" for label in row["labels"])
        return ", ".join(said) or "none"
    return ", ".join(f"{entry['label']} ({_percent(entry['probability'])})" for entry in row["top"])


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"
