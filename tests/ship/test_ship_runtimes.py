"""Every runtime of the table: the same scores from the same subject, and one line for what it cannot run."""

from __future__ import annotations

import builtins
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from dimwise.data.sets import Data
from dimwise.errors import ArtifactError, DimwiseError, MissingExtra, ModelError, RecipeError
from dimwise.fold import CastConfig, QuantizeConfig, cast, evidence, quantize
from dimwise.ship import RUNTIMES, open_runtime
from dimwise.ship.runtimes import NETWORK_RUNTIMES, compiled

FOLDER = Path(compiled.__file__).parent
GRAPH_RUNTIMES = [name for name in RUNTIMES if name not in NETWORK_RUNTIMES]
QUICK = [name for name in RUNTIMES if name != "pytorch-compiled"]  # compiling takes seconds: one test has it


def needs(runtime: str) -> None:
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")


def whole(net: nn.Module, data: Data) -> nn.Module:
    return nn.Sequential(data.normalise, net)


def subject_for(runtime: str, net: nn.Module, data: Data, proto: Any) -> Any:
    return whole(net, data) if runtime in NETWORK_RUNTIMES else proto


def test_table_and_folder_hold_the_same() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    adapters = {place.partition(":")[0].rpartition(".")[2] for place in RUNTIMES.values()}
    assert adapters <= files
    assert set(NETWORK_RUNTIMES) <= set(RUNTIMES)
    assert list(RUNTIMES) == sorted(RUNTIMES)


@pytest.mark.parametrize("runtime", QUICK)
@pytest.mark.parametrize("batch", [1, 4])
def test_same_scores_everywhere(runtime: str, batch: int, fresh_net: nn.Module, data: Data, image_proto: Any) -> None:
    needs(runtime)
    inputs = data.test.inputs[:9].numpy()
    with torch.no_grad():
        expected = whole(fresh_net, data).eval()(data.test.inputs[:9]).numpy()
    fresh_net.train()
    served = open_runtime(subject_for(runtime, fresh_net, data, image_proto), runtime, threads=1, batch=batch)
    assert (served.runtime, served.threads) == (runtime, 1)
    for n in (batch, 9, 1):
        scores = served.run(inputs[:n])
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[:n], atol=1e-5)
    first = served.run(inputs[:1])
    served.run(inputs[1:2])
    np.testing.assert_allclose(first, expected[:1], atol=1e-5)  # what was given out is not overwritten
    assert fresh_net.training
    assert all(p.requires_grad for p in fresh_net.parameters())
    served.close()
    with pytest.raises(DimwiseError):
        served.run(inputs[:1])


def test_compiled_gives_the_same_scores_and_other_sizes_run_uncompiled() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    inputs = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    served = open_runtime(net, "pytorch-compiled", batch=2)
    with torch.no_grad():
        expected = net(torch.from_numpy(inputs)).numpy()
    for n in (2, 3):
        np.testing.assert_allclose(served.run(inputs[:n]), expected[:n], atol=1e-6)
    served.close()


def test_each_network_is_compiled_on_its_own() -> None:
    """Networks of one class share their code: what was compiled of others must neither count nor be looked through."""
    import torch._dynamo

    nets = [nn.Sequential(nn.Linear(n, 2)) for n in (3, 4, 5)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, net in zip((3, 4, 5), nets, strict=True):
            made = torch.compile(compiled._own_call(net), backend="eager", dynamic=False)
            assert made(torch.zeros(1, n)).shape == (1, 2)


def test_threads_are_those_of_the_runtime_and_torch_keeps_its_own() -> None:
    seen = []

    class Look(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    open_runtime(Look(), "pytorch", threads=before + 1).run(np.zeros((1, 2), np.float32))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_network_is_copied_when_it_is_opened() -> None:
    net = nn.Linear(2, 1)
    served = open_runtime(net, "pytorch")
    inputs = np.ones((1, 2), np.float32)
    before = served.run(inputs)
    with torch.no_grad():
        net.weight.add_(1.0)
    np.testing.assert_array_equal(served.run(inputs), before)


@pytest.mark.parametrize("runtime", GRAPH_RUNTIMES)
def test_int8_graphs_run_alike(runtime: str, data: Data, image_proto: Any) -> None:
    needs(runtime)
    int8, _ = quantize(image_proto, QuantizeConfig(), evidence(data))
    assert any(node.op_type == "QuantizeLinear" for node in int8.graph.node)
    inputs = data.test.inputs.numpy()
    reference = open_runtime(int8, "onnxruntime").run(inputs)
    scores = open_runtime(int8, runtime, batch=1).run(inputs)
    step = np.abs(reference).max() / 127
    assert np.median(np.abs(scores - reference)) <= step  # each rounds in its own places
    assert (scores.argmax(1) == reference.argmax(1)).mean() > 0.9


def test_a_graph_is_taken_in_every_form(image_artifact: Path, image_proto: Any, data: Data) -> None:
    inputs = data.test.inputs[:2].numpy()
    file = image_artifact / "model.onnx"
    forms = (image_proto, file.read_bytes(), file, str(file), image_artifact)
    answers = [open_runtime(form, "onnxruntime").run(inputs) for form in forms]
    assert all(np.array_equal(answers[0], answer) for answer in answers)


@pytest.mark.parametrize("runtime", NETWORK_RUNTIMES)
def test_a_graph_on_pytorch_is_refused(runtime: str, image_proto: Any) -> None:
    said = rf"{runtime} was given an exported graph; expected an nn.Module. Run exported graphs on: onnxruntime, openv"
    with pytest.raises(ModelError, match=said):
        open_runtime(image_proto, runtime)
    with pytest.raises(ModelError, match=r"given the path 'x\.onnx'; expected an nn\.Module"):
        open_runtime("x.onnx", runtime)


@pytest.mark.parametrize("runtime", GRAPH_RUNTIMES)
def test_a_network_on_a_graph_runtime_is_refused(runtime: str) -> None:
    with pytest.raises(ModelError, match=rf"{runtime} was given a Linear; expected an exported graph.*ship\.graph"):
        open_runtime(nn.Linear(2, 1), runtime)
    with pytest.raises(ModelError, match=r"was given an int; expected an exported graph: onnx\.ModelProto"):
        open_runtime(3, runtime)


def test_unknown_names_and_numbers_are_refused() -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(
        RecipeError, match=r"unknown runtime 'onnx-runtime'; expected one of: onnxr.*did you mean 'onnxr"
    ):
        open_runtime(net, "onnx-runtime")
    for name in ("threads", "batch"):
        with pytest.raises(RecipeError, match=f"{name} is 0; expected at least 1"):
            open_runtime(net, "pytorch", **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", QUICK)
def test_wrong_inputs_say_what_was_given(runtime: str, net: nn.Module, data: Data, image_proto: Any) -> None:
    needs(runtime)
    served = open_runtime(subject_for(runtime, net, data, image_proto), runtime)
    with pytest.raises(DimwiseError, match=r"uint8 of shape \(1, 3, 4\)"):
        served.run(np.zeros((1, 3, 4), np.uint8))
    with pytest.raises(DimwiseError, match="list"):
        served.run([1, 2])  # type: ignore[arg-type]


def test_a_network_that_cannot_be_copied_or_returns_no_tensor() -> None:
    locked = nn.Linear(2, 1)
    locked.key = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="the network cannot be copied: TypeError"):
        open_runtime(locked, "pytorch")

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, x

    with pytest.raises(ModelError, match="returns a tuple; expected one tensor"):
        open_runtime(Pair(), "pytorch").run(np.zeros((1, 2), np.float32))


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    from torch._inductor import cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(ModelError, match=r"pytorch-compiled needs a C\+\+ compiler, and none was found"):
        open_runtime(nn.Linear(2, 1), "pytorch-compiled")


def test_openvino_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, image_proto: Any) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"the runtime openvino needs openvino.*dimwise\[openvino\]"):
        open_runtime(image_proto, "openvino")


def test_what_openvino_cannot_load_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    needs("openvino")
    value = helper.make_tensor_value_info
    node = helper.make_node("Magic", ["input"], ["output"], domain="nobody.knows")
    made = helper.make_graph([node], "g", [value("input", 1, ["n", 4])], [value("output", 1, ["n", 4])])
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("nobody.knows", 1)]
    proto = helper.make_model(made, opset_imports=domains, ir_version=10)
    with pytest.raises(ArtifactError, match=r"cannot be loaded by OpenVINO 20\d\d\.\d.*Magic") as caught:
        open_runtime(proto, "openvino")
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        open_runtime(b"garbage", "openvino")
    two = onnx.ModelProto()
    two.CopyFrom(proto)
    two.graph.node[0].CopyFrom(helper.make_node("Relu", ["input"], ["output"]))
    two.graph.output.append(value("input", 1, ["n", 4]))
    with pytest.raises(ArtifactError, match="1 inputs and 2 outputs; expected one of each"):
        open_runtime(two, "openvino")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Exception from a.cpp:1:\nCheck 'false' failed at b.cpp:2:\nSummary:\n-- No rule for: Magic\nSee x",
            "No rule",
        ),
        ("Exception from a.cpp:1:\n\nUnable to read the model.\n", "Unable to read"),
        ("Exception from a.cpp:1:", "Exception from a"),
        ("", "RuntimeError"),
    ],
)
def test_the_line_that_matters_is_found(text: str, told: str) -> None:
    from dimwise.ship.runtimes.openvino import _reason

    assert _reason(RuntimeError(text)).startswith(told)


@pytest.mark.parametrize("able", [True, False])
def test_openvino_computes_in_bf16_where_graph_and_processor_allow(
    able: bool, monkeypatch: pytest.MonkeyPatch, data: Data, image_proto: Any
) -> None:
    needs("openvino")
    from dimwise.ship.runtimes import openvino as room

    class Able:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "BF16"] if able else ["FP32"]

    half, _ = cast(image_proto, CastConfig(dtype="bf16", arithmetic=True), evidence(data, score=lambda _: 1.0))
    inputs, core = data.test.inputs[:9].numpy(), room._core()
    asked: list[str] = []

    def compile_model(model: Any, threads: int, precision: str) -> Any:
        asked.append(precision)
        return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()

    monkeypatch.setattr(room, "_core", Able)
    assert room._precision(core.read_model(model=half.SerializeToString())) == ("bf16" if able else "f32")
    assert room._precision(core.read_model(model=image_proto.SerializeToString())) == "f32"
    monkeypatch.setattr(room, "_core", lambda: core)
    monkeypatch.setattr(room, "_precision", lambda _: "bf16" if able else "f32")
    monkeypatch.setattr(room, "_compile", compile_model)
    served = open_runtime(half, "openvino")
    exact = open_runtime(image_proto, "onnxruntime").run(inputs)
    for rows in (inputs[:1], inputs):  # of the batch it is specialised to, and of another
        assert np.abs(served.run(rows) - exact[: len(rows)]).max() < 0.05 * np.abs(exact).max()
    assert asked == 2 * ["bf16" if able else "f32"]


_CTRL_C = """
import signal, sys
import numpy as np, onnx
from dimwise.ship import open_runtime

content = onnx.load(sys.argv[1])
for _ in range(2):  # two graphs, closed in the order they were opened
    first, second = open_runtime(content, "openvino"), open_runtime(content, "openvino")
    del first, second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_after_openvino_reaches_python(image_proto: Any, tmp_path: Path) -> None:
    needs("openvino")
    onnx.save(image_proto, tmp_path / "net.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _CTRL_C, str(tmp_path / "net.onnx")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
