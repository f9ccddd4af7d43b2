"""An artifact for texts: raw words in, without torch; what does not fit is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dimwise.data.sets import Data, Split
from dimwise.data.text import encode
from dimwise.errors import ArtifactError, DataError
from dimwise.models import build
from dimwise.ship import gate, parity, session, to_onnx, torch_reference
from dimwise.ship.predictor import predict
from dimwise.tasks import get

WORDS = ["<pad>", "<unk>", "good", "bad", "film", "a"]
READING = {"kind": "text", "max_tokens": 6, "columns": [], "vocabulary": WORDS}
TEXTS = ["a good film", "bad", "A bad, bad film", "nothing known here", "good good good good good good good"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return build("lstm", (6,), 2, width=0.125, vocabulary=len(WORDS)).eval()


@pytest.fixture(scope="module")
def artifact(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    split = Split(torch.from_numpy(encode(TEXTS, READING)), torch.tensor([1, 0, 0, 1, 1]))
    data = Data("reviews", split, split, split, ("negative", "positive"), nn.Identity(), reading=READING)
    made = to_onnx(net, data, tmp_path_factory.mktemp("text") / "artifact", name="reviews")
    found = parity(torch_reference(net, data.normalise), session(made.model_path), split, get("classification"))
    return gate(made, found).folder


def test_texts_are_read_as_at_training(artifact: Path, net: nn.Module) -> None:
    rows = predict(artifact, TEXTS)
    with torch.no_grad():
        expected = net(torch.from_numpy(encode(TEXTS, READING))).softmax(1)
    assert [row["file"] for row in rows] == TEXTS
    for row, p in zip(rows, expected.tolist(), strict=True):
        assert row["top"][0]["probability"] == pytest.approx(max(p), abs=1e-5)
        assert row["label"] == ("negative", "positive")[p.index(max(p))]


def test_files_of_texts_give_the_same(artifact: Path, tmp_path: Path) -> None:
    plain, tabs, tokens = tmp_path / "a.txt", tmp_path / "a.tsv", tmp_path / "a.npy"
    plain.write_text("\n".join(TEXTS))
    tabs.write_text("\n".join(f"{text}\t1" for text in TEXTS))
    np.save(tokens, encode(TEXTS, READING))
    expected = [row["top"] for row in predict(artifact, TEXTS)]
    for path in (plain, tabs, tokens):
        rows = predict(artifact, [path])
        assert [row["top"] for row in rows] == expected
        assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]


def test_the_manifest_says_how_to_read(artifact: Path) -> None:
    told = json.loads((artifact / "manifest.json").read_text())
    assert told["input"]["dtype"] == "int64"
    assert told["input"]["shape"] == [None, 6]
    assert told["input"]["reading"] == READING
    assert told["preprocessing"] == {"where": "inside the graph", "module": "Identity"}


def test_what_is_no_text(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file nowhere\.txt; expected a text, or a \.txt, \.tsv or \.csv"):
        predict(artifact, ["nowhere.txt"])
    path = tmp_path / "x.npy"
    for tokens, message in (
        (np.full((1, 6), len(WORDS)), r"holds values from 6 to 6; expected whole token numbers from 0 to 5"),
        (np.full((1, 6), -1), r"holds values from -1 to -1; expected whole token numbers"),
        (np.full((1, 6), 0.5), r"holds fractions; expected whole token numbers"),
        (np.zeros((1, 7), np.int64), r"has shape \(1, 7\); expected a text, or a \.txt"),
    ):
        np.save(path, tokens)
        with pytest.raises(DataError, match=message):
            predict(artifact, [path])


def test_a_damaged_vocabulary_is_named(artifact: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(artifact, tmp_path / "copy"))
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text())
    for vocabulary, message in ((None, "does not say the vocabulary"), ([1, 2], "is no list of words")):
        told["input"]["reading"] = {"kind": "text", "max_tokens": 6, "vocabulary": vocabulary}
        if vocabulary is None:
            del told["input"]["reading"]["vocabulary"]
        manifest.write_text(json.dumps(told))
        with pytest.raises(ArtifactError, match=message):
            predict(folder, ["good"])


def test_predicting_needs_no_torch(artifact: Path) -> None:
    code = (
        "import sys; from dimwise import cli; code = cli.main(['predict', sys.argv[1], 'a good film', '--json'])\n"
        "assert not {'torch', 'onnx', 'pandas'} & set(sys.modules), sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(artifact)], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["predictions"][0]["file"] == "a good film"
