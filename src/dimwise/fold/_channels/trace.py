"""From a plain module and one input to its channels: export the graph, walk over it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import replace
from io import StringIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from dimwise.errors import ModelError
from dimwise.fold._channels.cut import disagreement
from dimwise.fold._channels.flow import Flow, Value
from dimwise.fold._channels.groups import Channels
from dimwise.fold._channels.rules import OF_GRIDS, RULES


def trace(model: nn.Module, example: Tensor) -> Channels:
    """Find which channels of ``model`` can leave, and together with which.

    Args:
        model: any module with one input; not changed.
        example: (N, ...) an input; N ≥ 2 keeps the batch apart from dimensions of size one.

    Raises:
        ModelError: when the forward pass cannot be traced.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 2))
        >>> found = trace(net, torch.zeros(2, 3, 4, 4))
        >>> [(g.name, len(g.classes)) for g in found.groups], found.untouched
        ([('0', 8)], {'3': "they are the network's outputs"})
        >>> found.macs(found.all_alive())  # 2 · 2 positions · 8 · 3 · 3 · 3 + 32 · 2
        928.0
    """
    quiet = deepcopy(model).eval()
    program = exported(quiet, example)
    program.graph.eliminate_dead_code()  # what nobody reads, such as averaged attention weights, ties nothing
    specs = program.graph_signature.input_specs
    holders = [n for n in program.graph.nodes if n.op == "placeholder"]
    flow = Flow(RULES, model, n_inputs=len(example), of_grids=OF_GRIDS)
    inputs = []
    for spec, node in zip(specs, holders, strict=True):
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        ours = spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
        inputs.append(Value(shape, tensor=spec.target if ours else None))
    outputs = flow.walk(program.graph, inputs)
    for output in outputs:
        if isinstance(output, Value):
            flow.fix(output, "they are the network's outputs")
    channels = flow.channels()
    if channels.sites and _names_sizes(quiet, channels, example):
        return replace(channels, rewrites=True)
    return channels


def _names_sizes(model: nn.Module, channels: Channels, example: Tensor) -> bool:
    """Whether a network with half of each group gone fails unless the calls that name sizes are given other ones."""
    alive = channels.all_alive()
    for group in channels.groups:
        alive[group.classes[(len(group.classes) + 1) // 2 :]] = False
    return disagreement(model, channels, alive, example) is not None


def exported(model: nn.Module, example: Tensor, *, any_batch: bool = False) -> ExportedProgram:
    """The graph of ``model`` in ATen operators, as ``torch.export`` gives it; of any batch size when that is asked.

    The plain trace first; where Python gets in its way (NumPy, ``.item()``), the one that reads bytecode.

    Raises:
        ModelError: when neither succeeds.
    """
    problems = []
    sizes = ({0: torch.export.Dim("batch")},) if any_batch else None
    example = torch.cat([example, example]) if any_batch else example  # a batch of one would be taken for a constant
    with quiet(), torch.no_grad():
        for strict in (False, True):
            try:
                return torch.export.export(model, (example,), strict=strict, dynamic_shapes=sizes)
            except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
                problems.append(error)
    first = str(problems[0]).strip().splitlines() or [""]
    raise ModelError(
        f"{type(model).__name__} cannot be traced: {type(problems[0]).__name__}: {first[0][:200]}",
        expected="a forward pass without branches or loops that depend on the data",
        next_step="Without tracing it can still be distilled into a network of the table: distill(student=NAME).",
    ) from problems[0]


@contextmanager
def quiet() -> Iterator[None]:
    """PyTorch's own warnings and dumps (the tracer prints the half-made graph) are no news to who asked for less."""
    loggers = [logging.getLogger(name) for name in ("torch", "torchao")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
