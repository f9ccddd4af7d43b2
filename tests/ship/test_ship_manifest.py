"""Artifact folders: what is written, and that nothing changed, missing or strange is accepted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from dimwise import __version__
from dimwise.data.sets import Data
from dimwise.errors import ArtifactError, RunError
from dimwise.ship import read, save, to_onnx
from dimwise.ship.manifest import FORMAT, Manifest


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_what_is_written(image_artifact: Path, data: Data) -> None:
    assert sorted(p.name for p in image_artifact.iterdir()) == ["manifest.json", "model.onnx"]
    tree = json.loads((image_artifact / "manifest.json").read_text())
    content = (image_artifact / "model.onnx").read_bytes()
    assert tree["files"] == {"model.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
    assert (tree["format"], tree["dimwise"], tree["name"], tree["task"]) == (FORMAT, __version__, "fp32", data.task)
    assert tree["input"] == {"name": "input", "shape": [None, 3, 4, 6], "dtype": "uint8", "reading": data.reading}
    assert (tree["output"]["shape"], tree["output"]["dtype"]) == ([None, 3], "float32")
    assert tree["preprocessing"]["factor"] == data.normalise.factor.tolist()
    assert (tree["status"], tree["parity"], tree["source"]) == ("untested", None, {"recipe": "t"})


def test_read_gives_it_back(image_artifact: Path) -> None:
    artifact = read(image_artifact)
    assert artifact.manifest.labels == ("cat", "dog", "fox")
    assert artifact.manifest.input_shape == (3, 4, 6)
    assert artifact.size_bytes == artifact.model_path.stat().st_size


def test_one_changed_byte_is_found(image_artifact: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(image_artifact)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:12]
    with pytest.raises(ArtifactError, match=rf"copy/model\.onnx' has SHA-256 {found}…; expected .* changed or cut off"):
        read(folder)


def test_missing_files_are_named(image_artifact: Path, copy_of: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = copy_of(image_artifact)
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"copy/model\.onnx' cannot be read: No such file"):
        read(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"copy' has no manifest\.json; expected an artifact folder"):
        read(folder)
    with pytest.raises(ArtifactError, match=r"no artifact at '.*nowhere'"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "..", "", "a\\b", "C:x", "a\0b"])
def test_names_outside_the_folder_are_refused(name: str, image_artifact: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(image_artifact)
    edit(folder, lambda tree: tree["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ArtifactError, match=r"names the file .*; expected a plain file name") as caught:
        read(folder)
    assert repr(name) in str(caught.value)


def test_links_out_of_the_folder_are_refused(
    image_artifact: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = copy_of(image_artifact)
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx' is a link to '.*elsewhere\.onnx'"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(format=99, dimwise="9.9"), r"has format 99; expected 1, .* dimwise 9\.9 wrote it"),
        (lambda t: t.pop("labels"), r"lacks labels"),
        (lambda t: t.update(lables=[]), r"has the unknown key 'lables'; expected one of: .* did you mean 'labels'"),
        (lambda t: t.update(labels="cat"), r"has labels = 'cat'; expected a JSON array"),
        (lambda t: t.update(labels=[1]), r"has labels = \[1\]; expected a list of at least one text"),
        (lambda t: t.update(status="fine"), r"has status = 'fine'; expected one of: untested, ok, failed"),
        (lambda t: t["input"].update(shape=[None, "3"]), r"has input\.shape = \[None, '3'\]; expected null"),
        (lambda t: t["input"].update(reading=3), r"has input\.reading = 3; expected a JSON object"),
        (lambda t: t["files"].clear(), r"lists no model\.onnx"),
        (lambda t: t["files"].update({"model.onnx": "abc"}), r"has files\['model\.onnx'\] = 'abc'"),
    ],
)
def test_broken_manifests_say_where(
    change: Callable[[Any], object], message: str, image_artifact: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(image_artifact)
    edit(folder, change)
    with pytest.raises(ArtifactError, match=r"copy/manifest\.json' " + message):
        read(folder)


@pytest.mark.parametrize(("content", "message"), [(b"{", "cannot be read: Expecting"), (b"[]", "holds a list")])
def test_manifest_that_is_no_object(
    content: bytes, message: str, image_artifact: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(image_artifact)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"manifest\.json' {message}"):
        read(folder)


def test_every_field_of_the_manifest_is_in_the_file(image_artifact: Path) -> None:
    tree = json.loads((image_artifact / "manifest.json").read_text())
    assert set(tree) == {field.name for field in dataclasses.fields(Manifest)}


def test_saving_again_replaces_all(image_artifact: Path, image_proto: Any, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(image_artifact)
    save(image_proto, folder, labels=None, reading={"kind": "array"}, task="multilabel", name="again")
    manifest = read(folder).manifest
    assert (manifest.name, manifest.labels, manifest.task) == ("again", ("0", "1", "2"), "multilabel")


def test_what_does_not_fit_is_refused(image_proto: Any, tmp_path: Path, net: Any, data: Data) -> None:
    with pytest.raises(ArtifactError, match=r"output has shape \[None, 3\] and there are 2 labels"):
        save(image_proto, tmp_path / "a", labels=("x", "y"), reading={}, task="classification")
    with pytest.raises(ArtifactError, match=r"task is 'sorting'; expected one of: classification"):
        save(image_proto, tmp_path / "a", labels=None, reading={}, task="sorting")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(image_proto)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ArtifactError, match=r"input 'input' has shape \[2, 3, 4, 6\]; expected a free batch"):
        save(fixed, tmp_path / "a", labels=None, reading={}, task="classification")
    with pytest.raises(ArtifactError, match=r"to_onnx was given no raw_example"):
        to_onnx(net, data.normalise, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_unwritable_folder(image_proto: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write '.*file/a': a file stands where a folder should be"):
        save(image_proto, tmp_path / "file" / "a", labels=None, reading={}, task="classification")


def test_plain_module_gets_defaults(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    manifest = to_onnx(net, torch.nn.Identity(), tmp_path / "a", raw_example=torch.zeros(1, 2)).manifest
    assert (manifest.labels, manifest.task, manifest.input["reading"]) == (
        ("0", "1"),
        "classification",
        {"kind": "array"},
    )
    assert manifest.preprocessing == {"where": "inside the graph", "module": "Identity"}
