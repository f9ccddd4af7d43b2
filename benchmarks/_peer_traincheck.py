"""TrainCheck on one mistake: the mended form is its reference, the same form from another seed its healthy control."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 900
TRACED: dict[str, tuple[Sequence[str], int]] = {
    "missing-zero-grad": (("model",), 1),
    "zero-grad-before-step": (("net",), 1),
    "optimizer-never-steps": (("model",), 1),
    "backward-never-called": (("net",), 1),
    "train-in-eval-mode": (("model",), 2),
    "parameters-not-in-optimizer": (("encoder", "classifier"), 1),
    "optimizer-holds-stale-parameters": (("model",), 1),
    "no-gradient-reaches": (("model",), 1),
}
"""Mistakes it is tried on (those of the loop and the optimizer, which its paper is about): the variables that hold the
networks, and the epochs traced. One mistake takes minutes, so that the whole gallery would take hours."""


def answers(python: Path, slug: str, script: Path, arch: str) -> dict[bool, dict[str, Any]]:
    """{mended: {"said", "failed", "seconds_s"}} of the broken form and of the control."""
    models, epochs = TRACED[slug]
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        shutil.copy(script, folder)  # it writes beside the script
        try:
            return _answers(_Tool(python, folder, script.name, arch, models, epochs))
        except (subprocess.SubprocessError, OSError) as error:
            failed = {"said": [], "failed": f"{type(error).__name__}: {error}"[:200], "seconds_s": 0.0}
            return {False: failed, True: failed}


def _answers(tool: _Tool) -> dict[bool, dict[str, Any]]:
    tool.collect("reference", ["--mended", "--seed", "0"])
    tool.call("traincheck-infer", "-f", "reference", "-o", "invariants.json")
    found = {}
    for mended, arguments in ((False, ["--seed", "0"]), (True, ["--mended", "--seed", "1"])):
        start = time.monotonic()
        name = "control" if mended else "broken"
        tool.collect(name, arguments, "--invariants", "invariants.json")
        tool.call("traincheck-check", "-f", name, "-i", "invariants.json")
        said = sorted(set(violated(tool.folder, name)))
        found[mended] = {"said": said, "failed": None, "seconds_s": round(time.monotonic() - start, 2)}
    return found


class _Tool:
    """The command lines of its README in one folder."""

    def __init__(self, python: Path, folder: Path, script: str, arch: str, models: Sequence[str], epochs: int) -> None:
        self.python, self.folder, self.script, self.arch = python, folder, script, arch
        self.models, self.epochs = models, epochs

    def call(self, command: str, *arguments: str) -> None:
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        whole = [str(self.python.parent / command), *arguments]
        done = subprocess.run(
            whole, cwd=self.folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=LIMIT_S
        )
        if done.returncode:
            told = (done.stdout + done.stderr).strip().splitlines()
            raise subprocess.SubprocessError(f"{command} ended with {done.returncode}: {told[-1] if told else ''}")

    def collect(self, name: str, arguments: Sequence[str], *more: str) -> None:
        shell = self.folder / f"{name}.sh"
        line = [str(self.python), str(self.folder / self.script), "--arch", self.arch, "--epochs", str(self.epochs)]
        shell.write_text(" ".join([*line, *arguments]) + "\n", "utf-8")
        track = ["--models-to-track", *self.models]
        script = ["--pyscript", self.script, "--shscript", shell.name]
        self.call("traincheck-collect", *script, *track, *more, "--output-dir", name)


def violated(folder: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """(invariant, level, relation) of all that its checker found violated in one trace."""
    for log in folder.glob(f"traincheck_checker_results*/{name}/failed.log"):
        for one in _documents(log.read_text("utf-8")):
            invariant = one.get("invariant", one)
            told = invariant.get("text_description") or json.dumps(invariant.get("params"))[:200]
            yield told, "ERROR", str(invariant.get("relation"))


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """JSON documents that follow one another without commas."""
    reader, text = json.JSONDecoder(), text.strip()
    while text:
        one, end = reader.raw_decode(text)
        yield one
        text = text[end:].lstrip()
