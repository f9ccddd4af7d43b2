"""Tables of words in int8: as small in memory as in the file, one scale a row, multiplied out for what is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dimwise import fold
from dimwise.fold import _onnx
from dimwise.fold._numbers import int8
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.fold.share import ShareConfig, share

N_WORDS, WIDTH = 200, 32


@pytest.fixture
def texts(evidence: fold.Evidence) -> fold.Evidence:
    """Evidence whose training inputs are words."""
    words = torch.from_numpy(np.random.default_rng(0).integers(0, N_WORDS, (40, 7)))
    train = replace(evidence.data.train, inputs=words, targets=evidence.data.train.targets[:40])
    return replace(evidence, data=replace(evidence.data, train=train), score=lambda _: 1.0)


def tagger(proto, *, tied: bool = False) -> onnx.ModelProto:
    """Words to scores: their rows, their mean, one product; rows differ in size a hundredfold."""
    rng = np.random.default_rng(1)
    sizes = np.geomspace(0.1, 10, N_WORDS)[:, None]
    table = (rng.standard_normal((N_WORDS, WIDTH)) * sizes).astype(np.float32)
    table[3] = 0  # what a padding word has
    constants = {"table": table, "axes": np.array([1])}
    if tied:
        nodes = [helper.make_node("Transpose", ["table"], ["back"], "turn", perm=[1, 0])]
    else:
        nodes, constants["back"] = [], rng.standard_normal((WIDTH, 40)).astype(np.float32)
    nodes += [
        helper.make_node("Gather", ["table", "input"], ["rows"], "words"),
        helper.make_node("ReduceMean", ["rows", "axes"], ["mean"], "mean", keepdims=0),
        helper.make_node("MatMul", ["mean", "back"], ["output"], "scores"),
    ]
    return proto(nodes, constants, (TensorProto.INT64, ["N", 7]), ["N", N_WORDS if tied else 40])


def outputs(model: onnx.ModelProto, words: np.ndarray) -> np.ndarray:
    return _onnx.session(model).run(None, {"input": words})[0]


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_a_table_is_a_quarter_of_its_size(proto, texts, mode):
    model = tagger(proto)
    made, report = quantize(model, QuantizeConfig(mode=mode), texts)
    assert len(made.SerializeToString()) < 0.4 * len(model.SerializeToString())
    assert report.cost_before["params"] == report.cost_after["params"] == N_WORDS * WIDTH + WIDTH * 40
    words = np.random.default_rng(2).integers(0, N_WORDS, (30, 7))
    want, got = outputs(model, words), outputs(made, words)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    row = next(row for row in report.layers if row["name"] == "words")
    assert row == {"name": "words", "op": "Gather", "bits": 8, "weights": [N_WORDS, WIDTH], "scales": N_WORDS}


@pytest.mark.parametrize("per_channel", [True, False])
def test_each_row_comes_back_to_half_a_step(proto, texts, per_channel):
    table = numpy_helper.to_array(next(t for t in tagger(proto).graph.initializer if t.name == "table"))
    nodes = [helper.make_node("Gather", ["table", "input"], ["output"], "words")]
    model = proto(nodes, {"table": table}, (TensorProto.INT64, ["N", 7]), ["N", 7, WIDTH])
    made, _ = quantize(model, QuantizeConfig(mode="weights", per_channel=per_channel), texts)
    words = np.arange(N_WORDS - N_WORDS % 7).reshape(-1, 7)
    got = outputs(made, words).reshape(-1, WIDTH)
    step = np.abs(table).max(1 if per_channel else None, keepdims=True) / 127
    assert (np.abs(got - table[: len(got)]) <= 0.5001 * step[: len(got)]).all()
    assert (got[3] == 0).all()


def test_a_table_stays_small_in_memory(proto, texts, tmp_path):
    """What onnxruntime keeps after all that it can work out beforehand: no float table."""
    made, _ = quantize(tagger(proto), QuantizeConfig(mode="weights"), texts)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kept = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    large = {t.data_type for t in kept if np.prod(t.dims) == N_WORDS * WIDTH}
    assert large == {TensorProto.INT8}


def test_a_table_that_is_also_the_last_layer_serves_both(proto, texts):
    model = tagger(proto, tied=True)
    made, _ = quantize(model, QuantizeConfig(mode="weights"), texts)
    words = np.random.default_rng(2).integers(0, N_WORDS, (30, 7))
    want, got = outputs(model, words), outputs(made, words)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_a_table_named_in_skip_stays_float(proto, texts):
    made, report = quantize(tagger(proto), QuantizeConfig(mode="weights", skip=("words",)), texts)
    assert report.untouched["words"] == "named in quantize.skip"
    assert any(t.data_type == TensorProto.FLOAT and t.dims[0] == N_WORDS for t in made.graph.initializer)


def test_only_reads_along_the_first_axis_are_rows():
    node = helper.make_node("Gather", ["table", "input"], ["output"], "words")
    assert int8.reads_rows(node)
    assert not int8.reads_rows(helper.make_node("Gather", ["table", "input"], ["output"], "words", axis=1))
    assert not int8.reads_rows(helper.make_node("GatherND", ["table", "input"], ["output"], "words"))


def test_four_bit_places_halve_the_table_again(proto, texts):
    made, _ = quantize(tagger(proto), QuantizeConfig(mode="weights"), texts)
    shared, report = share(made, ShareConfig(bits=4), texts)
    assert len(shared.SerializeToString()) < 0.7 * len(made.SerializeToString())
    assert report.layers[0]["op"] == "Gather"
    words = np.random.default_rng(2).integers(0, N_WORDS, (30, 7))
    want, got = outputs(made, words), outputs(shared, words)
    assert np.abs(got - want).max() < 0.3 * np.abs(want).max()
