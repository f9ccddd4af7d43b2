"""The onnxruntime adapter: what it runs, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dimwise.data.sets import Data
from dimwise.errors import ArtifactError
from dimwise.ship import session
from dimwise.ship.selfcontained import _INSIDE, refuse_external


def tiny(location: str | None = None, *, inside_branch: bool = False) -> onnx.ModelProto:
    """output = input + w, with w in the file, or said to be elsewhere."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    given, made = value("input", 1, ["batch", 4]), value("output", 1, ["batch", 4])
    nodes = [helper.make_node("Add", ["input", "w"], ["output"])]
    weights = [weight]
    if inside_branch:
        constant = helper.make_node("Constant", [], ["c"], value=weight)
        branch = helper.make_graph([constant], "branch", [], [value("c", 1, [4])])
        yes = numpy_helper.from_array(np.array(True), "yes")
        nodes = [helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch), *nodes]
        weights = [yes]
    made_graph = helper.make_graph(nodes, "tiny", [given], [made], weights)
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_path_and_bytes_give_the_same(image_artifact: Path, data: Data) -> None:
    path = image_artifact / "model.onnx"
    x = data.test.inputs.numpy()
    a, b = session(path), session(path.read_bytes(), threads=2)
    assert (a.input_shape, a.output_shape, a.input_dtype) == ((None, 3, 4, 6), (None, 3), "uint8")
    assert (a.threads, b.threads) == (1, 2)
    assert np.allclose(a.run(x), b.run(x), atol=1e-6)


def test_wrong_inputs_say_what_is_expected(image_artifact: Path) -> None:
    runner = session(image_artifact / "model.onnx")
    right = np.zeros((1, 3, 4, 6), np.uint8)
    for wrong, said in [
        (right.astype(np.float32), r"float32 of shape \(1, 3, 4, 6\)"),
        (right[:, :, :, :5], r"uint8 of shape \(1, 3, 4, 5\)"),
        (right[0], r"uint8 of shape \(3, 4, 6\)"),
    ]:
        with pytest.raises(ArtifactError, match=rf"was given {said}; expected uint8 of shape \(N, 3, 4, 6\)"):
            runner.run(wrong)
    with pytest.raises(ArtifactError, match=r"was given a list; expected a NumPy array, uint8 of shape"):
        runner.run([1, 2])  # type: ignore[arg-type]


def test_what_is_no_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtifactError, match=r"'.*none\.onnx' cannot be read: No such file"):
        session(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match=r"the model is not an ONNX model"):
        session(b"garbage")
    for content in (b"", onnx.ModelProto(ir_version=10).SerializeToString()):
        with pytest.raises(ArtifactError, match=r"the model cannot be loaded by onnxruntime \d"):
            session(content)
    assert capfd.readouterr() == ("", "")


def test_several_outputs_are_refused() -> None:
    proto = tiny()
    proto.graph.node.append(helper.make_node("Neg", ["input"], ["second"]))
    proto.graph.output.append(helper.make_tensor_value_info("second", 1, ["batch", 4]))
    with pytest.raises(ArtifactError, match=r"has 1 inputs and 2 outputs; expected one of each"):
        session(proto.SerializeToString())


@pytest.mark.parametrize("inside_branch", [False, True])
@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "w.bin"])
def test_weights_in_other_files_are_refused(location: str, inside_branch: bool, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny(location, inside_branch=inside_branch).SerializeToString())
    with pytest.raises(ArtifactError, match=r"m\.onnx' keeps the weight 'w' in another file; expected one file"):
        session(path)


@pytest.mark.parametrize("inside_branch", [False, True])
def test_weights_inside_are_accepted(inside_branch: bool) -> None:
    runner = session(tiny(inside_branch=inside_branch).SerializeToString())
    assert runner.run(np.zeros((2, 4), np.float32)).tolist() == [[0, 1, 2, 3]] * 2


def test_cut_off_models_are_refused(image_artifact: Path) -> None:
    content = (image_artifact / "model.onnx").read_bytes()
    for length in range(1, len(content), len(content) // 40):
        with pytest.raises(ArtifactError):
            session(content[:length])


def test_the_table_of_messages_is_onnx_own() -> None:
    """Oracle: the descriptors of the onnx library itself."""
    long = {"Training": "TrainingInfo", "Sparse": "SparseTensor"}
    wanted = {f"{long.get(kind, kind)}Proto": kind for kind in _INSIDE}
    for name, kind in wanted.items():
        fields = getattr(onnx, name).DESCRIPTOR.fields
        leads = {
            f.number: wanted[f.message_type.name] for f in fields if f.message_type and f.message_type.name in wanted
        }
        assert leads == _INSIDE[kind], name


def test_number_without_end_is_refused() -> None:
    with pytest.raises(ArtifactError, match="the bytes is not an ONNX model"):
        refuse_external(b"\xff" * 20, "the bytes")
