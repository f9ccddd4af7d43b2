"""Int8 for PyTorch itself: a network quantized by torchao's PT2E for x86, to be run by ``torch.compile``.

What comes back can be run by this PyTorch on this kind of processor and nowhere else, it cannot be exported to ONNX,
and compiling takes many seconds in each process. Uncompiled it is slower than float; compiled and frozen, a ResNet-20
was measured faster than the compiled float network at batch 1 on an AVX512-VNNI processor, and slower than in int8 on
onnxruntime. On one with AVX2 alone torch 2.13 cannot freeze it (it stops at ``onednn.qconv_prepack``), and unfrozen it
was slower than float.

Source: the PT2E documentation of torchao 0.18, X86InductorQuantizer.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.errors import MissingExtra
from dimwise.fold._channels.trace import exported, quiet
from dimwise.fold._evidence import Evidence
from dimwise.fold._numbers.calibration import calibration_inputs


class Rounded(nn.Module):
    """An exported network that computes with rounding; it has one mode, whatever is asked."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) normalised inputs -> scores."""
        scores: Tensor = self.graph(x)
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> Rounded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own graphs
            return Rounded(deepcopy(self.graph, memo))

    def train(self, mode: bool = True) -> Rounded:
        """Stay: exported graphs refuse to be asked."""
        return self


def quantize_pytorch(model: nn.Module, evidence: Evidence, *, n_calibration: int = 256) -> Rounded:
    """An int8 network for ``torch.compile``; ``model`` is not changed.

    Args:
        model: any network with one input that can be traced for any batch size.
        evidence: training inputs to calibrate on and an example.
        n_calibration: training inputs to calibrate on, drawn by seed.

    Returns:
        A module of normalised inputs that computes with rounding as it is, and in int8 once compiled with
        ``torch._inductor.config.freezing = True``, as the runtime ``pytorch-compiled`` does.

    Raises:
        MissingExtra: without torchao.
        ModelError: when the network cannot be traced.
        DataError: when there is nothing to calibrate on, or it is not finite.
    """
    data, example = evidence.data, evidence.example
    inputs = torch.from_numpy(calibration_inputs(n_calibration, evidence, fold="quantize"))
    with quiet():
        try:
            pt2e = import_module("torchao.quantization.pt2e.quantize_pt2e")  # it has no types
            x86 = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        except ImportError:
            raise MissingExtra("torchao", why="int8 inside PyTorch", extra="pt2e") from None
        traced = exported(deepcopy(model).eval().cpu(), example.cpu(), any_batch=True).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = pt2e.prepare_pt2e(traced, quantizer)
        with torch.no_grad():
            for part in inputs.split(64):
                prepared(data.normalise(part.to(data.train.inputs.device)).cpu())
        made = pt2e.convert_pt2e(prepared)
    used = {str(node.target) for node in made.graph.nodes if node.op == "get_attr"}
    for name, _ in [*made.named_parameters(remove_duplicate=False), *made.named_buffers(remove_duplicate=False)]:
        if name not in used:  # the float weights are still there
            owner, _, last = name.rpartition(".")
            delattr(made.get_submodule(owner), last)
    return Rounded(made)


def rounded_layers(made: Rounded, model: nn.Module) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was quantized and what was not: a row for each layer of ``model``, and layer -> why it stays.

    A layer is quantized when what it multiplies by is an int8 constant.
    """
    graph: Any = made.graph.graph
    constants = made.graph.state_dict()
    small = set()
    for node in graph.nodes:
        if node.op == "get_attr" and constants[str(node.target)].dtype == torch.int8:
            readers = [reader for dequantize in node.users for reader in dequantize.users]
            small |= {name for reader in readers for name, _ in reader.meta.get("nn_module_stack", {}).values()}
    rows, untouched = [], {}
    for name, module in model.named_modules():
        shapes = [list(p.shape) for p in module.parameters(recurse=False) if p.dim() > 1]
        if name in small and shapes:
            rows.append({"name": name, "op": type(module).__name__, "bits": 8, "weights": shapes[0]})
        elif shapes:
            untouched[name] = "torchao's quantizer for x86 does not take it"
    return rows, untouched
