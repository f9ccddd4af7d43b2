"""Networks, one file per architecture, with the paper's order and shapes.

Every builder has the same signature and returns a plain ``nn.Module``:
``builder(input_shape, n_outputs, *, width=1.0, dropout=0.0)``; those for texts take ``vocabulary`` too. Adding one: its
file, its test, its line here.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimwise.errors import DimwiseError, ModelError, a_kind, first_line, nearest
from dimwise.lookup import resolve

if TYPE_CHECKING:  # listing the table needs no torch
    from torch import nn

MODELS = {
    "mlp": "dimwise.models.mlp:mlp",
    "guide_cnn": "dimwise.models.guide_cnn:guide_cnn",
    "small_cnn": "dimwise.models.small_cnn:small_cnn",
    "fast_cnn": "dimwise.models.fast_cnn:fast_cnn",
    "lenet5": "dimwise.models.lenet5:lenet5",
    "resnet20": "dimwise.models.resnet_cifar:resnet20",
    "resnet56": "dimwise.models.resnet_cifar:resnet56",
    "resnet18": "dimwise.models.resnet:resnet18",
    "resnet50": "dimwise.models.resnet:resnet50",
    "resnet152": "dimwise.models.resnet:resnet152",
    "mobilenetv2": "dimwise.models.mobilenetv2:mobilenetv2",
    "vit": "dimwise.models.vit:vit",
    "deit_tiny": "dimwise.models.vit:deit_tiny",
    "lstm": "dimwise.models.lstm:lstm",
    "transformer": "dimwise.models.transformer:transformer",
}

USUAL: dict[str, tuple[tuple[int, ...], int]] = {
    "mlp": ((1, 28, 28), 10),
    "guide_cnn": ((1, 28, 28), 10),
    "small_cnn": ((1, 8, 8), 10),
    "fast_cnn": ((1, 28, 28), 10),
    "lenet5": ((1, 32, 32), 10),
    "resnet20": ((3, 32, 32), 10),
    "resnet56": ((3, 32, 32), 10),
    "resnet18": ((3, 224, 224), 1000),
    "resnet50": ((3, 224, 224), 1000),
    "resnet152": ((3, 224, 224), 1000),
    "mobilenetv2": ((3, 224, 224), 1000),
    "vit": ((3, 32, 32), 10),
    "deit_tiny": ((3, 224, 224), 1000),
    "lstm": ((48,), 2),
    "transformer": ((48,), 2),
}
"""Input shape and number of outputs that each network was published with: what its parameter count speaks of."""

TOKENS: dict[str, int] = {"lstm": 8000, "transformer": 8000}
"""The networks that read token numbers (int64), and the size of the vocabulary that their parameter count speaks of."""


def build(
    name: str,
    input_shape: tuple[int, ...],
    n_outputs: int,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
    vocabulary: int = 0,
) -> nn.Module:
    """The network of that name, for one's own input and number of outputs.

    Args:
        name: a key of :data:`MODELS`.
        input_shape: (C, H, W) of images, (F,) of tables or (T,) of texts, without the batch dimension.
        n_outputs: numbers returned for one input, at least 1.
        width: factor on the number of channels, > 0; 1 is the paper's.
        dropout: probability of zeroing a value before the last layer while training, in [0, 1).
        vocabulary: how many different tokens an input holds, ``Data.vocabulary``; 0 for inputs that are no tokens.

    Raises:
        ModelError: for an unknown name, a shape the network cannot take, or a value out of range.

    Example:
        >>> import torch
        >>> build("small_cnn", (1, 8, 8), 10)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    if ":" in name:
        raise ModelError(
            f"model name {name!r} is not in the table",
            expected="a name without ':'",
            next_step="A recipe runs no code: name your own builder on the command line, or call from_name.",
        )
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}",
            expected="one of: " + ", ".join(MODELS),
            next_step=nearest(name, MODELS),
        )
    if n_outputs < 1:
        raise ModelError(f"{name}: n_outputs is {n_outputs}", expected="at least 1")
    if not 0 < width < float("inf"):
        raise ModelError(f"{name}: width is {width}", expected="a finite number above 0")
    if not 0 <= dropout < 1:
        raise ModelError(f"{name}: dropout is {dropout}", expected="at least 0 and below 1")
    builder: Callable[..., nn.Module] = resolve(MODELS[name])
    if name in TOKENS:
        return builder(tuple(input_shape), n_outputs, width=width, dropout=dropout, vocabulary=vocabulary)
    if vocabulary:
        raise ModelError(
            f"{name} takes numbers, and these inputs are tokens of a text",
            expected="one of: " + ", ".join(TOKENS),
            next_step=f"Set model.name={next(iter(TOKENS))}.",
        )
    return builder(tuple(input_shape), n_outputs, width=width, dropout=dropout)


def from_name(name: str, input_shape: tuple[int, ...], n_outputs: int, *, vocabulary: int = 0) -> nn.Module:
    """A user's own network, from a function or class named ``package.module:function``.

    The module is imported, with the current folder on the path. Parameters called ``input_shape``, ``n_outputs`` and
    ``vocabulary`` (how many different tokens an input holds, 0 for other inputs) are given by name; a builder with two
    other required parameters gets the first two in that order; one that requires nothing is called with nothing.

    Raises:
        ModelError: when the module or function is missing, needs other arguments, or returns no ``nn.Module``.

    Example:
        >>> from_name("dimwise.models.mlp:mlp", (4,), 3)[0]
        Linear(in_features=4, out_features=128, bias=True)
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ModelError(
            f"{name!r} does not name a builder",
            expected="package.module:function",
            next_step=nearest(name, MODELS),
        )
    from torch import nn

    try:
        with _current_folder_on_path():
            builder = _find(module_name, attribute)
            if isinstance(builder, nn.Module):
                expected = "a function or a class that makes one"
                raise ModelError(f"{name} is a network", expected=expected, next_step="Name what built it.")
            made = _call(builder, name, input_shape, n_outputs, vocabulary)
    except SystemExit as error:  # no Exception: without this the command would end without a word
        raise ModelError(
            f"{name} left Python: {first_line(error)}",
            expected="a function that returns a network",
            next_step="Take sys.exit() out of it and of its module.",
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name} returned {a_kind(made)}", expected="a torch.nn.Module")
    return made


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """An installed command does not search the current folder; ``python -m`` does, and users expect it."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _find(module_name: str, attribute: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise ModelError(
                f"there is no module {missing!r}",
                expected="a module on the Python path or in the current folder",
            ) from None
        raise ModelError(
            f"module {module_name!r} imports {missing!r}, which is not installed",
            next_step=f"Install {missing.partition('.')[0]}.",
        ) from error
    except Exception as error:  # a user's file may raise anything
        raise ModelError(f"module {module_name!r} cannot be imported: {first_line(error)}") from error
    if not hasattr(module, attribute):
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ModelError(
            f"module {module_name!r} has no {attribute!r}",
            expected="one of: " + ", ".join(functions) if functions else "a function that returns a network",
            next_step=nearest(attribute, functions),
        )
    return getattr(module, attribute)


def _call(builder: Any, name: str, input_shape: tuple[int, ...], n_outputs: int, vocabulary: int) -> Any:
    if not callable(builder):
        raise ModelError(f"{name} is {a_kind(builder)}", expected="a function or a class")
    given: dict[str, Any] = {"input_shape": tuple(input_shape), "n_outputs": n_outputs, "vocabulary": vocabulary}
    parameters = inspect.signature(builder).parameters.values()
    known = {p.name: given[p.name] for p in parameters if p.name in given and p.kind != p.POSITIONAL_ONLY}
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in named if p.default is p.empty]
    in_order = len(required) == 2 and all(p.kind != p.KEYWORD_ONLY for p in required)
    named_all = all(p.name in known for p in required)
    if not named_all and not in_order:
        raise ModelError(
            f"{name} requires the arguments: " + ", ".join(p.name for p in required),
            expected="(input_shape, n_outputs), or none; for texts also vocabulary",
        )
    try:
        return builder(**known) if named_all else builder(tuple(input_shape), n_outputs)
    except DimwiseError:
        raise
    except Exception as error:  # a user's builder may raise anything
        raise ModelError(
            f"{name} raised {first_line(error)}",
            next_step=f"It was called for inputs of shape {tuple(input_shape)} and {n_outputs} outputs.",
        ) from error
