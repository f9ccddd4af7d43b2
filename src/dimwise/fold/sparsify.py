"""Sparsity: single weights become zero, and the file compresses; tensors keep their shapes.

Idea: most weights of a trained network are small, and a network trained on without them hardly misses them. Unlike
``prune``, which removes whole channels, nothing has to leave together, so far more can go.

Mathematics: mask m_i = 1 for the largest |w_i|, else 0: of the network (``global``), of each layer (``layer``), or the
two largest of every four neighbours along the input channels (``2:4``). In ``rounds`` the share of zeros grows as
s (1 − (1 − r/R)³). Fine-tuning sees m ∘ w only. n weights with a share s of zeros hold some n (32 (1 − s) + H(s)) bits,
H the entropy of the mask: at s = 0.8 a quarter, and ``deflate`` comes near it.

Use when: the file is sent or stored compressed (a download, a package, flash with an unpacker), or the target has
kernels for 2:4 (NVIDIA's tensor cores since Ampere). Before quantizing: zeros stay zeros, and int8 compresses better
still.

Cost: a sort of the weights; ``epochs`` of fine-tuning.

Pitfalls: **no time and no memory are saved on runtimes that compute densely**, and PyTorch, onnxruntime and OpenVINO
on a CPU all do: a zero is multiplied like any other number. The plain file is as large as before. Whoever wants speed
prunes channels. ``global`` may empty a layer whose weights are small: look at the rows of the report.

Source: Han, Pool, Tran, Dally 2015, arXiv:1506.02626 (magnitude, fine-tuning under the mask); Zhu, Gupta 2017,
arXiv:1710.01878 (cubic growth); Mishra et al. 2021, arXiv:2104.08378 (2:4).

Evidence: tests/fold/test_sparsify.py (which weights go, that they stay at zero, what the file takes).
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from dimwise.errors import ModelError
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import require_known, working_copy
from dimwise.fold._tune import recover
from dimwise.recipe import config
from dimwise.tasks import Task
from dimwise.train.loop import StepFunction

WORDS: dict[str, dict[str, Any]] = {"semi": {"pattern": "2:4"}}
"""Bare words of the composition language."""

NO_TIME = (
    "no time is saved: runtimes that compute densely, as PyTorch, onnxruntime and OpenVINO do on a CPU, multiply zeros "
    "like other numbers; prune removes whole channels"
)


@config
class SparsifyConfig:
    """Which weights become zero."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the weights that become zero; 2:4 always takes a half. Default: eight tenths, which fine-tuning usually
    makes good, and which compresses to about a quarter."""
    pattern: Literal["global", "layer", "2:4"] = "global"
    """global: the smallest of the network; layer: the same share of each layer; 2:4: two of every four neighbours along
    the input channels. Default: global, which loses least."""
    skip: tuple[str, ...] = ()
    """Names of layers to leave as they are. Default: none."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Steps in which the zeros grow, each followed by its part of the fine-tuning; 2:4 takes one. Default: at once."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Epochs of fine-tuning; 0 returns the network as it was masked. Default: as for prune."""
    lr_frac: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Learning rate of fine-tuning as a fraction of the training rate. Default: as for prune."""
    teacher: bool = True
    """Fine-tune towards the original's outputs as well as the labels. Default: on; it is at hand."""


Masks = dict[str, Tensor]
"""Parameter -> (its shape) bool, True where a weight stays."""


def sparsify(model: nn.Module, config: SparsifyConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Set the smallest weights to zero and fine-tune those that are left.

    Args:
        model: any module; it is not changed.
        config: how many, in which pattern, what to do afterwards.
        evidence: training data for fine-tuning; score and cost for the report.

    Returns:
        (a new module of the same shapes in evaluation mode, the report: its costs say the compressed size too).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when no weight can be masked, or weights are not finite.

    Source: see the card.
    """
    started = time.perf_counter()
    original, _ = working_copy("sparsify", model, evidence.example, evidence.seed)
    require_known("sparsify", "skip", config.skip, model)
    sparse = deepcopy(original)
    weights, untouched = maskable(sparse, config)
    rounds = 1 if config.pattern == "2:4" else config.rounds
    found: Masks = {}
    axes = {name: _input_axis(original.get_submodule(name.rpartition(".")[0])) for name in weights}
    for n in range(rounds):
        part = 1 - (1 - (n + 1) / rounds) ** 3
        found = masks(weights, dataclasses.replace(config, sparsity=config.sparsity * part), axes)
        apply_(sparse, found)
        epochs = config.epochs * (n + 1) // rounds - config.epochs * n // rounds
        if epochs:
            sparse = _tuned(sparse, original, found, epochs, config, evidence)
        weights = {name: sparse.get_parameter(name) for name in found}
    sparse.eval()
    layers = [
        {"name": name, "weights": m.numel(), "zeros_frac": 1 - m.double().mean().item()} for name, m in found.items()
    ]
    report = compare("sparsify", config, evidence, model, sparse, layers=layers, untouched=untouched, started=started)
    costs = [
        cost | {"compressed_bytes": compressed_bytes(net)}
        for cost, net in ((report.cost_before, original), (report.cost_after, sparse))
    ]
    return sparse, dataclasses.replace(report, cost_before=costs[0], cost_after=costs[1], notes=[NO_TIME])


def maskable(model: nn.Module, config: SparsifyConfig) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """The weights that may become zero, and why others may not.

    Raises:
        ModelError: when there are none, or some are not finite.
    """
    found: dict[str, nn.Parameter] = {}
    untouched: dict[str, str] = {}
    for name, weight in model.named_parameters():
        layer, _, short = name.rpartition(".")
        if weight.dim() < 2 or "weight" not in short:
            continue
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"{name} holds numbers that are not finite",
                expected="finite weights",
                next_step="Train the network again, or look for NaN in its inputs.",
            )
        if any(layer == s or layer.startswith(f"{s}.") for s in config.skip):
            untouched[layer] = "it is named in skip"
        elif config.pattern == "2:4" and (reason := _no_fours(model.get_submodule(layer), weight)):
            untouched[layer] = reason
        else:
            found[name] = weight
    if not found:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in list(untouched.items())[:3])
        raise ModelError(
            f"{type(model).__name__} has no weight that can become zero" + (f" ({why})" if why else ""),
            expected="a convolution or a dense layer",
        )
    return found, untouched


def _input_axis(layer: nn.Module) -> int:
    """Dimension of a layer's weight along which its input channels lie: (out, in, ...), or (in, out, ...)."""
    return 0 if isinstance(layer, _ConvTransposeNd) else 1


def _no_fours(layer: nn.Module, weight: Tensor) -> str:
    """Why 2:4 cannot be had of a weight; empty when it can."""
    if isinstance(layer, _ConvTransposeNd) and layer.groups > 1:
        return "a grouped transposed convolution"
    n_inputs = weight.shape[_input_axis(layer)]
    return f"its {n_inputs} input channels do not come in fours" if n_inputs % 4 else ""


def masks(
    weights: dict[str, nn.Parameter], config: SparsifyConfig, axes: Mapping[str, int] = MappingProxyType({})
) -> Masks:
    """Which weights stay.

    Args:
        weights: parameter -> its values.
        config: how many, in which pattern.
        axes: for 2:4, parameter -> the dimension of its input channels, where that is not 1.

    Example:
        >>> layer = nn.Parameter(torch.tensor([[4.0, -1.0, 2.0, 3.0]]))
        >>> masks({"w": layer}, SparsifyConfig(sparsity=0.25))["w"]
        tensor([[ True, False,  True,  True]])
        >>> masks({"w": layer}, SparsifyConfig(pattern="2:4"))["w"]
        tensor([[ True, False, False,  True]])
    """
    sizes = {name: w.detach().abs() for name, w in weights.items()}
    if config.pattern == "2:4":
        return {name: _two_of_four(size, axes.get(name, 1)) for name, size in sizes.items()}
    if config.pattern == "layer":
        return {name: _largest(size.flatten(), config.sparsity).view_as(size) for name, size in sizes.items()}
    stay = _largest(torch.cat([size.flatten() for size in sizes.values()]), config.sparsity)
    parts = stay.split([size.numel() for size in sizes.values()])
    return {name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}


def _largest(sizes: Tensor, sparsity: float) -> Tensor:
    stay = torch.ones_like(sizes, dtype=torch.bool)
    stay[sizes.argsort(stable=True)[: round(sparsity * len(sizes))]] = False
    return stay


def _two_of_four(sizes: Tensor, axis: int) -> Tensor:
    """Of four neighbours along a dimension the two largest stay."""
    last = sizes.movedim(axis, -1)  # (..., C)
    fours = last.reshape(*last.shape[:-1], -1, 4)
    stay = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, fours.topk(2, dim=-1).indices, True)
    return stay.reshape(last.shape).movedim(-1, axis)


@torch.no_grad()
def apply_(model: nn.Module, found: Masks) -> None:
    """Set what does not stay to zero."""
    for name, mask in found.items():
        weight = model.get_parameter(name)
        weight.mul_(mask.to(weight.device))


def _tuned(
    sparse: nn.Module, original: nn.Module, found: Masks, epochs: int, config: SparsifyConfig, evidence: Evidence
) -> nn.Module:
    """Fine-tuned under the mask: whatever the optimizer did, each step begins with zeros where they belong."""
    device = next(iter(sparse.parameters())).device
    network = sparse

    def under_mask(step: StepFunction) -> StepFunction:
        def masked(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
            apply_(network, found)
            return step(model, x, y, task)

        return masked

    sparse = recover(
        sparse,
        original,
        evidence,
        fold="sparsify",
        epochs=epochs,
        lr_frac=config.lr_frac,
        teacher=config.teacher,
        around=under_mask,
    ).to(device)
    apply_(sparse, found)
    return sparse


def compressed_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers after ``deflate``, what zip and HTTP use.

    Example:
        >>> layer = nn.Linear(100, 100)
        >>> whole = compressed_bytes(layer)
        >>> layer.weight.data[:50] = 0
        >>> compressed_bytes(layer) < 0.6 * whole
        True
    """
    packer, n = zlib.compressobj(6), 0
    for tensor in model.state_dict().values():
        n += len(packer.compress(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()))
    return n + len(packer.flush())
