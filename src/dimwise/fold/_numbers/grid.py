"""A network that computes as its int8 graph will, while its weights stay float and can be trained.

Nothing is put into the network: while the wrapper runs it, a ``TorchFunctionMode`` rounds what flows into each
convolution, dense layer, addition, product, concatenation and mean pooling, and the weights of the former two. The same
numbers are rounded as in the exported graph: there a convolution takes in the activation that follows it, so tensors
are rounded where they are read, not where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dimwise.errors import ModelError

_LAYERS = frozenset(["conv1d", "conv2d", "conv3d", "linear"])
_IN_PLACE = frozenset(["__iadd__", "add_", "__imul__", "mul_"])
_JOINS = frozenset(["add", "__add__", "__radd__", "mul", "__mul__", "__rmul__"]) | _IN_PLACE
_POOLS = frozenset(["avg_pool2d", "adaptive_avg_pool2d", "avg_pool1d", "adaptive_avg_pool1d"])
_LISTS = frozenset(["cat", "concat", "concatenate"])


def rounded_weight(weight: Tensor, *, largest: int = 127) -> Tensor:
    """Weights (K, ...) on the grid of symmetric int8 with one scale per output channel; gradients pass through.

    s_k = max |w_k| / 127, as in :func:`dimwise.fold._numbers.int8.round_weights`.

    Args:
        weight: (K, ...).
        largest: the integer that max |w_k| becomes; 64 for weights of 7 bits.

    Example:
        >>> rounded_weight(torch.tensor([[127.0, 0.4, 1.6]]))
        tensor([[127., 0., 2.]])
    """
    top = weight.detach().flatten(1).abs().amax(1).float()  # (K,)
    scale = torch.where(top > 0, top / largest, 1.0)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -largest, largest)


def rounded(x: Tensor, low: float, high: float) -> Tensor:
    """Activations on 256 steps over [low, high]; what is outside is clipped and gets no gradient.

    Args:
        x: any shape.
        low: at most 0.
        high: at least 0.

    Example:
        >>> rounded(torch.tensor([0.0, 0.3, 2.6, 300.0]), 0.0, 255.0)
        tensor([  0.,   0.,   3., 255.])
    """
    scale = max(high - low, 1e-12) / 255
    zero = min(max(round(-low / scale), 0), 255)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255)


class Rounded(nn.Module):
    """Runs ``network`` as int8 would. In training mode ranges follow the batches; in evaluation mode they stay.

    Args:
        network: in the form that is exported, its norms folded.
        momentum: share of a range that stays from batch to batch, in [0, 1).
        largest: the integer that the largest weight of a channel becomes.
    """

    def __init__(self, network: nn.Module, *, momentum: float = 0.99, largest: int = 127) -> None:
        super().__init__()
        self.network = network
        self.largest = largest
        self.momentum = momentum
        self.widening = False
        """While true, nothing is rounded and ranges take in the extremes of what they see, as calibration does."""
        self.sites: list[tuple[str, float, float]] = []
        """(function, low, high) of each rounded tensor, in the order of the forward pass."""
        self.inputs: dict[str, tuple[float, float]] = {}
        """Weight -> range of what its layer takes in."""

    def forward(self, x: Tensor) -> Any:
        """What the network returns, on the grid."""
        names = {id(p): name for name, p in self.network.named_parameters()}
        with _Rounding(self, names):
            return self.network(x)

    def range_of(self, site: int, where: str, x: Tensor) -> tuple[float, float]:
        """The range of the tensor at this place of the forward pass, after it took notice of ``x``."""
        new = site == len(self.sites)
        if not new and self.sites[site][0] != where:
            raise ModelError(
                f"{type(self.network).__name__} takes another way for another input: {where} instead of "
                f"{self.sites[site][0]}",
                expected="a forward pass of the same operations each time",
            )
        if not (new or self.training or self.widening):
            return self.sites[site][1:]
        seen = x.detach()
        least, most = (float(edge) for edge in seen.aminmax())
        low, high = min(least, 0.0), max(most, 0.0)
        if not (isfinite(least) and isfinite(most)):  # min() and max() forget a NaN, or do not, by its place
            raise ModelError(
                f"what goes into {where} number {site + 1} of the forward pass is not finite, so that it has no range",
                expected="finite inputs and weights",
                next_step="Look at the data and the network's weights; if training began well, lower qat.lr_frac.",
            )
        if new:
            self.sites.append((where, low, high))
        elif self.widening:
            self.sites[site] = (where, min(low, self.sites[site][1]), max(high, self.sites[site][2]))
        else:
            a, (_, old_low, old_high) = self.momentum, self.sites[site]
            self.sites[site] = (where, a * old_low + (1 - a) * low, a * old_high + (1 - a) * high)
        return self.sites[site][1:]


class _Rounding(TorchFunctionMode):
    """One forward pass: which tensors were rounded already, and how many places were passed."""

    def __init__(self, whole: Rounded, names: dict[int, str]) -> None:
        super().__init__()
        self.whole, self.names = whole, names
        self.n_sites = 0
        self.known: dict[tuple[int, int], tuple[Tensor, Tensor, tuple[float, float]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _LAYERS and len(args) > 1:
            x = self._low(args[0], name)
            return func(x, self._weight(args[0], args[1]), *args[2:], **kwargs)
        if name in _JOINS and len(args) == 2 and all(self._flows(a) for a in args) and not kwargs:
            plain = torch.mul if "mul" in name else torch.add
            joined = plain(*(self._low(a, name) for a in args))  # out of place: what is rounded is a copy
            return args[0].copy_(joined) if name in _IN_PLACE else joined
        if name in _POOLS and self._flows(args[0]):
            return func(self._low(args[0], name), *args[1:], **kwargs)
        if name in _LISTS and args and all(self._flows(a) for a in args[0]):
            return func([self._low(a, name) for a in args[0]], *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _flows(self, x: Any) -> bool:
        """Whether this is an activation, not a number, an index, or a parameter of the network."""
        return isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1 and id(x) not in self.names

    def _low(self, x: Tensor, where: str) -> Tensor:
        key = (id(x), x._version)
        if key not in self.known:
            bounds = self.whole.range_of(self.n_sites, where, x)
            self.n_sites += 1
            low = x if self.whole.widening else rounded(x, *bounds)
            self.known[key] = (x, low, bounds)  # x is held, so that its id stays its own
        return self.known[key][1]

    def _weight(self, x: Tensor, weight: Tensor) -> Tensor:
        name = self.names.get(id(weight))
        if name is None:
            return weight
        self.whole.inputs[name] = self.known[id(x), x._version][2]
        return weight if self.whole.widening else rounded_weight(weight, largest=self.whole.largest)
