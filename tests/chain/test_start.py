"""Where what a run keeps is found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dimwise.chain.named import named
from dimwise.chain.start import artifact_of
from dimwise.errors import ArtifactError, ModelError


def artifact(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{}")
    return place


def test_chosen_is_what_the_run_chose_else_what_its_latest_search_did(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="keeps no artifact of the stage 'chosen'"):
        artifact_of(tmp_path, "chosen")
    for age, (target, kept) in enumerate((("openvino-1-1", True), ("onnxruntime-1-1", True), ("pytorch-1-1", False))):
        folder = tmp_path / "plan" / target
        folder.mkdir(parents=True)
        place = artifact(folder / "artifacts" / "ab12") if kept else folder / "artifacts" / "ab12"
        (folder / "answer.json").write_text(json.dumps({"artifact": f"/elsewhere/{place.name}"}))
        os.utime(folder / "answer.json", (1000 - age, 1000 - age))
    (tmp_path / "plan" / "broken").mkdir()
    (tmp_path / "plan" / "broken" / "answer.json").write_text("[")
    assert artifact_of(tmp_path, "chosen") == tmp_path / "plan" / "openvino-1-1" / "artifacts" / "ab12"
    mine = artifact(tmp_path / "artifacts" / "prune")
    (tmp_path / "result.json").write_text('{"chosen": "prune"}')
    assert artifact_of(tmp_path, "chosen") == mine


def test_a_network_for_pytorch_is_told_apart_from_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("{}")
    with pytest.raises(
        ModelError, match="holds a network that PyTorch serves, and no graph; expected an artifact with"
    ):
        named(str(tmp_path))
