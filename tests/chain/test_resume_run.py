"""A run that is killed anywhere and completed ends as one that was never stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dimwise import chain
from dimwise.errors import RunError
from dimwise.runs import folder

SETTINGS = [
    "fold.time_s=0",
    "model.name=mlp",
    "train.epochs=4",
    "train.precision=fp32",
    "train.layout=contiguous",
    "train.checkpoint_every_s=0",
    "data.train_limit=640",
    "fold.candidates=['prune', 'prune+quantize', 'distill']",
    "fold.prune.epochs=1",
    "fold.distill.epochs=2",
    "budget.drop=1.0",
    "budget.size_bytes=0",
    "budget.prefer=size",  # bytes are the same every time, milliseconds are not
    "ship.parity_max_score_drop=1.0",
]

# Where a run is killed: the name that is replaced, and the call of it that does not come back.
PLACES = {
    "train": ("dimwise.train.job", "Job._end_epoch", 3),
    "fold": ("dimwise.plan.apply", "_fold_network", 2),
    "measure": ("dimwise.chain.job", "trained_stage", 1),
    "ship": ("dimwise.ship", "gate", 1),
}

KILLED = """
import importlib, os, signal
from pathlib import Path
from dimwise import chain

module, path, left = {place!r}
holder = importlib.import_module(module)
*outer, name = path.split(".")
for word in outer:
    holder = getattr(holder, word)
real = getattr(holder, name)

def deadly(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

setattr(holder, name, deadly)
chain.run(chain.load("digits", {settings!r}), runs_dir=Path({runs!r}))
"""


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs_dir = tmp_path_factory.mktemp("whole")
    return chain.run(chain.load("digits", SETTINGS), runs_dir=runs_dir).as_dict()


def killed(place: str, runs_dir: Path) -> Path:
    code = KILLED.format(place=PLACES[place], settings=SETTINGS, runs=str(runs_dir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    (run,) = runs_dir.iterdir()
    return run


def n_epochs_trained(run: Path) -> int:
    """Epochs that were ever written down, those of repeated training included."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("kind") == "epoch" for line in lines)


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_and_completed_is_never_stopped(
    place: str, never_stopped: dict[str, Any], tmp_path: Path
) -> None:
    run = killed(place, tmp_path)
    assert folder.status(run) == "interrupted"
    assert not (run / "result.json").exists()
    result = chain.complete(run)
    told = result.as_dict()
    assert result.exit_code == 0
    assert told["chosen"] == never_stopped["chosen"]
    assert told["score"] == never_stopped["score"]
    same = ("name", "score", "valid_score", "size_bytes", "params", "macs")
    assert [{k: s[k] for k in same} for s in told["stages"]] == [
        {k: s[k] for k in same} for s in never_stopped["stages"]
    ]
    assert told["parity"] == never_stopped["parity"]
    weights, expected = (load_file(Path(r) / "checkpoints" / "best.safetensors") for r in (run, never_stopped["run"]))
    assert all(weights[k].equal(expected[k]) for k in expected)
    if place != "train":
        assert n_epochs_trained(run) == 4
    assert told["train"]["steps"] == never_stopped["train"]["steps"]
    assert told["train"]["images_per_s"] > 0
    assert told["train"]["seconds"] > 0
    assert folder.status(run) == "finished"


def test_what_is_finished_is_refused_and_a_trained_run_is_completed(tmp_path: Path) -> None:
    settings = [*SETTINGS, "fold.candidates=[]", "train.epochs=1"]
    run = chain.train(chain.load("digits", settings), runs_dir=tmp_path).run
    assert chain.complete(run).as_dict()["chosen"] == "onnx"
    with pytest.raises(RunError, match=rf"run '{run.name}' is finished; expected one that was stopped.*dimwise run "):
        chain.complete(run)
    with pytest.raises(RunError, match="is not a run folder"):
        chain.complete(tmp_path / "nowhere")
