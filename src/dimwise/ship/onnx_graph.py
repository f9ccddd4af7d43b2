"""A network and its preprocessing as one ONNX graph: raw input in, raw scores out, any batch size.

Source: the ONNX specification, IR version 10; exporter: ``torch.onnx.export`` over ``torch.export``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.measure import evaluating
from dimwise.ship.slim import rename_initializers, slim

if TYPE_CHECKING:
    import onnx

RAW_DTYPES = {torch.uint8: "uint8", torch.float32: "float32", torch.int64: "int64"}
_FLOAT, _TWO_GIB = 1, 2**31  # onnx.TensorProto.FLOAT; the limit of a protobuf message


def graph(model: nn.Module, normalise: nn.Module, raw_example: Tensor, *, opset: int = 18) -> onnx.ModelProto:
    """Export ``model(normalise(x))`` in evaluation mode.

    The graph has the input ``input`` (batch, ...) of the dtype of ``raw_example`` and the output ``output`` (batch, K)
    float32. Batch normalisation is folded into the layer before it. The model is left as it was: its parameters, its
    gradients, the mode of each of its modules.

    Args:
        model: network from normalised input (B, ...) to scores (B, K).
        normalise: raw → network input, such as :class:`dimwise.data.sets.Normalise`.
        raw_example: (N, ...) uint8, float32 or (tokens) int64, N ≥ 1; only the first row is looked at.
        opset: operator set of the graph, 18 or more.

    Returns:
        A checked ``onnx.ModelProto`` with its weights inside.

    Raises:
        ModelError: when torch cannot export the model, the batch size is fixed inside it, or its output is not
            one float32 tensor (B, K).

    Example:
        >>> proto = graph(nn.Linear(2, 1), nn.Identity(), torch.zeros(1, 2))
        >>> [node.op_type for node in proto.graph.node], [w.name for w in proto.graph.initializer]
        (['Gemm'], ['weight', 'bias'])
    """
    if raw_example.dtype not in RAW_DTYPES or raw_example.dim() < 2 or len(raw_example) < 1:
        raise ModelError(
            f"raw_example is {str(raw_example.dtype).removeprefix('torch.')} of shape {tuple(raw_example.shape)}",
            expected="uint8 images (N, C, H, W), float32 rows (N, F) or int64 tokens (N, T), at least one",
        )
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps; what it wraps is exported
    n_bytes = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if n_bytes >= _TWO_GIB:
        raise ModelError(
            f"the model has {n_bytes / 2**30:.1f} GiB of weights", expected="less than 2 GiB: an ONNX limit"
        )
    whole = nn.Sequential(_on_cpu(normalise), _on_cpu(model))
    # Two rows: torch.export would take a batch of one for a constant.
    example = raw_example[:1].cpu().expand(2, *raw_example.shape[1:]).contiguous()
    with evaluating(whole), quiet():
        proto = _export(whole, example, opset)
    _restore_names(proto, whole[0])
    slim(proto)
    proto.producer_name, proto.producer_version = "dimwise", ""
    _check(proto)
    return proto


def _export(whole: nn.Module, example: Tensor, opset: int) -> Any:
    try:
        program = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            input_names=["input"],
            output_names=["output"],
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except Exception as error:  # a user's forward may raise anything
        if (operator := _unknown_operator(error)) is not None:
            raise ModelError(
                f"torch cannot export the model: ONNX has no operator for {operator}",
                expected="operators that torch.onnx can translate",
                next_step="Write it with PyTorch's usual operations, or keep the network in PyTorch.",
            ) from error
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        raise ModelError(
            f"torch cannot export the model: {lines[0] if lines else type(cause).__name__}",
            next_step="Use tensor operations in forward; no Python if or loop may depend on the values of a tensor.",
        ) from error
    assert program is not None  # only the old exporter returns None
    return program.model_proto


def _unknown_operator(error: BaseException | None) -> str | None:
    """The operator that the exporter knows no translation of, as PyTorch writes it: ``library::name``.

    Example:
        >>> _unknown_operator(KeyError("No ONNX function found for <OpOverload(op='mine.twice', overload='default')>."))
        'mine::twice'
    """
    while error is not None:
        found = re.search(r"No ONNX function found for <OpOverload\(op='(\w+)\.([\w.]+)'", str(error))
        if found is not None:
            return f"{found[1]}::{found[2]}"
        error = error.__cause__ or error.__context__
    return None


def _check(proto: Any) -> None:
    import onnx

    source, outputs = proto.graph.input[0], proto.graph.output
    if len(outputs) != 1:
        raise ModelError(f"the model returns {len(outputs)} tensors", expected="one, (B, K) scores")
    target = outputs[0].type.tensor_type
    sizes = [d.dim_param or d.dim_value for d in target.shape.dim]
    if source.type.tensor_type.shape.dim[0].dim_param != "batch" or sizes[:1] != ["batch"]:
        raise ModelError(
            "the batch size is fixed inside the model",
            expected="a forward that works for any number of rows",
            next_step="Write x.flatten(1) or x.view(x.shape[0], -1), not x.view(64, -1).",
        )
    if len(sizes) != 2 or not isinstance(sizes[1], int) or target.elem_type != _FLOAT:
        shape = "(" + ", ".join(map(str, sizes)) + ")"
        kind = onnx.TensorProto.DataType.Name(target.elem_type).lower()
        raise ModelError(f"the model returns {kind} of shape {shape}", expected="float32 scores of shape (batch, K)")
    onnx.checker.check_model(proto)


def _restore_names(proto: Any, normalise: Any) -> None:
    """``1.conv1.weight`` → ``conv1.weight``; folded constants of the preprocessing get its names back."""
    buffers = {t.detach().cpu().contiguous().numpy().tobytes(): f"normalise.{n}" for n, t in normalise.named_buffers()}
    names = {}
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("1."):
            names[tensor.name] = tensor.name[2:]
        elif tensor.raw_data in buffers:
            names[tensor.name] = buffers.pop(tensor.raw_data)
    rename_initializers(proto, names)


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module, or a copy of it on the CPU: constants of a graph belong to no device."""
    tensors = (*module.parameters(), *module.buffers())
    return module if all(t.device.type == "cpu" for t in tensors) else copy.deepcopy(module).cpu()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing printed, logged or warned: what matters of an export is what it returns or raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
