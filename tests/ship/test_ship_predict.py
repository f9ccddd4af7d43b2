"""Prediction from files, and what it costs to import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from dimwise.data.sets import Data
from dimwise.errors import ArtifactError, DataError
from dimwise.ship import predict, read, save, session
from dimwise.ship.predictor import answers

LABELS = ("cat", "dog", "fox")
ENCODER = {
    "columns": [
        {"name": "Age", "kind": "number", "fill": 28.0, "indicator": True},
        {"name": "Sex", "kind": "category", "categories": ["female", "male"]},
    ],
    "features": ["Age", "Age is missing", "Sex=female", "Sex=male"],
}


def linear(weights: np.ndarray) -> onnx.ModelProto:
    """output = input @ weights, (F, K) float32: predictions that can be worked out by hand."""
    value, (n_features, n_outputs) = helper.make_tensor_value_info, weights.shape
    made = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "linear",
        [value("input", 1, ["batch", n_features])],
        [value("output", 1, ["batch", n_outputs])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def picture(tmp_path: Path, data: Data) -> Path:
    """One test image as the PNG it could have come from."""
    path = tmp_path / "one.png"
    Image.fromarray(data.test.inputs[0].permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture
def table_artifact(tmp_path: Path) -> Path:
    reading = {"kind": "table", "columns": ["Age", "Sex"], "encoder": ENCODER}
    weights = np.array([[0.1, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    return save(
        linear(weights), tmp_path / "table", labels=("no", "yes"), reading=reading, task="classification"
    ).folder


def test_picture_array_and_model_agree(
    image_artifact: Path, picture: Path, tmp_path: Path, net: Any, data: Data
) -> None:
    raw = data.test.inputs[:5]
    np.save(tmp_path / "five.npy", raw.numpy())
    np.savez(tmp_path / "one.npz", inputs=raw[0].numpy(), other=np.zeros(3))
    np.save(tmp_path / "last.npy", raw.permute(0, 2, 3, 1).numpy().astype(np.int64))  # channels last, other integers
    files = [picture, tmp_path / "five.npy", tmp_path / "one.npz", tmp_path / "last.npy"]
    rows = predict(image_artifact, files, top=2, batch_size=4)
    names = [(str(picture), 0), *((str(files[1]), i) for i in range(5)), (str(files[2]), 0)]
    assert [(row["file"], row["index"]) for row in rows] == [*names, *((str(files[3]), i) for i in range(5))]
    net.eval()
    with torch.no_grad():
        expected = net(data.normalise(raw)).softmax(1)
    order = [0, 0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4]
    for row, i in zip(rows, order, strict=True):
        assert row["label"] == LABELS[int(expected[i].argmax())]
        assert row["probability"] == pytest.approx(float(expected[i].max()), abs=1e-5)
        assert [t["label"] for t in row["top"]] == [LABELS[k] for k in expected[i].argsort(descending=True)[:2]]
    assert json.loads(json.dumps(rows)) == rows


def test_pictures_are_fitted(image_artifact: Path, tmp_path: Path) -> None:
    """Another size, grey, transparent: read as the manifest says."""
    grey = Image.fromarray(np.full((9, 5), 70, np.uint8))
    for name, image in {"grey.png": grey, "rgba.png": grey.convert("RGBA"), "grey.bmp": grey}.items():
        image.save(tmp_path / name)
    np.save(tmp_path / "same.npy", np.full((3, 4, 6), 70, np.uint8))
    rows = predict(image_artifact, [tmp_path / n for n in ("grey.png", "rgba.png", "grey.bmp", "same.npy")])
    assert len({row["probability"] for row in rows}) == 1


def test_table(table_artifact: Path, tmp_path: Path) -> None:
    """z = (0.1·age + 5·missing, female + 9·male), by hand."""
    path = tmp_path / "people.csv"
    path.write_text("Name,Sex,Age\nAnn,female,30\nBob,male,40\nX,,\n")
    rows = predict(table_artifact, [path])
    assert [row["label"] for row in rows] == ["no", "yes", "no"]
    z = np.array([[3.0, 1.0], [4.0, 9.0], [2.8 + 5, 0.0]])
    expected = np.exp(z).max(1) / np.exp(z).sum(1)
    assert [row["probability"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-6)


def test_grey_arrays_need_no_channel(tmp_path: Path) -> None:
    pixels = numpy_helper.from_array(np.array([-1, 4], np.int64), "shape")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Cast", ["input"], ["a"], to=1), helper.make_node("Reshape", ["a", "shape"], ["output"])]
    made = helper.make_graph(nodes, "g", [value("input", 2, ["b", 1, 2, 2])], [value("output", 1, ["b", 4])], [pixels])
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    reading = {"kind": "image", "channels": 1, "height": 2, "width": 2}
    save(proto, tmp_path / "a", labels=None, reading=reading, task="classification")
    image = np.array([[0, 1], [9, 2]], np.uint8)
    for shape in [(2, 2), (1, 2, 2), (1, 1, 2, 2), (2, 2, 1), (1, 2, 2, 1)]:
        np.save(tmp_path / "x.npy", image.reshape(shape))
        (row,) = predict(tmp_path / "a", [tmp_path / "x.npy"])
        assert row["label"] == "2"


def test_multilabel_and_regression(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[2.0, -1000.0], [0.0, 1000.0]]))
    save(linear(np.eye(2)), tmp_path / "m", labels=("a", "b"), reading={"kind": "array"}, task="multilabel")
    first, second = predict(tmp_path / "m", [tmp_path / "x.npy"])
    assert first["labels"] == ["a"]
    assert first["probabilities"]["a"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert (first["probabilities"]["b"], second["probabilities"]) == (0.0, {"a": 0.5, "b": 1.0})
    reading = {"kind": "array", "target": {"mean": [10.0, 0.0], "std": [3.0, 0.5]}}
    save(linear(np.eye(2)), tmp_path / "r", labels=("a", "b"), reading=reading, task="regression")
    assert predict(tmp_path / "r", [tmp_path / "x.npy"])[0]["values"] == {"a": 16.0, "b": -500.0}


def test_large_scores_do_not_overflow(image_artifact: Path) -> None:
    (row,) = answers(np.array([[1e4, -1e4, 0.0]], np.float32), read(image_artifact).manifest)
    assert row["probability"] == 1.0


def test_answers_name_every_class_when_asked(image_artifact: Path, data: Data) -> None:
    runner = session(image_artifact / "model.onnx")
    for row in answers(runner.run(data.test.inputs.numpy()), read(image_artifact).manifest, top=99):
        assert sorted(t["label"] for t in row["top"]) == sorted(LABELS)
        assert sum(t["probability"] for t in row["top"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 5, 6), np.uint8),
            r"has shape \(2, 5, 6\); expected a picture, or \.npy .* uint8, 3×4×6 or N×3×4×6",
        ),
        (np.zeros((), np.uint8), r"has shape \(\); expected a picture"),
        (np.zeros((0, 3, 4, 6), np.uint8), r"holds no inputs; expected at least one"),
        (np.zeros((3, 4, 6), np.float64), r"holds float64; expected uint8, raw pixels .* \(255 \* x\)"),
        (np.full((3, 4, 6), 256), r"holds values from 256 to 256; expected 0 to 255"),
        (np.full((3, 4, 6), "a"), r"holds <U1; expected numbers that fit uint8"),
    ],
)
def test_arrays_that_do_not_fit_an_image_model(
    array: np.ndarray, message: str, image_artifact: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=r"x\.npy " + message):
        predict(image_artifact, [tmp_path / "x.npy"])


def test_rows_that_are_not_finite(table_artifact: Path, tmp_path: Path) -> None:
    rows = np.zeros((3, 4))
    rows[1, 2] = np.nan
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(DataError, match=r"x\.npy holds NaN or infinity in 1 of 3 inputs, first in 1; expected finite"):
        predict(table_artifact, [tmp_path / "x.npy"])
    np.save(tmp_path / "x.npy", np.full((1, 4), 1e300))  # not finite once it is float32
    with pytest.raises(DataError, match=r"holds NaN or infinity in 1 of 1"):
        predict(table_artifact, [tmp_path / "x.npy"])


def test_files_that_cannot_be_read(image_artifact: Path, tmp_path: Path) -> None:
    def said(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} {message}"):
            predict(image_artifact, [tmp_path / name])

    said("a.png", b"no picture", r"cannot be read \(it is not a picture\); expected a whole picture file")
    said("a.npy", b"no array", r"cannot be read .* expected an array of numbers")
    said("a.npz", b"PK\x03\x04 cut off", r"cannot be read .* expected an array of numbers")
    said("a.csv", b"a,b\n1,2\n", r"is of a kind that 'fp32' does not take; expected a picture, or \.npy")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    said("o.npy", (tmp_path / "o.npy").read_bytes(), r"cannot be read \(it holds Python objects\)")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    said("two.npz", (tmp_path / "two.npz").read_bytes(), r"holds a, b; expected one array, or one of: inputs")
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.png; expected a picture"):
        predict(image_artifact, [tmp_path / "nowhere.png"])
    with pytest.raises(DataError, match=r".* is a folder; expected a picture"):
        predict(image_artifact, [tmp_path])
    with pytest.raises(
        DataError, match=r"no files were given to 'fp32'; expected a picture, .* Name at least one file"
    ):
        predict(image_artifact, [])


def test_tables_that_do_not_fit(table_artifact: Path, tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Age\n30\n")
    with pytest.raises(DataError, match=r"t\.csv: the table has no column 'Sex'; expected the columns Age, Sex"):
        predict(table_artifact, [path])
    path.write_text("Age,Sex\nold,male\n")
    with pytest.raises(DataError, match=r"t\.csv: column 'Age' holds 'old' in row 1; expected a number"):
        predict(table_artifact, [path])
    path.write_text("Age,Sex\n")
    with pytest.raises(DataError, match=r"t\.csv holds no inputs"):
        predict(table_artifact, [path])
    path.write_text("Age,Sex\n30,male\n31,other\n")
    with pytest.raises(
        DataError,
        match=r"t\.csv: column 'Sex' has 'other' in row 2, which training never saw; expected one of: female, male"
        r".*--allow-unknown",
    ):
        predict(table_artifact, [path])
    assert len(predict(table_artifact, [path], allow_unknown=True)) == 2
    with pytest.raises(DataError, match=r"one\.png is of a kind that 'model' does not take; expected a CSV table, or"):
        predict(table_artifact, [picture])


def rewrite(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_manifests_that_do_not_fit_the_model(
    table_artifact: Path, image_artifact: Path, copy_of: Callable[[Path], Path], picture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Age,Sex\n30,male\n")
    rewrite(table_artifact, lambda t: t["input"]["reading"]["encoder"]["columns"][0].pop("fill"))
    with pytest.raises(
        ArtifactError, match=r"the encoder in the manifest of 'model' cannot be used \(KeyError: 'fill'\)"
    ):
        predict(table_artifact, [path])
    rewrite(table_artifact, lambda t: t["input"]["reading"].pop("encoder"))
    with pytest.raises(ArtifactError, match=r"the manifest of 'model' does not say the encoder of its input"):
        predict(table_artifact, [path])
    folder = copy_of(image_artifact)
    rewrite(folder, lambda t: t["labels"].append("wolf"))
    with pytest.raises(ArtifactError, match=r"gives outputs of shape \(1, 3\) for 1 inputs; expected 4 outputs each"):
        predict(folder, [picture])
    rewrite(folder, lambda t: t["input"].update(shape=[None, 3, 4, 5], reading={**t["input"]["reading"], "width": 5}))
    with pytest.raises(
        ArtifactError, match=r"was given uint8 of shape \(1, 3, 4, 5\); expected uint8 of shape \(N, 3, 4, 6\)"
    ):
        predict(folder, [picture])


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    save(linear(np.full((2, 2), 3e38)), tmp_path / "a", labels=None, reading={"kind": "array"}, task="classification")
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.0], [9.0, 9.0]]))
    with pytest.raises(ArtifactError, match=r"gives outputs that are not finite for .*x\.npy, input 1"):
        predict(tmp_path / "a", [tmp_path / "x.npy"])


def test_nothing_heavy_is_imported(image_artifact: Path, table_artifact: Path, picture: Path, tmp_path: Path) -> None:
    """A whole process predicts a picture and a table without torch, pandas, scikit-learn, onnx or matplotlib."""
    (tmp_path / "t.csv").write_text("Age,Sex\n30,male\n")
    script = (
        "import sys\n"
        "from dimwise.ship import predict, read\n"
        f"predict({str(image_artifact)!r}, [{str(picture)!r}])\n"
        f"predict({str(table_artifact)!r}, [{str(tmp_path / 't.csv')!r}])\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'matplotlib', 'onnx', 'pydantic', 'scipy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "[]"
