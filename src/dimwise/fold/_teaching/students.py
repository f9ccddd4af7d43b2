"""Students of the same build as any given network: fewer blocks, fewer channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError, UserError, a_kind
from dimwise.fold._channels.cut import cut, disagreement
from dimwise.fold._channels.trace import trace
from dimwise.fold._teaching.depth import shallower
from dimwise.measure import evaluating

SIDES = (32, 28, 224, 8, 16, 64, 96, 128, 256, 299, 384)
"""Of usual images, and lengths of usual sequences, the likeliest first."""
MOST_NUMBERS = 2_000_000
"""Of an example: volumes of large sides fill the memory."""


def student(
    model: nn.Module,
    scale: float,
    example: Tensor | None = None,
    *,
    depth: float = 1.0,
    inherit: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A narrower and shallower network of the same build as any given one.

    Every set of channels that belong together keeps the same share of them; every row of repeated blocks, such as a
    stage of a ResNet or the layers of a Transformer, keeps the same share of its blocks. The rest stays.

    Args:
        model: any module; to become narrower it must be one that can be traced. Not changed.
        scale: share of the channels to keep, 0 < scale <= 1; above 8, a multiple of 4.
        example: (1, ...) input of the network. Default: zeros of a shape that its first layer takes, found by trying
            usual sizes of images and texts.
        depth: share of the blocks of each row to keep, 0 < depth <= 1; at least one of them stays.
        inherit: start from the weights that the model has in what is kept, instead of fresh ones.
        seed: of the fresh weights.

    Returns:
        A new network on the device of ``example``, by default that of the model, in training mode. Parameters that
        stand alone, outside any layer, keep (part of) the values they had, as nothing says how they were drawn.

    Raises:
        UserError: when given something else than an ``nn.Module``.
        ModelError: when the network cannot be traced, none of its channels can leave, nothing in it repeats, or no
            usual input fits and no example is given.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> [p.shape[0] for p in student(net, 0.5).parameters()]
        [3, 3, 2, 2]
        >>> rows = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*(nn.Linear(6, 6) for _ in range(5))), nn.Linear(6, 2))
        >>> len(student(rows, 1, torch.zeros(1, 4), depth=0.4)[1])
        2
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"student was given {a_kind(model)}", expected="a torch.nn.Module")
    for name, value in (("scale", scale), ("depth", depth)):
        if not 0 < value <= 1:
            raise ModelError(f"the student's {name} is {value}", expected="above 0 and at most 1")
    example = example_of(model) if example is None else example
    made = shallower(model, depth, example) if depth < 1 else model
    made = narrower(made, scale, example) if scale < 1 else deepcopy(made)
    made = made.cpu().train().requires_grad_(True)
    if not inherit:
        with seeded(seed):  # on the CPU, so that every device starts from the same weights
            for module in made.modules():
                reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
                if callable(reset):
                    reset()
    return made.to(example.device)


def example_of(model: nn.Module) -> Tensor:
    """(1, ...) zeros, or tokens of one kind, that a network takes, found by trying what its first layer reads.

    Raises:
        ModelError: when none of the usual sizes fits.

    Example:
        >>> example_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 2))).shape
        torch.Size([1, 3, 28, 28])
    """
    weight = next(model.parameters(), torch.zeros(0))
    reads_tokens = any(isinstance(module, nn.Embedding) for module in model.modules())
    if not any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):  # they take the first that comes
        lengths, tried = _lengths(model), set()
        with evaluating(model):
            for shape in (shape for module in model.modules() for shape in _shapes(module, lengths)):
                if shape in tried or math.prod(shape) > MOST_NUMBERS:
                    continue
                tried.add(shape)
                for dtype in (torch.int64, weight.dtype) if reads_tokens else (weight.dtype,):
                    # Token 0 is padding: a text of nothing else may have no mean.
                    example = torch.full((1, *shape), int(reads_tokens), dtype=dtype, device=weight.device)
                    with suppress(Exception):  # a network that does not fit may raise anything
                        if torch.isfinite(model(example)).all():
                            return example
    raise ModelError(
        f"no usual input fits {type(model).__name__}", expected="an example", next_step="Give one: example=x[:1]."
    )


def _lengths(model: nn.Module) -> tuple[int, ...]:
    """Lengths of sequences: those of parameters that stand alone, as positions do, then usual ones."""
    alone = [p for m in model.modules() if not _shapes(m, (1,)) for p in m.parameters(recurse=False) if p.dim() > 1]
    return (*(n for p in alone for n in p.shape if n > 1), *SIDES)


def _shapes(module: nn.Module, lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes without the batch that a layer takes in usual networks."""
    if isinstance(module, nn.Embedding):
        return [(side,) for side in lengths]
    if isinstance(module, nn.Linear):
        return [(module.in_features,), *((side, module.in_features) for side in lengths)]
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        width = module.input_size if isinstance(module, nn.RNNBase) else module.embed_dim
        return [(side, width) for side in lengths]
    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        return [(module.in_channels, *[side] * len(module.kernel_size)) for side in SIDES]
    return []


def narrower(model: nn.Module, scale: float, example: Tensor) -> nn.Module:
    """A copy of ``model`` with the first channels of each group, ``scale`` of them; raises as :func:`student`."""
    pair = torch.cat([example, example])  # two samples keep the batch apart from dimensions of size one
    channels = trace(model, pair)
    if not channels.groups:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in channels.untouched.items())
        raise ModelError(
            f"no channel of {type(model).__name__} can leave" + (f" ({why})" if why else ""),
            expected="a network with a hidden layer",
            next_step="Name another student: distill.student, or student=.",
        )
    alive = channels.all_alive()
    for group in channels.groups:
        alive[group.classes[_n_kept(len(group.classes), scale) :]] = False
    problem = disagreement(model, channels, alive, pair)
    if problem is not None and not _finite(model, pair):
        raise ModelError(
            f"the outputs of {type(model).__name__} are not finite",
            expected="finite weights, and activations within float32",
            next_step="Train the network again, or look for NaN in its weights.",
        )
    if problem is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be made narrower: {problem}",
            expected="a forward pass without channel numbers written into it",
            next_step="Name another student: distill.student, or student=.",
        )
    return cut(model, channels, alive)


def _finite(model: nn.Module, x: Tensor) -> bool:
    """Whether the network in evaluation mode answers ``x`` with finite numbers."""
    with evaluating(model):
        return bool(torch.isfinite(model(x)).all())


def _n_kept(n: int, scale: float) -> int:
    kept = max(1, round(n * scale))
    return min(n, 4 * round(kept / 4)) if 8 < kept < n else kept


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator on the CPU seeded inside, as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
