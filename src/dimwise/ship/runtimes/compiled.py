"""PyTorch compiled: ``torch.compile`` with inductor, which writes C++ and needs a compiler for it.

Compiling takes seconds and happens at the first call. Numbers of threads are written into the code. Int8 weights are
frozen into it as well, as only then they are multiplied as such; inductor keeps frozen weights until the process ends,
so others are not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config

from dimwise.errors import ModelError
from dimwise.ship.runtimes.pytorch import answer, evaluated_copy


class Compiled:
    """A network in evaluation mode, compiled for one batch size. Made by :func:`open_network`."""

    runtime: ClassVar[str] = "pytorch-compiled"

    def __init__(self, network: nn.Module, threads: int, batch: int) -> None:
        self.threads = threads
        self._batch = batch
        self._eager: nn.Module | None = network
        self._called = False
        self._freeze = any(t.dtype == torch.int8 for t in network.state_dict().values())
        with _without_warnings():
            self._compiled: Callable[[Tensor], Any] | None = torch.compile(_own_call(network), dynamic=False)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Raw scores of a batch; of another size than the compiled one, from the same network uncompiled.

        Raises:
            ModelError: when the network cannot be compiled, or cannot take the inputs.
        """
        if len(inputs) != self._batch:
            return answer(self._eager, inputs, self.threads, self.runtime)
        if self._called:
            return answer(self._compiled, inputs, self.threads, self.runtime)
        with _without_warnings():
            try:
                with inductor_config.patch(freezing=self._freeze):
                    scores = answer(self._compiled, inputs, self.threads, self.runtime)
            except ModelError:
                if not self._freeze:
                    raise
                # On processors without AVX512 torch 2.13 cannot freeze int8 convolutions.
                scores = answer(self._compiled, inputs, self.threads, self.runtime)
        self._called = True
        return scores

    def close(self) -> None:
        """Forget the code and the network."""
        self._compiled = self._eager = None


def _own_call(network: nn.Module) -> Callable[[Tensor], Any]:
    """A function of this network alone.

    What was compiled is kept with the code of the function, of which all networks of a class have the same: the ninth
    would not be compiled any more, and each call would look through those before it.
    """

    def call(x: Tensor) -> Any:
        return network(x)

    call.__code__ = call.__code__.replace(co_name=f"call_{id(network)}")
    return call


def open_network(network: nn.Module, *, threads: int, batch: int) -> Compiled:
    """Compile when first called; other sizes than ``batch`` are run uncompiled rather than compiled for seconds more.

    Raises:
        ModelError: without a C++ compiler.
    """
    _require_compiler()
    return Compiled(evaluated_copy(network), threads, batch)


def _require_compiler() -> None:
    with _without_warnings():
        from torch._inductor.cpp_builder import get_cpp_compiler
    try:
        get_cpp_compiler()
    except Exception as error:
        raise ModelError(
            "pytorch-compiled needs a C++ compiler, and none was found",
            expected="g++, or another one named by the environment variable CXX",
            next_step="Install one (Debian, Ubuntu: apt install g++), or measure on pytorch.",
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The compiler's warnings are about PyTorch's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
