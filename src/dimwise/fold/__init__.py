"""Folds: techniques that spend fewer dimensions, one file each, all of one shape.

    verb(model, config, evidence) -> (model, FoldReport)

What `reduce` stands on is there by itself, for a look at what any layer has learnt:

    from dimwise.fold import features, pca
    pca(features(model, "layer4", inputs)).explained_variance()

Their pictures are ``scree`` and ``projection`` of dimwise.view.components.

Adding one: its file, its test, its line in :data:`FOLDS`, its import below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dimwise.errors import RecipeError, nearest
from dimwise.fold._components import Components, pca
from dimwise.fold._evidence import Evidence, FoldReport
from dimwise.fold._extract import features
from dimwise.fold._gather import evidence

# A verb has the name of its module. Importing a module sets its name in this package to the module, but only the
# first time: loaded here and then rebound, ``fold.prune`` is the function whatever is imported later.
from dimwise.fold.cast import CastConfig, cast
from dimwise.fold.distill import DistillConfig, distill, student
from dimwise.fold.equalise import EqualiseConfig, equalise
from dimwise.fold.fuse import FuseConfig, fuse
from dimwise.fold.lowrank import LowrankConfig, lowrank
from dimwise.fold.one_vs_rest import OneVsRestConfig, one_vs_rest
from dimwise.fold.prune import PruneConfig, prune
from dimwise.fold.qat import QatConfig, qat
from dimwise.fold.quantize import QuantizeConfig, quantize
from dimwise.fold.reduce import ReduceConfig, reduce
from dimwise.fold.separable import SeparableConfig, separable
from dimwise.fold.share import ShareConfig, share
from dimwise.fold.sparsify import SparsifyConfig, sparsify
from dimwise.lookup import resolve

FOLDS = {
    "cast": "dimwise.fold.cast:cast",
    "distill": "dimwise.fold.distill:distill",
    "equalise": "dimwise.fold.equalise:equalise",
    "fuse": "dimwise.fold.fuse:fuse",
    "lowrank": "dimwise.fold.lowrank:lowrank",
    "one_vs_rest": "dimwise.fold.one_vs_rest:one_vs_rest",
    "prune": "dimwise.fold.prune:prune",
    "qat": "dimwise.fold.qat:qat",
    "quantize": "dimwise.fold.quantize:quantize",
    "reduce": "dimwise.fold.reduce:reduce",
    "separable": "dimwise.fold.separable:separable",
    "share": "dimwise.fold.share:share",
    "sparsify": "dimwise.fold.sparsify:sparsify",
}

GRAPH_FOLDS = ("quantize", "share", "cast")
"""The folds that take and return an exported graph; the others take and return a network."""
EITHER_FOLDS = ("quantize", "cast")
"""Those among them that take a network too, where PyTorch itself serves it."""

__all__ = [
    "EITHER_FOLDS",
    "FOLDS",
    "GRAPH_FOLDS",
    "CastConfig",
    "Components",
    "DistillConfig",
    "EqualiseConfig",
    "Evidence",
    "FoldReport",
    "FuseConfig",
    "LowrankConfig",
    "OneVsRestConfig",
    "PruneConfig",
    "QatConfig",
    "QuantizeConfig",
    "ReduceConfig",
    "SeparableConfig",
    "ShareConfig",
    "SparsifyConfig",
    "cast",
    "distill",
    "equalise",
    "evidence",
    "features",
    "fuse",
    "get",
    "lowrank",
    "one_vs_rest",
    "pca",
    "prune",
    "qat",
    "quantize",
    "reduce",
    "separable",
    "share",
    "sparsify",
    "student",
]


def get(name: str) -> Callable[..., tuple[Any, FoldReport]]:
    """The fold of that name.

    Raises:
        RecipeError: for an unknown name; the nearest right one is named.

    Example:
        >>> get("quantize") is quantize
        True
    """
    if name not in FOLDS:
        raise RecipeError(
            f"unknown fold {name!r}", expected="one of: " + ", ".join(FOLDS), next_step=nearest(name, FOLDS)
        )
    fold: Callable[..., tuple[Any, FoldReport]] = resolve(FOLDS[name])
    return fold
