"""OpenVINO on the CPU (extra ``openvino``): float and QDQ int8 graphs, in float32 where the graph says float.

The latency hint, the number of threads and the precision are set, so that what is measured is what was asked: left
alone, OpenVINO takes all cores, and bf16 where the CPU has it. A graph that may be computed in bf16 says so in its
metadata (``cast(bf16, arithmetic=true)``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np

from dimwise.errors import ArtifactError, MissingExtra
from dimwise.ort import ARITHMETIC
from dimwise.ship.selfcontained import refuse_external


class Request:
    """A graph compiled for one batch size, and for all others once one of them comes. Made by :func:`open_graph`."""

    runtime: ClassVar[str] = "openvino"

    def __init__(self, model: Any, threads: int, batch: int) -> None:
        source = model.inputs[0]
        self.threads = threads
        self.input_dtype = np.dtype(source.element_type.to_dtype()).name
        self.input_shape = tuple(d.get_length() if d.is_static else None for d in source.partial_shape)
        self._model, self._batch, self._precision = model, batch, _precision(model)
        self._specialised = _compile(_for_batch(model, batch), threads, self._precision)
        self._any: Any = None

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Raw scores of a batch, see :class:`dimwise.ship.runtimes.Served`.

        Raises:
            ArtifactError: for another shape or dtype.
        """
        shape: tuple[int, ...] = getattr(inputs, "shape", ())
        fits = len(shape) == len(self.input_shape) and all(
            n is None or n == m for n, m in zip(self.input_shape, shape, strict=True)
        )
        if not fits or str(inputs.dtype) != self.input_dtype or not shape[0]:
            expected = ", ".join("N" if n is None else str(n) for n in self.input_shape)
            raise ArtifactError(
                f"the model was given {getattr(inputs, 'dtype', type(inputs).__name__)} of shape {tuple(shape)}",
                expected=f"{self.input_dtype} of shape ({expected}) with at least one row",
            )
        # What is shared is overwritten by the next call: the scores are copied.
        request = self._request_for(shape[0])
        return np.array(request.infer([np.ascontiguousarray(inputs)], share_inputs=True, share_outputs=True)[0])

    def close(self) -> None:
        """Free the compiled graphs."""
        self._specialised = self._any = self._model = None

    def _request_for(self, n: int) -> Any:
        if self._model is None:
            raise ArtifactError("this graph on openvino was closed", next_step="Open it again.")
        if n == self._batch:
            return self._specialised
        if self._any is None:
            self._any = _compile(self._model, self.threads, self._precision)
        return self._any


def open_graph(content: bytes, *, threads: int, batch: int) -> Request:
    """Compile an ONNX graph from memory.

    Args:
        content: serialized ModelProto, with all weights inside.
        threads: threads of one inference.
        batch: the size it is specialised to.

    Raises:
        MissingExtra: without OpenVINO.
        ArtifactError: for what is no ONNX model, or holds what OpenVINO does not know.
    """
    model = _model(content)
    with _loading():
        return Request(model, threads, batch)


class Profiled:
    """A graph compiled with counters, for the size of the first batch that comes."""

    def __init__(self, content: bytes, threads: int) -> None:
        self._model, self._threads = _model(content), threads
        self._request: Any = None

    def run(self, inputs: np.ndarray) -> dict[str, float]:
        """Kernel -> microseconds that it took in this run."""
        if self._request is None:
            with _loading():
                model = _for_batch(self._model, len(inputs))
                self._request = _compile(model, self._threads, _precision(self._model), counts=True)
        self._request.infer([np.ascontiguousarray(inputs)], share_inputs=True)
        return {kernel.node_name: 1e6 * kernel.real_time.total_seconds() for kernel in self._request.profiling_info}

    def nodes(self) -> dict[str, list[str]]:
        """Kernel -> names of the nodes, or of their outputs, that became it."""
        told = {}
        for kernel in self._kernels():
            about = kernel.get_rt_info()
            names = about["originalLayersNames"].value if "originalLayersNames" in about else ""
            told[kernel.get_friendly_name()] = [name for name in names.split(",") if name]
        return told

    def readers(self) -> dict[str, list[str]]:
        """Kernel -> the kernels that read what it makes."""
        return {
            kernel.get_friendly_name(): [
                reader.get_node().get_friendly_name()
                for made in kernel.outputs()
                for reader in made.get_target_inputs()
            ]
            for kernel in self._kernels()
        }

    def _kernels(self) -> list[Any]:
        if self._request is None:
            return []
        found: list[Any] = self._request.get_compiled_model().get_runtime_model().get_ops()
        return found


def _model(content: bytes) -> Any:
    """The graph as OpenVINO reads it."""
    try:
        import openvino  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        raise MissingExtra("openvino", why="the runtime openvino", extra="openvino") from None
    refuse_external(content, "the model")
    with _loading():
        model = _core().read_model(model=content)
    n_inputs, n_outputs = len(model.inputs), len(model.outputs)
    if (n_inputs, n_outputs) != (1, 1):
        raise ArtifactError(
            f"the model has {n_inputs} inputs and {n_outputs} outputs", expected="one of each, as to_onnx writes"
        )
    return model


@contextmanager
def _loading() -> Iterator[None]:
    """Its errors as the house's own."""
    import openvino  # type: ignore[import-untyped]

    try:
        yield
    except RuntimeError as error:  # the only kind it raises
        raise ArtifactError(
            f"the model cannot be loaded by OpenVINO {openvino.__version__.partition('-')[0]}: {_reason(error)}",
            next_step="Serve it with onnxruntime, or leave out what OpenVINO does not know.",
        ) from None


def _for_batch(model: Any, batch: int) -> Any:
    """A copy whose shapes are all known; a graph with a size of its own is left as it is."""
    import openvino  # type: ignore[import-untyped]

    shape = model.inputs[0].partial_shape
    if not len(shape) or shape[0].is_static:
        return model
    fixed = model.clone()
    fixed.reshape({0: openvino.PartialShape([batch, *list(shape)[1:]])})
    return fixed


@cache
def _core() -> Any:
    """One for the process: its CPU plugin gives the thread a signal stack, and takes it away when the plugin goes.

    Where two came and went in that order, the thread was left with the freed stack of the first, and the next signal
    (a Ctrl-C) ended the process.
    """
    import openvino  # type: ignore[import-untyped]

    return openvino.Core()


def _precision(model: Any) -> str:
    """In what float32 parts are computed: bf16 where the graph allows it and the processor has it."""
    allowed = ["framework", ARITHMETIC]  # where OpenVINO keeps the metadata of an ONNX graph
    wish = model.get_rt_info(allowed).value if model.has_rt_info(allowed) else "f32"
    return "bf16" if wish == "bf16" and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _compile(model: Any, threads: int, precision: str, *, counts: bool = False) -> Any:
    settings = {
        "PERF_COUNT": counts,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        # Pinned threads of several graphs in one process wait for the same core.
        "ENABLE_CPU_PINNING": False,
    }
    return _core().compile_model(model, "CPU", settings).create_infer_request()


def _reason(error: Exception) -> str:
    """The line that says what is wrong: an item of the list of what it does not know, or what follows its own files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    items = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (items or told or lines or [type(error).__name__])[0][:200]
