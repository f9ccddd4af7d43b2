"""The runtime that serves: onnxruntime on the CPU, behind one small class. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dimwise.errors import ArtifactError, a_kind
from dimwise.ort import session_options
from dimwise.ship.selfcontained import refuse_external

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int64)": "int64"}


class Runner:
    """A loaded model: raw inputs in, raw scores out. Made by :func:`session`."""

    __slots__ = ("_input", "_output", "_session", "input_dtype", "input_shape", "output_shape", "threads")

    runtime: ClassVar[str] = "onnxruntime"
    input_dtype: str
    """NumPy name, such as ``uint8``."""
    input_shape: tuple[int | None, ...]
    """None where any size goes: (None, C, H, W)."""
    output_shape: tuple[int | None, ...]
    """(None, K)."""
    threads: int

    def __init__(self, session: Any, threads: int) -> None:
        source, target = session.get_inputs()[0], session.get_outputs()[0]
        self._session = session
        self._input, self._output = source.name, [target.name]
        self.input_dtype = _DTYPES.get(source.type, source.type)
        self.input_shape = _sizes(source.shape)
        self.output_shape = _sizes(target.shape)
        self.threads = threads

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Raw scores of a batch.

        Args:
            inputs: (N, ...) raw, of ``input_dtype``; N ≥ 1 is free.

        Returns:
            (N, K) float32.

        Raises:
            ArtifactError: for another shape or dtype.
        """
        try:
            return self._session.run(self._output, {self._input: inputs})[0]
        except Exception as error:  # noqa: BLE001  (onnxruntime's errors have no common base but Exception)
            raise self._explain(inputs, error) from None

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _explain(self, inputs: Any, error: Exception) -> ArtifactError:
        expected = f"{self.input_dtype} of shape {_shape(self.input_shape)}"
        if not isinstance(inputs, np.ndarray):
            return ArtifactError(f"the model was given {a_kind(inputs)}", expected=f"a NumPy array, {expected}")
        fits = len(inputs.shape) == len(self.input_shape) and all(
            n is None or n == m for n, m in zip(self.input_shape, inputs.shape, strict=True)
        )
        if fits and str(inputs.dtype) == self.input_dtype and len(inputs):
            return ArtifactError(f"onnxruntime failed on a batch of {len(inputs)}: {_first_line(error)}")
        return ArtifactError(
            f"the model was given {inputs.dtype} of shape {_shape(inputs.shape)}",
            expected=expected + (" with at least one row" if not inputs.size else ""),
        )


def session(model: str | Path | bytes, *, threads: int = 1) -> Runner:
    """Load an ONNX model for the CPU, with all graph optimisations, quietly.

    Args:
        model: path of a ``.onnx`` file (or of an artifact folder's ``model.onnx``), or its bytes.
        threads: threads of one inference, at least 1.

    Raises:
        ArtifactError: for a file that cannot be read, is no ONNX model, keeps weights in other files, or has not
            exactly one input and one output.
    """
    import onnxruntime as ort

    source = "the model" if isinstance(model, bytes) else f"'{model}'"
    whole = model if isinstance(model, bytes) else content(Path(model))
    refuse_external(whole, source)
    options = session_options(threads=threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    try:
        made = ort.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (as above)
        raise ArtifactError(
            f"{source} cannot be loaded by onnxruntime {ort.__version__}: {_first_line(error)}",
            next_step="Export it again, or install a newer onnxruntime.",
        ) from None
    n_inputs, n_outputs = len(made.get_inputs()), len(made.get_outputs())
    if (n_inputs, n_outputs) != (1, 1):
        raise ArtifactError(
            f"{source} has {n_inputs} inputs and {n_outputs} outputs", expected="one of each, as to_onnx writes"
        )
    return Runner(made, threads)


def run_once(path: str, threads: str) -> Runner:
    """Load a model and give it one input of zeros: what serving takes at least. Arguments are words of a command.

    Args:
        path: of a ``.onnx`` file.
        threads: as for :func:`session`.
    """
    runner = session(Path(path), threads=int(threads))
    runner.run(np.zeros([n or 1 for n in runner.input_shape], runner.input_dtype))
    return runner


def content(path: Path) -> bytes:
    """The bytes of an ONNX file.

    Raises:
        ArtifactError: when it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"'{path}' cannot be read: {error.strerror}", expected="an ONNX file, such as ARTIFACT/model.onnx"
        ) from None


def _sizes(shape: list[Any]) -> tuple[int | None, ...]:
    return tuple(n if isinstance(n, int) else None for n in shape)


def _shape(sizes: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("N" if n is None else str(n) for n in sizes) + ")"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
