"""PyTorch as it is written, operator by operator, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.errors import ModelError, a_kind, first_line


class Eager:
    """A network in evaluation mode. Made by :func:`open_network`."""

    runtime: ClassVar[str] = "pytorch"

    def __init__(self, network: nn.Module, threads: int) -> None:
        self.threads = threads
        self._call: Callable[[Tensor], Any] | None = network

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Raw scores of a batch, see :class:`dimwise.ship.runtimes.Served`.

        Raises:
            ModelError: when the network cannot take the inputs.
        """
        return answer(self._call, inputs, self.threads, self.runtime)

    def close(self) -> None:
        """Forget the network."""
        self._call = None


def open_network(network: nn.Module, *, threads: int, batch: int) -> Eager:
    """Eager PyTorch takes batches of any size alike, so ``batch`` changes nothing."""
    return Eager(evaluated_copy(network), threads)


def evaluated_copy(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode and without gradients.

    Raises:
        ModelError: when it cannot be copied.
    """
    try:
        copied = copy.deepcopy(getattr(network, "_orig_mod", network))  # torch.compile wraps
    except Exception as error:  # a user's module may raise anything
        raise ModelError(f"the network cannot be copied: {first_line(error)}") from error
    return copied.cpu().eval().requires_grad_(False)


def answer(call: Callable[[Tensor], Any] | None, inputs: np.ndarray, threads: int, runtime: str) -> np.ndarray:
    """What a network says to raw inputs, computed by so many threads."""
    if call is None:
        raise ModelError(f"this network on {runtime} was closed", next_step="Open it again.")
    with using_threads(threads), torch.inference_mode():
        try:
            scores = call(torch.from_numpy(np.ascontiguousarray(inputs)))
        except Exception as error:  # a user's forward may raise anything
            kind = f"{getattr(inputs, 'dtype', type(inputs).__name__)} of shape {getattr(inputs, 'shape', ())}"
            raise ModelError(f"the network failed on {runtime} with {kind}: {first_line(error)}") from error
    if not isinstance(scores, Tensor):
        raise ModelError(f"the network returns {a_kind(scores)}", expected="one tensor of scores (N, K)")
    return scores.numpy()


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """PyTorch has one number of threads for the whole process: it is set for what is inside, and set back."""
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
