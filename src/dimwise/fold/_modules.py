"""What the folds share that put one layer in the place of another: find, swap, compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError, UserError, a_kind, first_line, nearest
from dimwise.measure import evaluating
from dimwise.seeds import derive


def require_network(fold: str, model: object) -> None:
    """Refuse what is no ``nn.Module``.

    Raises:
        UserError: with what to do instead.

    Example:
        >>> require_network("fuse", "model.onnx")
        Traceback (most recent call last):
        ...
        dimwise.errors.UserError: fuse was given a str; expected a torch.nn.Module. Apply fuse before exporting.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{fold} was given {a_kind(model)}",
            expected="a torch.nn.Module",
            next_step=f"Apply {fold} before exporting.",
        )


def require_known(fold: str, field: str, names: tuple[str, ...], model: nn.Module) -> None:
    """Refuse names in a setting that are no module of the network.

    Raises:
        ModelError: naming the setting, the name, and the nearest one that exists.

    Example:
        >>> require_known("lowrank", "skip", ("o",), nn.Sequential(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ...
        dimwise.errors.ModelError: lowrank.skip names 'o', which is no layer of Sequential; expected such as '0'.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise ModelError(
                f"{fold}.{field} names {name!r}, which is no layer of {type(model).__name__}",
                expected="such as " + (", ".join(map(repr, known[:3])) or "none: it has no layers with names"),
                next_step=nearest(name, known),
            )


def probe(example: Tensor, seed: int) -> Tensor:
    """Two inputs like the example, (2, ...), the second one noisy, so that no batch statistic hides behind size one."""
    one = example[:1]
    if not one.is_floating_point():
        return torch.cat([one, one])
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(derive(seed, "fold", "probe")))
    return torch.cat([one, one + noise.to(one)])


def working_copy(fold: str, model: object, example: Tensor, seed: int) -> tuple[nn.Module, Tensor]:
    """A copy of a network to work on, after a look at whether folds can: it is copied, takes inputs, gives scores.

    Args:
        fold: who asks, for messages.
        model: not changed.
        example: (1, ...) normalised input.
        seed: of the noise in the second input.

    Returns:
        (the copy in evaluation mode, :func:`probe`'s two inputs on its device).

    Raises:
        UserError: when it is no ``nn.Module``.
        ModelError: when it cannot be copied, or run on one tensor to give another.

    Example:
        >>> working_copy("fuse", nn.Bilinear(2, 2, 3), torch.zeros(1, 2), 0)
        Traceback (most recent call last):
        ...
        dimwise.errors.ModelError: Bilinear cannot be run on (2, 2): TypeError: ... missing 1 required positional ...
    """
    require_network(fold, model)
    assert isinstance(model, nn.Module)
    try:
        made = deepcopy(model).eval()
    except Exception as error:  # a user's module may raise anything
        raise ModelError(
            f"{fold} cannot copy {type(model).__name__}: {first_line(error)}",
            expected="a network that copy.deepcopy copies",
            next_step="Instead of weight_norm or spectral_norm of torch.nn.utils use those of "
            "torch.nn.utils.parametrizations; of other modules drop what was computed with a gradient.",
        ) from error
    device = next((p.device for p in made.parameters()), torch.device("cpu"))
    x = probe(example, seed).to(device)
    difference(made, made, x)  # a network that fails by itself is told as such
    return made, x


def swap_(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` where ``old`` is, under each of its names; returns ``model``, or ``new`` when it was ``old``.

    Example:
        >>> swap_(nn.Sequential(nn.ReLU(), nn.Flatten()), nn.ReLU(), nn.Tanh())  # another ReLU: nothing happens
        Sequential(
          (0): ReLU()
          (1): Flatten(start_dim=1, end_dim=-1)
        )
    """
    if model is old:
        return new
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model


def tied(model: nn.Module) -> set[str]:
    """Names of modules with a parameter that another module holds too, such as an embedding and its output layer.

    Example:
        >>> net = nn.ModuleDict({"words": nn.Embedding(9, 4), "out": nn.Linear(4, 9, bias=False), "more": nn.ReLU()})
        >>> net["out"].weight = net["words"].weight
        >>> sorted(tied(net))
        ['out', 'words']
    """
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return {
        name
        for name, module in model.named_modules()
        if any(p is not None and holders[id(p)] > 1 for p in module._parameters.values())
    }


def difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """max |a − b| / max |a| of the outputs of both on ``x``, in evaluation mode; 0 when they agree.

    Raises:
        ModelError: when ``model`` cannot take ``x``, or ``other`` fails or returns another shape.
    """
    try:
        with evaluating(model):
            want = model(x)
        with evaluating(other):
            got = other(x)
    except Exception as error:  # the user's forward may raise anything
        raise ModelError(f"{type(model).__name__} cannot be run on {tuple(x.shape)}: {first_line(error)}") from error
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        raise ModelError(f"{type(model).__name__} returned {a_kind(want)}", expected="one tensor")
    if want.shape != got.shape:
        raise ModelError(f"the changed network returns {tuple(got.shape)}", expected=f"{tuple(want.shape)}")
    scale = want.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((want - got).abs().max() / scale)


def with_layers(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` with other modules under these names.

    Example:
        >>> with_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"1": nn.Tanh()})[1]
        Tanh()
    """
    made = deepcopy(model)
    for name, module in new.items():
        made = swap_(made, made.get_submodule(name), deepcopy(module))
    return made


def with_those_that_run(model: nn.Module, new: dict[str, nn.Module], x: Tensor, untouched: dict[str, str]) -> nn.Module:
    """The same, without the modules that the network cannot run with, such as those whose weights it reads by name.

    Args:
        model: the original network; not changed.
        new: name -> module; those that cannot be taken are removed.
        x: (N, ...) input.
        untouched: receives, for each that was removed, what went wrong.
    """

    def problem(some: Mapping[str, nn.Module]) -> str:
        try:
            difference(model, with_layers(model, some), x)
        except ModelError as error:
            return error.what
        return ""

    if problem(new):
        for name in list(new):
            found = problem({name: new[name]})
            if found:
                untouched[name] = found
                del new[name]
    return with_layers(model, new)
