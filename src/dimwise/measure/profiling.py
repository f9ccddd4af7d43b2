"""What each layer takes: parameters, multiply-accumulates, bytes of output.

Counted are convolutions, matrix products and attention (2 FLOPs a MAC); additions, norms and activations are not,
as is usual. Counting runs the network on shapes alone (the meta device), so that a large one takes no longer
than a small one; a network with steps that need values is run for real, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dimwise.errors import ModelError
from dimwise.measure._state import evaluating, on_meta, tensors_in


@dataclass(frozen=True)
class Row:
    """One layer, for the whole batch of the example."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    """Of its first tensor, with the batch dimension; () when the layer did not run."""
    output_shape: tuple[int, ...]
    params: int
    """Its own parameters; those shared with an earlier row are counted there."""
    macs: int
    """Multiply-accumulates of all its calls, without those of the rows inside it."""
    activation_bytes: int
    """Bytes of new output; 0 for views such as Flatten."""
    calls: int


@dataclass(frozen=True)
class Profile:
    """A network layer by layer, in the order of its definition, and the totals."""

    rows: tuple[Row, ...]
    params: int
    macs: int
    activation_bytes: int
    """Sum over layers: about what a training step keeps for its backward pass; see ``peak_memory`` for a peak."""

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs

    def table(self) -> list[list[str]]:
        """Header, one line a layer, and the totals, as text."""
        lines = [["layer", "kind", "input", "output", "parameters", "MACs", "activation bytes"]]
        for r in self.rows:
            numbers = [f"{n:,}" for n in (r.params, r.macs, r.activation_bytes)]
            lines.append([r.name, r.kind, _shape(r.input_shape), _shape(r.output_shape), *numbers])
        totals = [f"{n:,}" for n in (self.params, self.macs, self.activation_bytes)]
        return [*lines, ["total", "", "", "", *totals]]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def profile(model: nn.Module, example: Tensor) -> Profile:
    """Count what each layer takes for one example batch.

    A layer is a module without children, or one with parameters or products of its own, such as attention.

    Args:
        model: is left as it was.
        example: (B, ...) input of the network; the counts are for its B inputs.

    Raises:
        ModelError: when the network cannot take the example.

    Example:
        >>> counted = profile(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.zeros(1, 8))
        >>> counted.params, counted.macs, counted.activation_bytes
        (36, 32, 32)
    """
    try:
        return _profile(on_meta(model), example.to("meta"))
    except (RuntimeError, TypeError, ValueError, IndexError):
        pass  # something in it needs values, or cannot be copied
    try:
        return _profile(model, example)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"the network cannot take input of shape {tuple(example.shape)}: {str(error).splitlines()[0]}"
        ) from error


@dataclass
class _Count:
    """What the hooks write down about one module."""

    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    macs: int = 0
    activation_bytes: int = 0
    calls: int = 0


@dataclass
class _Counter:
    """Hooks that charge products to the innermost module that runs."""

    flops: FlopCounterMode
    counts: dict[nn.Module, _Count] = field(default_factory=dict)
    stack: list[list[int]] = field(default_factory=list)
    """For each running module: FLOPs when it began, FLOPs of the modules inside it."""

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.stack.append([self.flops.get_total_flops(), 0])

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        began, inside = self.stack.pop()
        spent = self.flops.get_total_flops() - began
        if self.stack:
            self.stack[-1][1] += spent
        inputs, outputs = list(tensors_in((args, kwargs))), list(tensors_in(output))
        count = self.counts.setdefault(module, _Count())
        count.input_shape = tuple(inputs[0].shape) if inputs else ()
        count.output_shape = tuple(outputs[0].shape) if outputs else ()
        count.macs += (spent - inside) // 2
        known = {t.untyped_storage()._cdata for t in inputs}
        count.activation_bytes += sum(
            t.numel() * t.element_size() for t in outputs if t.untyped_storage()._cdata not in known
        )
        count.calls += 1


def _profile(model: nn.Module, example: Tensor) -> Profile:
    # PyTorch's own table lacks attention on the CPU
    more = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    counter = _Counter(FlopCounterMode(display=False, custom_mapping=more))
    handles = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(counter.before, with_kwargs=True))
            handles.append(module.register_forward_hook(counter.after, with_kwargs=True))
        with evaluating(model), _no_fused_attention(), counter.flops:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    rows = tuple(_rows(model, counter.counts))
    return Profile(
        rows,
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
    )


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **others: Any) -> int:
    return sdpa_flop_count(query, key, value)


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    """nn.MultiheadAttention's fast path is one operator that nobody can count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _rows(model: nn.Module, counts: dict[nn.Module, _Count]) -> Iterator[Row]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen |= {id(p) for p in own}
        count = counts.get(module, _Count())
        leaf = not list(module.children())
        if not (own or count.macs or (leaf and count.calls)):
            continue
        yield Row(
            name=name or "model",
            kind=type(module).__name__,
            input_shape=count.input_shape,
            output_shape=count.output_shape,
            params=sum(p.numel() for p in own),
            macs=count.macs,
            # what a module with children returns was made, and counted, inside
            activation_bytes=count.activation_bytes if leaf or count.macs else 0,
            calls=count.calls,
        )
