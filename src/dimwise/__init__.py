"""dimwise takes a PyTorch model from theory to a device and measures every step.

    import dimwise as dw

    data = dw.data.load(dw.data.DataConfig(source="digits"))
    model = dw.models.build("small_cnn", data.input_shape, data.n_outputs)
    fitted = dw.train(model, data)
    smaller, report = dw.fold.prune(fitted.model, dw.fold.PruneConfig(), dw.fold.evidence(data))
    artifact = dw.ship.to_onnx(smaller, data, "artifact")

Rooms are imported when they are first used: ``dimwise --help`` must not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dimwise.lookup import late

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dimwise import chain, data, doctor, fold, measure, models, ship, tasks, view
    from dimwise.chain.job import run
    from dimwise.chain.recipe import load
    from dimwise.train import fit as train  # type: ignore[no-redef]  # the room can be called: this is what it then is

_ROOMS = ("chain", "data", "doctor", "fold", "measure", "models", "runs", "ship", "tasks", "train", "view")
_function = late(__name__, {"load": "dimwise.chain.recipe", "run": "dimwise.chain.job"})

__all__ = [
    "chain",
    "data",
    "doctor",
    "fold",
    "load",
    "measure",
    "models",
    "run",
    "ship",
    "tasks",
    "train",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"dimwise.{name}")
    return _function(name)
