"""A network as a folder, where PyTorch itself serves and there is no graph for other runtimes; never a pickle.

network.pt2           graph and weights of preprocessing and network, proven: torch.export.load(path).module()
network.safetensors   instead, where torch.export cannot write that: the weights, for who has the code
network.json          what it is, where it comes from, what it takes in
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dimwise.runs.atomic import run_error, write_bytes, write_json
from dimwise.ship.artifact import MEANINGS, describe
from dimwise.ship.manifest import entry

if TYPE_CHECKING:
    from torch import nn

    from dimwise.data.sets import Data
    from dimwise.ship.parity_gate import Parity

NETWORK = "network.json"
PROGRAM, WEIGHTS = "network.pt2", "network.safetensors"
TOLERANCE = 1e-4
"""Largest difference of outputs between the network and what is read back of it, as a fraction of their size."""


def save_network(model: nn.Module, data: Data, place: Path, *, source: dict[str, Any], score: float) -> None:
    """Write a network into a folder, whole if torch.export can, else its weights.

    Args:
        model: in evaluation mode, from normalised inputs (B, ...) to scores (B, K); not changed.
        data: gives preprocessing, labels and the validation split on which what was written is read back and proven.
        place: the folder; made when missing. What it held before of a network is replaced.
        source: where the network comes from; plain JSON values.
        score: its validation score, a fraction for most tasks.

    Raises:
        RunError: when the folder cannot be written.
    """
    from torch import nn

    raw = data.train.inputs[:1].cpu()
    content = program(nn.Sequential(data.normalise, model), raw.numpy())
    proof = None if content is None else _proof(content, model, data)
    if content is None or proof is None or not proof.passed:
        name, content, proof = WEIGHTS, _weights(model), None
    else:
        name = PROGRAM
    taken = data.normalise(data.train.inputs[:1])
    inner = {"shape": [None, *taken.shape[1:]], "dtype": str(taken.dtype).removeprefix("torch.")}
    outer = {"shape": [None, *raw.shape[1:]], "dtype": str(raw.dtype).removeprefix("torch.")}
    try:
        place.mkdir(parents=True, exist_ok=True)
        for old in (NETWORK, PROGRAM, WEIGHTS):  # the description first: a kill must not leave one of other files
            (place / old).unlink(missing_ok=True)
    except OSError as error:
        raise run_error(place, error) from None
    write_bytes(place / name, content)
    write_json(
        place / NETWORK,
        {
            "files": {name: entry(content)},
            "opened_by": f"torch.export.load('{PROGRAM}').module()" if name == PROGRAM else "safetensors.torch",
            "source": source,
            "score": score,
            "task": data.task,
            "labels": list(data.labels),
            "input": outer | {"normalised": False} if name == PROGRAM else inner | {"normalised": True},
            "network_input": inner,
            "output": {"shape": [None, len(data.labels)], "meaning": MEANINGS[data.task]},
            "preprocessing": describe(data.normalise) | ({} if name == PROGRAM else {"where": "before the network"}),
            "modules": repr(model),
            "parity": None if proof is None else proof.as_dict(),
        },
    )


def is_network(place: Path) -> bool:
    """Whether a folder was written by :func:`save_network`."""
    return (place / NETWORK).is_file()


def program(network: nn.Module, inputs: np.ndarray) -> bytes | None:
    """Graph and weights of a network with a free batch, without pickle; None when torch.export cannot write it.

    Args:
        network: from ``inputs`` to scores; a copy of it in evaluation mode is written.
        inputs: (N, ...), N ≥ 1; shape and dtype matter, values do not.
    """
    import torch

    from dimwise.ship.onnx_graph import quiet
    from dimwise.ship.runtimes.pytorch import evaluated_copy

    example = torch.from_numpy(np.ascontiguousarray(inputs[:1])).expand(2, *inputs.shape[1:]).contiguous()
    written = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            sizes = ({0: torch.export.Dim("batch")},)
            torch.export.save(torch.export.export(evaluated_copy(network), (example,), dynamic_shapes=sizes), written)
    except Exception:  # noqa: BLE001  (a user's forward may raise anything; to write it down must not cost a run)
        return None
    return written.getvalue()


def _proof(content: bytes, model: nn.Module, data: Data) -> Parity | None:
    """What is read back against the network, on the whole validation split; None when it cannot be run."""
    import torch

    from dimwise.ship.parity_gate import parity, torch_reference
    from dimwise.ship.runtimes.pytorch import Eager
    from dimwise.tasks import get

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            served = Eager(torch.export.load(io.BytesIO(content)).module(), torch.get_num_threads())
        return parity(
            torch_reference(model, data.normalise),
            served,
            data.valid,
            get(data.task),
            batches=(1, 3),
            tolerance=TOLERANCE,
            max_score_drop=1.0,  # whether the score is good enough is for the budget to say
        )
    except Exception:  # noqa: BLE001  (the weights are kept then)
        return None


def _weights(model: nn.Module) -> bytes:
    from safetensors.torch import save
    from torch import Tensor

    tensors = {name: t.detach().cpu() for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    # Clones part tensors that share memory (tied weights); contiguous because the format has no strides.
    return save({name: t.contiguous().clone() for name, t in tensors.items()})
