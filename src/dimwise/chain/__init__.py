"""The main job. ``run`` reads like the way through the house: recipe → data → train → fold → choose → ship.

Names are imported when they are first used, so that `import dimwise.chain` costs nothing.
"""

from __future__ import annotations

from dimwise.lookup import late

_EXPORTS = {
    "Budget": "dimwise.chain.recipe",
    "FoldPlan": "dimwise.chain.recipe",
    "Recipe": "dimwise.chain.recipe",
    "Result": "dimwise.chain.job",
    "TrainResult": "dimwise.chain.training",
    "complete": "dimwise.chain.job",
    "load": "dimwise.chain.recipe",
    "recipes": "dimwise.chain.recipe",
    "resume": "dimwise.chain.training",
    "run": "dimwise.chain.job",
    "train": "dimwise.chain.training",
}

__all__ = list(_EXPORTS)
__getattr__ = late(__name__, _EXPORTS)
