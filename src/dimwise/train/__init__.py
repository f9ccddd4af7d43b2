"""Training: ``dimwise.train(model, data, ...)`` is :func:`dimwise.train.fit.fit`; the parts are importable too."""

from __future__ import annotations

import sys
import types
from typing import Any

from dimwise.measure import evaluating
from dimwise.train.config import TrainConfig
from dimwise.train.evaluate import evaluate, predict_outputs
from dimwise.train.fit import Fitted, Interrupted, fit
from dimwise.train.loop import Moving, Step, plain_step, steps
from dimwise.train.lr_range import LrRange, LrRangeConfig, lr_range

__all__ = [
    "Fitted",
    "Interrupted",
    "LrRange",
    "LrRangeConfig",
    "Moving",
    "Step",
    "TrainConfig",
    "evaluate",
    "evaluating",
    "fit",
    "lr_range",
    "plain_step",
    "predict_outputs",
    "steps",
]


class _Room(types.ModuleType):
    """The room itself can be called, so that ``dw.train(model, data)`` reads like the sentence it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Fitted:
        """The same as :func:`dimwise.train.fit.fit`, whose page has the arguments."""
        return fit(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
