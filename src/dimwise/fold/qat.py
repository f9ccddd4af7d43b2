"""Quantization-aware training: the network is fine-tuned on the grid on which int8 will compute.

Idea: rounding after training moves every weight and activation a little, and the network was never told. Trained
for some epochs with the rounding in its forward pass, it finds weights that stay good when rounded.

Mathematics: forward with Q(w) = s_c · clip(round(w / s_c), −127, 127), s_c = max |w_c| / 127 per output channel, and
Q(x) = s · (clip(round(x / s) + z, 0, 255) − z), s = (high − low) / 255, per tensor. Backward as if Q were the identity
inside its range and constant outside (straight-through). Ranges of activations follow the batches, low ← m · low +
(1 − m) · min x. Norms are folded into the layers before, as the exported graph has them.

Use when: the score after ``quantize`` stays too low although its repair was tried, or layers kept float cost too much
time. Then: ``qat quantize(int8)``.

Cost: ``epochs`` of training at about twice the time of a step. Nothing at inference: a plain float network comes back.

Pitfalls: norms are folded, so large learning rates diverge: keep ``lr_frac`` small. Attention inside
``nn.MultiheadAttention`` trains in float. Gains nothing where int8 already keeps the score.

Source: Jacob et al. 2018, arXiv:1712.05877, section 3; Bengio, Léonard, Courville 2013, arXiv:1308.3432 (straight
through); Krishnamoorthi 2018, arXiv:1806.08342, section 4. Deviation: norms are folded before instead of during
training, and the original network teaches.

Evidence: tests/fold/test_qat.py (the grid against the exported graph's outputs; int8 of a net that rounding hurts).
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import DataError
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import working_copy
from dimwise.fold._numbers.grid import Rounded
from dimwise.fold._tune import recover
from dimwise.fold.fuse import find, folded_as_meant
from dimwise.measure import evaluating
from dimwise.ort import int8_products_saturate
from dimwise.recipe import config
from dimwise.seeds import derive


@config
class QatConfig:
    """How a network is trained on the grid of int8."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training split. Default: 3; weights have only half a step to go."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Learning rate as a fraction of the training rate. Default: 0.05, since the norms are folded."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of a range that stays from batch to batch. Default: 0.99, the memory of a hundred batches."""
    teacher: bool = True
    """Learn from the float network's outputs as well as the labels, as distill does. Default: on; it is at hand."""
    n_calibration: Annotated[int, Field(ge=1)] = 256
    """Training inputs whose ranges the training starts from. Default: as in quantize."""
    reduce_range: bool | None = None
    """7-bit weights. Default: as in quantize, where this processor's sums of uint8 × int8 products saturate."""


def qat(model: nn.Module, config: QatConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Fine-tune ``model`` with rounding in the forward pass; ``model`` is not changed.

    Args:
        model: any trained network with one input that can be traced, or that has no norms.
        config: how long, how gently.
        evidence: training data, and how the network was trained.

    Returns:
        (a plain float network in evaluation mode with its norms folded, the report). The score of each on the grid is
        under ``tried``; when training did not raise it, the network comes back with folded norms and nothing else.

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced, or takes another way for another input.
        DataError: without training inputs.
        NonFiniteLoss: as in training.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("qat", model, evidence.example, evidence.seed)
    if not len(evidence.data.train):
        raise DataError(
            f"the training split of {evidence.data.name!r} is empty: nothing to train on",
            expected="some hundred inputs",
            next_step="Give data, or quantize without qat.",
        )
    norms, untouched = find(original, x)
    start = folded_as_meant(original, norms, x, untouched)
    seven_bits = int8_products_saturate() if config.reduce_range is None else config.reduce_range
    whole = Rounded(deepcopy(start), momentum=config.momentum, largest=64 if seven_bits else 127)
    _calibrate(whole, config, evidence)
    before = evidence.score(whole.eval())
    told = replace(evidence, train=replace(evidence.train, precision="fp32", compile="no"))
    trained = recover(
        whole, original, told, fold="qat", epochs=config.epochs, lr_frac=config.lr_frac, teacher=config.teacher
    )
    assert isinstance(trained, Rounded)
    after = evidence.score(trained.to(x.device).eval())
    better = after >= before
    made = (trained.network if better else start).eval()
    layers, left = _rows(made, trained)
    if not better:
        left["(the network)"] = f"training did not help: {after:.4f} on the grid, {before:.4f} before"
    tried = [
        {"what": "on the grid before training", "score": before, "chosen": not better},
        {"what": f"on the grid after {config.epochs} epochs", "score": after, "chosen": better},
    ]
    report = compare(
        "qat", config, evidence, model, made, layers=layers, untouched=untouched | left, started=started, tried=tried
    )
    return made, report


def _calibrate(whole: Rounded, config: QatConfig, evidence: Evidence) -> None:
    """Ranges of all activations from training inputs."""
    data = evidence.data
    generator = torch.Generator().manual_seed(derive(evidence.seed, "qat", "calibration"))
    rows = torch.randperm(len(data.train), generator=generator)[: config.n_calibration]
    device = next((p.device for p in whole.parameters()), torch.device("cpu"))
    whole.widening = True
    with evaluating(whole):
        for part in rows.split(64):
            inputs: Tensor = data.train.inputs[part.to(data.train.inputs.device)]
            whole(data.normalise(inputs).to(device))
    whole.widening = False


def _rows(network: nn.Module, whole: Rounded) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The layers trained on the grid with the ranges of their inputs, and those that were not."""
    rows, left = [], {}
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            continue
        layer = name.rpartition(".")[0] or name
        if name in whole.inputs:
            low, high = whole.inputs[name]
            rows.append({"name": layer, "bits": 8, "input_low": low, "input_high": high})
        else:
            left[layer] = "trained in float: it is no plain convolution or dense layer in the forward pass"
    return rows, left
