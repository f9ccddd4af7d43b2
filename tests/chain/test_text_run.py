"""The whole chain on texts: what integer tokens go through, from a file of lines to a page and an answer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from dimwise import chain, ship
from dimwise.ship.predictor import predict
from dimwise.view.report import report

GOOD, BAD = ("fine", "moving", "funny", "great"), ("dull", "awful", "flat", "boring")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> chain.Result:
    """Two hundred made-up reviews, some with a word that occurs once, and an LSTM of a quarter of its width."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    lines = []
    for i in range(240):
        said = draw.choices(["the", "film", "a", "story", "with", "its", "plot"], k=draw.randint(2, 6))
        said += [draw.choice(GOOD if i % 2 else BAD), f"once{i}"]
        draw.shuffle(said)
        lines.append(f"{' '.join(said)}\t{'good' if i % 2 else 'bad'}\n")
    (folder / "reviews.tsv").write_text("".join(lines))
    settings = [
        "data.source=text",
        f"data.path={folder / 'reviews.tsv'}",
        "data.max_tokens=8",
        "model.width=0.25",
        "train.epochs=8",
        "train.lr=0.02",
        "train.precision=fp32",
        "fold.candidates=['quantize', 'distill']",
        "fold.distill.epochs=2",
        "fold.time_s=0",
        "budget.drop=0.1",
    ]
    return chain.run(chain.load("sst2", settings), runs_dir=folder / "runs")


def test_it_trains_folds_and_ships(text_run):
    told = text_run.as_dict()
    assert text_run.exit_code == 0
    assert [s["name"] for s in told["stages"]] == ["trained", "onnx", "quantize", "distill"]
    assert told["stages"][0]["score"] > 0.8
    assert told["parity"]["passed"]
    artifact = ship.read(told["artifact"])
    assert artifact.manifest.input["dtype"] == "int64"
    assert all(s["macs"] and s["peak_memory_bytes"] for s in told["stages"])


def test_the_artifact_reads_raw_text(text_run):
    rows = predict(text_run.as_dict()["artifact"], ["The film: MOVING, great!", "a dull and boring plot", "zzz"])
    assert [row["label"] for row in rows[:2]] == ["good", "bad"]


def test_the_page_shows_texts_as_the_network_reads_them(text_run):
    run = Path(text_run.as_dict()["run"])
    with np.load(run / "pictures.npz", allow_pickle=False) as kept:
        assert kept["confusion"].sum() == 48
        assert "mistakes_inputs" not in kept
        assert len(kept["mistakes_texts"]) == len(kept["mistakes_truth"])
    page = report(run).read_text("utf-8")
    assert "words that occur 2 times or more in the training texts" in page
