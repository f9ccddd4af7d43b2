"""Make an artifact: a network, or an ONNX graph made from one, into a folder that can be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimwise.errors import ArtifactError
from dimwise.runs.atomic import run_error, write_bytes
from dimwise.ship.manifest import MANIFEST, MODEL, Artifact, Manifest, entry, write

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from dimwise.data.sets import Data

MEANINGS = {
    "classification": "raw scores; softmax gives probabilities",
    "multilabel": "raw scores; sigmoid of each gives its probability",
    "regression": "values; times target.std plus target.mean of the reading where it has them",
}


def to_onnx(
    model: nn.Module,
    data: Data | nn.Module,
    path: str | Path,
    *,
    raw_example: Tensor | None = None,
    labels: Sequence[str] | None = None,
    reading: dict[str, Any] | None = None,
    task: str | None = None,
    name: str = "model",
    source: dict[str, Any] | None = None,
    opset: int = 18,
) -> Artifact:
    """Export a network with its preprocessing into an artifact folder.

    Args:
        model: network from normalised input (B, ...) to scores (B, K).
        data: a :class:`dimwise.data.sets.Data`, which knows all that follows; or only the module that normalises.
        path: the artifact folder; made when missing.
        raw_example: (N, ...) uint8, float32 or int64 raw input; needed when ``data`` is a module.
        labels: K names of the outputs; their numbers when not given.
        reading: how a file becomes a raw input, see ``Data.reading``.
        task: classification, multilabel or regression.
        name: name of the artifact.
        source: where the model comes from, such as {"recipe": …, "stage": …}; plain JSON values.
        opset: ONNX operator set, 18 or more.

    Returns:
        The artifact, of status ``untested``: :func:`dimwise.ship.gate` gives the verdict.

    Raises:
        ModelError: when the model cannot be exported.
        ArtifactError: when labels and outputs do not fit.
        RunError: when the folder cannot be written.
    """
    from torch import nn

    from dimwise.ship.onnx_graph import graph

    if isinstance(data, nn.Module):
        normalise = data
        if raw_example is None:
            raise ArtifactError(
                "to_onnx was given no raw_example", expected="one raw input, (1, ...)", next_step="Or give the Data."
            )
    else:
        normalise = data.normalise
        raw_example = data.train.inputs[:1] if raw_example is None else raw_example
        labels = data.labels if labels is None else labels
        reading = data.reading if reading is None else reading
        task = data.task if task is None else task
    return save(
        graph(model, normalise, raw_example, opset=opset),
        path,
        labels=labels,
        reading={"kind": "array"} if reading is None else reading,
        task="classification" if task is None else task,
        name=name,
        preprocessing=describe(normalise),
        source=source,
    )


def save(
    proto: onnx.ModelProto,
    path: str | Path,
    *,
    labels: Sequence[str] | None,
    reading: dict[str, Any],
    task: str,
    name: str = "model",
    preprocessing: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
) -> Artifact:
    """Write a graph that exists already, such as a quantized one, as an artifact folder.

    Args:
        proto: one input (batch, ...), one output (batch, K) float32, all weights inside.
        path: the artifact folder; made when missing. What it held before is replaced, the manifest last.
        labels: K names of the outputs, or None for their numbers.
        reading: how a file becomes a raw input, see ``Data.reading``.
        task: classification, multilabel or regression.
        name: name of the artifact.
        preprocessing: what the graph does to the raw input first, see :func:`describe`.
        source: where the model comes from; plain JSON values.

    Raises:
        ArtifactError: when the graph is not of that form, or labels and outputs do not fit.
        RunError: when the folder cannot be written.
    """
    if task not in MEANINGS:
        raise ArtifactError(f"task is {task!r}", expected="one of: " + ", ".join(MEANINGS))
    given, made = _value(proto, "input"), _value(proto, "output")
    n_outputs = made["shape"][-1]
    labels = tuple(str(k) for k in range(n_outputs or 0)) if labels is None else tuple(str(k) for k in labels)
    if len(made["shape"]) != 2 or len(labels) != n_outputs:
        raise ArtifactError(
            f"the graph's output has shape {made['shape']} and there are {len(labels)} labels",
            expected="shape [null, K] and K labels",
        )
    content = proto.SerializeToString()
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # a kill between the two files must not leave a stale verdict
    except OSError as error:
        raise run_error(folder, error) from None
    write_bytes(folder / MODEL, content)
    return write(
        folder,
        Manifest(
            name=name,
            task=task,
            labels=labels,
            input={**given, "reading": dict(reading)},
            output={**made, "meaning": MEANINGS[task]},
            preprocessing=preprocessing or {"where": "inside the graph"},
            files={MODEL: entry(content)},
            source=dict(source or {}),
        ),
    )


def describe(normalise: nn.Module) -> dict[str, Any]:
    """A preprocessing module in words and numbers, for a reader of the manifest.

    Example:
        >>> from dimwise.data.sets import Normalise
        >>> describe(Normalise(0.5, (1.0,), (2.0,)))["formula"], describe(Normalise(0.5, (1.0,), (2.0,)))["factor"]
        ('y = x * factor + offset, per channel', [0.25])
    """
    from dimwise.data.sets import Normalise

    told: dict[str, Any] = {"where": "inside the graph", "module": type(normalise).__name__}
    if isinstance(normalise, Normalise):
        told["formula"] = "y = x * factor + offset, per channel"
        told["factor"], told["offset"] = normalise.factor.tolist(), normalise.offset.tolist()
    return told


def _value(proto: onnx.ModelProto, kind: str) -> dict[str, Any]:
    """Name, shape (None: any) and NumPy dtype of the only input or output of a graph."""
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {tensor.name for tensor in proto.graph.initializer}
    values = [v for v in (proto.graph.input if kind == "input" else proto.graph.output) if v.name not in constants]
    if len(values) != 1:
        raise ArtifactError(f"the graph has {len(values)} {kind}s", expected=f"one {kind}")
    tensor = values[0].type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not shape or shape[0] is not None:
        raise ArtifactError(
            f"{kind} '{values[0].name}' has shape {shape}", expected="a free batch dimension first: [null, ...]"
        )
    return {"name": values[0].name, "shape": shape, "dtype": str(tensor_dtype_to_np_dtype(tensor.elem_type))}
