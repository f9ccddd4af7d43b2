"""Ship: from a trained network to a folder that another machine can serve, proven equal first.

Names are resolved when asked for: ``predict`` must not pay for torch, nor ``read`` for onnxruntime. No module is
called like a function of this table, or importing the one would hide the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimwise.ship.artifact import save as save
    from dimwise.ship.artifact import to_onnx as to_onnx
    from dimwise.ship.config import ShipConfig as ShipConfig
    from dimwise.ship.manifest import Artifact as Artifact
    from dimwise.ship.manifest import Manifest as Manifest
    from dimwise.ship.manifest import read as read
    from dimwise.ship.onnx_graph import graph as graph
    from dimwise.ship.parity_gate import Parity as Parity
    from dimwise.ship.parity_gate import gate as gate
    from dimwise.ship.parity_gate import parity as parity
    from dimwise.ship.parity_gate import torch_reference as torch_reference
    from dimwise.ship.predictor import predict as predict
    from dimwise.ship.runtime import Runner as Runner
    from dimwise.ship.runtime import session as session

EXPORTS = {
    "Artifact": "dimwise.ship.manifest:Artifact",
    "Manifest": "dimwise.ship.manifest:Manifest",
    "Parity": "dimwise.ship.parity_gate:Parity",
    "Runner": "dimwise.ship.runtime:Runner",
    "ShipConfig": "dimwise.ship.config:ShipConfig",
    "gate": "dimwise.ship.parity_gate:gate",
    "graph": "dimwise.ship.onnx_graph:graph",
    "parity": "dimwise.ship.parity_gate:parity",
    "predict": "dimwise.ship.predictor:predict",
    "read": "dimwise.ship.manifest:read",
    "save": "dimwise.ship.artifact:save",
    "session": "dimwise.ship.runtime:session",
    "to_onnx": "dimwise.ship.artifact:to_onnx",
    "torch_reference": "dimwise.ship.parity_gate:torch_reference",
}
__all__ = sorted(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'dimwise.ship' has no attribute {name!r}")
    module, _, attribute = EXPORTS[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
