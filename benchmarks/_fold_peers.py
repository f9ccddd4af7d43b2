"""What other tools make of the same trained network with their defaults, as ONNX files for the same runtime."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dimwise import fold, ship
from dimwise.fold import Evidence
from dimwise.fold._tune import recover
from dimwise.measure import profile

N_CALIBRATION = 300

Peer = Callable[[nn.Module, Evidence], bytes]
"""``peer(trained network, evidence) -> bytes of an ONNX file``."""


def exported(model: nn.Module, evidence: Evidence) -> Any:
    """The network as a graph from raw inputs."""
    data = evidence.data
    return ship.graph(model, data.normalise, data.train.inputs[:1])


def calibration(evidence: Evidence) -> list[Any]:
    """The same training inputs for every tool, one at a time."""
    inputs = evidence.data.train.inputs[:N_CALIBRATION].numpy()
    return [inputs[i : i + 1] for i in range(len(inputs))]


def onnxruntime_static(model: nn.Module, evidence: Evidence) -> bytes:
    """``quantize_static`` after ``quant_pre_process``, as onnxruntime's documentation has it."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    proto = exported(model, evidence)
    name, waiting = proto.graph.input[0].name, iter(calibration(evidence))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            found = next(waiting, None)
            return None if found is None else {name: found}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        whole, ready, made = (Path(folder) / f"{n}.onnx" for n in ("whole", "ready", "made"))
        onnx.save(proto, whole)
        quant_pre_process(whole, ready)
        quantize_static(ready, made, Reader())
        return made.read_bytes()


def nncf_quantize(model: nn.Module, evidence: Evidence) -> bytes:
    """``nncf.quantize`` on the exported graph."""
    import nncf

    proto = exported(model, evidence)
    name = proto.graph.input[0].name
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = nncf.quantize(proto, nncf.Dataset(calibration(evidence), lambda x: {name: x}), subset_size=N_CALIBRATION)
    content: bytes = made.SerializeToString()
    return content


def torch_pruning(macs: float, epochs: int) -> Peer:
    """Magnitude pruning of torch-pruning to a share of the operations, then ``epochs`` of plain fine-tuning."""

    def made(model: nn.Module, evidence: Evidence) -> bytes:
        small = pruned_by_torch_pruning(model, evidence.example, macs)
        small = recover(small, model, evidence, fold="peer", epochs=epochs, lr_frac=0.5, teacher=False)
        return bytes(exported(small.cpu().eval(), evidence).SerializeToString())

    return made


def pruned_by_torch_pruning(model: nn.Module, example: torch.Tensor, macs: float) -> nn.Module:
    """The network with the largest ratio of channels left whose operations are at most ``macs`` of the whole."""
    import torch_pruning as tp

    whole = profile(model, example).macs
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    low, high, best = 0.0, 0.95, None
    for _ in range(8):
        ratio, small = (low + high) / 2, deepcopy(model).eval()
        tp.pruner.MagnitudePruner(
            small,
            example,
            importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=heads,
            round_to=8,
        ).step()
        if profile(small, example).macs <= macs * whole:
            high, best = ratio, small
        else:
            low = ratio
    if best is None:
        raise ValueError(f"torch-pruning does not reach {macs:.0%} of the operations")
    return best


def plain_distillation(scale: float, epochs: int) -> Peer:
    """Hinton's distillation into a narrower network, nine tenths of the loss from the teacher, in float32."""

    def made(model: nn.Module, evidence: Evidence) -> bytes:
        settings = fold.DistillConfig(scale=scale, weight=0.9, standardise=False, epochs=epochs)
        return bytes(exported(fold.distill(model, settings, evidence)[0], evidence).SerializeToString())

    return made
