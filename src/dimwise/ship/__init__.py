"""Ship: from a trained network to a folder that another machine can serve, proven equal first.

Names are resolved when asked for: ``predict`` must not pay for torch, nor ``read`` for onnxruntime. No module is
called like a function of this table, or importing the one would hide the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dimwise.lookup import late

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
    from dimwise.ship.runtimes import RUNTIMES as RUNTIMES
    from dimwise.ship.runtimes import Served as Served
    from dimwise.ship.runtimes import content_of as content_of
    from dimwise.ship.runtimes import open_runtime as open_runtime
    from dimwise.ship.runtimes.fresh import peak_memory_on as peak_memory_on
    from dimwise.ship.runtimes.side_by_side import SideBySide as SideBySide
    from dimwise.ship.runtimes.side_by_side import measure_on as measure_on

EXPORTS = {
    "Artifact": "dimwise.ship.manifest",
    "Manifest": "dimwise.ship.manifest",
    "Parity": "dimwise.ship.parity_gate",
    "RUNTIMES": "dimwise.ship.runtimes",
    "Runner": "dimwise.ship.runtime",
    "Served": "dimwise.ship.runtimes",
    "ShipConfig": "dimwise.ship.config",
    "SideBySide": "dimwise.ship.runtimes.side_by_side",
    "content_of": "dimwise.ship.runtimes",
    "gate": "dimwise.ship.parity_gate",
    "graph": "dimwise.ship.onnx_graph",
    "measure_on": "dimwise.ship.runtimes.side_by_side",
    "open_runtime": "dimwise.ship.runtimes",
    "parity": "dimwise.ship.parity_gate",
    "peak_memory_on": "dimwise.ship.runtimes.fresh",
    "predict": "dimwise.ship.predictor",
    "read": "dimwise.ship.manifest",
    "save": "dimwise.ship.artifact",
    "session": "dimwise.ship.runtime",
    "to_onnx": "dimwise.ship.artifact",
    "torch_reference": "dimwise.ship.parity_gate",
}
__all__ = sorted(EXPORTS)
__getattr__ = late(__name__, EXPORTS)


def __dir__() -> list[str]:
    return __all__
