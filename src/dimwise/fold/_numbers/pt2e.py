"""Int8 for PyTorch itself: a network quantized by torchao's PT2E for x86, to be run by ``torch.compile``.

This is no fold of the table: what comes back can be run by this PyTorch on this kind of processor and nowhere else,
it cannot be exported to ONNX, and compiling takes many seconds in each process. Uncompiled it is slower than float;
compiled and frozen, a ResNet-20 was measured faster than the compiled float network at batch 1 on an AVX512-VNNI
processor, and slower than in int8 on onnxruntime. On one with AVX2 alone torch 2.13 cannot freeze it (it stops at
``onednn.qconv_prepack``), and unfrozen it was slower than float. To serve, use ``quantize``.

Source: the PT2E documentation of torchao 0.18, X86InductorQuantizer.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from importlib import import_module

import torch
from torch import Tensor, nn

from dimwise.errors import DataError, MissingExtra, UserError, a_kind
from dimwise.fold._channels.trace import exported
from dimwise.fold._evidence import Evidence
from dimwise.seeds import derive


def quantize_pytorch(model: nn.Module, evidence: Evidence, *, n_calibration: int = 256) -> nn.Module:
    """An int8 network for ``torch.compile``; ``model`` is not changed.

    Args:
        model: any network with one input that can be traced.
        evidence: training inputs to calibrate on and an example; the batch size of the example is the only one that
            the result takes.
        n_calibration: training inputs to calibrate on, drawn by seed.

    Returns:
        A module of normalised inputs that computes with rounding as it is, and in int8 once compiled with
        ``torch._inductor.config.freezing = True``.

    Raises:
        MissingExtra: without torchao.
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced.
        DataError: without training inputs.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"quantize_pytorch was given {a_kind(model)}", expected="a torch.nn.Module")
    data, example = evidence.data, evidence.example
    if not len(data.train):
        raise DataError(
            f"the training split of {data.name!r} is empty: nothing to calibrate on", expected="some hundred inputs"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pt2e = import_module("torchao.quantization.pt2e.quantize_pt2e")  # it has no types
            x86 = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        except ImportError:
            raise MissingExtra("torchao", why="int8 inside PyTorch", extra="pt2e") from None
        traced = exported(deepcopy(model).eval().cpu(), example.cpu()).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = pt2e.prepare_pt2e(traced, quantizer)
        with torch.no_grad():
            for batch in _batches(evidence, n_calibration, len(example)):
                prepared(batch)
        made: nn.Module = pt2e.convert_pt2e(prepared)
    return made


def _batches(evidence: Evidence, n: int, size: int) -> list[Tensor]:
    """Normalised training inputs in batches of exactly ``size``."""
    data = evidence.data
    generator = torch.Generator().manual_seed(derive(evidence.seed, "calibration"))
    order = torch.randperm(len(data.train), generator=generator)[:n]
    parts = [part for part in order.split(size) if len(part) == size]
    return [data.normalise(data.train.inputs[part.to(data.train.inputs.device)]).cpu() for part in parts]
