"""What a user means by a word: a run's trained network, one of its stages, an artifact, a file, a builder, a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimwise import models, ship
from dimwise.chain import start
from dimwise.errors import ArtifactError, ModelError, RunError, nearest
from dimwise.runs import folder
from dimwise.ship.network import is_network


@dataclass(frozen=True)
class Named:
    """A network with its preprocessing, or a graph."""

    name: str
    subject: Any
    """An ``nn.Module`` in evaluation mode, or an ``onnx.ModelProto``."""
    raw: Tensor
    """(N, ...) inputs as the graph takes them: uint8 or float32."""
    normalise: nn.Module
    """Raw inputs to what the network takes; of a graph it is part."""

    @property
    def is_graph(self) -> bool:
        """Whether it is exported already."""
        return not isinstance(self.subject, nn.Module)

    def exported(self) -> Any:
        """The graph, made from the network when it is not one."""
        return self.subject if self.is_graph else ship.graph(self.subject, self.normalise, self.raw)

    @property
    def inputs(self) -> np.ndarray:
        """(N, ...) what the subject takes."""
        with torch.no_grad():
            return np.ascontiguousarray((self.raw if self.is_graph else self.normalise(self.raw)).numpy())


def named(
    word: str,
    *,
    runs_dir: Path = Path("runs"),
    data_dir: Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    n_outputs: int | None = None,
    model: str | None = None,
) -> Named:
    """What the word means; the first that fits.

    An ``.onnx`` file; an artifact folder; a network of the model table, with fresh weights; ``RUN`` (path, name, short
    id, last): its trained network; ``RUN:STAGE``: the artifact of that stage, ``RUN:chosen`` of the chosen one;
    ``package.module:function``.

    Args:
        word: as above.
        runs_dir: where runs lie.
        data_dir: where data sets lie; a run's trained network is built for its data.
        input_shape, n_outputs: for networks that no data speaks of; None takes those they were published with, and
            3×32×32 and 10 for one's own.
        model: the user's own builder, for runs that trained one: what a run's files name is not called.

    Raises:
        UserError: when nothing fits, or what fits cannot be read.

    Example:
        >>> found = named("small_cnn")
        >>> found.is_graph, tuple(found.raw.shape)
        (False, (1, 1, 8, 8))
    """
    found = _with_inputs(word, runs_dir, data_dir, input_shape, n_outputs, model)
    return found or _own(word, input_shape, n_outputs)


def both(
    a: str,
    b: str,
    *,
    runs_dir: Path = Path("runs"),
    data_dir: Path | None = None,
    input_shape: tuple[int, ...] | None = None,
    n_outputs: int | None = None,
    model: str | None = None,
) -> tuple[Named, Named]:
    """Two words to compare: a network that no data speaks of takes the inputs of the other where that knows its own.

    Args and errors as for :func:`named`.

    Example:
        >>> [tuple(one.raw.shape) for one in both("small_cnn", "lenet5", input_shape=(1, 32, 32))]
        [(1, 1, 32, 32), (1, 1, 32, 32)]
    """
    found = {word: _with_inputs(word, runs_dir, data_dir, input_shape, n_outputs, model) for word in {a, b}}
    shape = input_shape or next((tuple(one.raw.shape[1:]) for one in found.values() if one), None)
    whole = {word: one or _own(word, shape, n_outputs) for word, one in found.items()}
    return whole[a], whole[b]


def _with_inputs(
    word: str,
    runs_dir: Path,
    data_dir: Path | None,
    input_shape: tuple[int, ...] | None,
    n_outputs: int | None,
    model: str | None,
) -> Named | None:
    """What the word means where that says which inputs it takes; None for ``package.module:function``."""
    path = Path(word)
    if path.suffix == ".onnx":
        return _graph(word, path)
    if (path / "manifest.json").is_file():
        return _graph(word, ship.read(path).model_path)
    if is_network(path):
        raise ModelError(
            f"{word!r} holds a network that PyTorch serves, and no graph",
            expected="an artifact with a graph, or the run itself",
            next_step="Load it with torch.export.load, as network.json beside it says.",
        )
    if word in models.MODELS:
        usual_shape, usual_outputs = models.USUAL[word]
        shape = input_shape or usual_shape
        return _fresh(word, models.build(word, shape, n_outputs or usual_outputs), shape)
    key, _, stage = word.rpartition(":") if ":" in word else (word, "", "")
    try:
        run = folder.find(runs_dir, key)
    except RunError as error:
        if not stage:
            raise _nothing(word, error) from None
        return None
    if stage:
        return _graph(f"{run.name}:{stage}", ship.read(start.artifact_of(run, stage)).model_path)
    return _trained(run, data_dir, model)


def _own(word: str, input_shape: tuple[int, ...] | None, n_outputs: int | None) -> Named:
    shape = input_shape or (3, 32, 32)
    return _fresh(word, models.from_name(word, shape, n_outputs or 10), shape)


def _graph(word: str, path: Path) -> Named:
    import onnx

    content = ship.content_of(path)
    runner = ship.session(content)  # says what is wrong with it
    sizes = [n or 1 for n in runner.input_shape]
    try:
        raw = torch.zeros(sizes, dtype=getattr(torch, runner.input_dtype))
    except (AttributeError, TypeError):
        raise ArtifactError(f"'{path}' takes {runner.input_dtype}", expected="uint8, float32 or int64") from None
    return Named(word, onnx.load_from_string(content), raw, nn.Identity())


def _trained(run: Path, data_dir: Path | None, model: str | None) -> Named:
    own = start.read(run / "environment.json").get("model")
    _, data, network = start.trained(run, model if own else None, data_dir=data_dir)
    return Named(run.name, network.cpu(), data.test.inputs[:256].cpu(), data.normalise)


def _fresh(word: str, network: nn.Module, shape: tuple[int, ...]) -> Named:
    return Named(word, network.cpu().eval(), torch.zeros(1, *shape), nn.Identity())


def _nothing(word: str, error: RunError) -> ModelError:
    kinds = "a run, RUN:STAGE, an artifact folder, an .onnx file, package.module:function, or a name of: "
    known = list(models.MODELS)
    return ModelError(
        f"nothing is called {word!r} ({error.what})",
        expected=kinds + ", ".join(known),
        next_step=nearest(word, known),
    )
