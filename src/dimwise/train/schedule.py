"""Learning rate as a function of the step: no object to keep, nothing to save, nothing to resume wrongly."""

from __future__ import annotations

import math

from dimwise.train.config import TrainConfig


def learning_rate(step: int, n_steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """The rate of one optimizer step.

    constant: lr; cosine: lr · (1 + cos πt) / 2; onecycle: linear 0 → lr until ``peak_frac``, then linear → 0.
    Constant and cosine first rise linearly over ``warmup_epochs``.

    Args:
        step: number of the step, from 0.
        n_steps: steps of the whole run.
        steps_per_epoch: steps of one epoch.
        config: schedule, lr, warmup_epochs, peak_frac.

    Returns:
        The rate, no unit, at least 0.

    Source: Loshchilov & Hutter 2017 (cosine); Smith & Topin 2018 (one-cycle; here straight lines, momentum fixed).

    Example:
        >>> config = TrainConfig(lr=1.0, schedule="cosine", epochs=1)
        >>> [round(learning_rate(s, 4, 4, config), 3) for s in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    if config.schedule == "onecycle":
        peak = max(1, round(n_steps * config.peak_frac))
        if step < peak:
            return config.lr * (step + 1) / peak
        return config.lr * (n_steps - step) / max(1, n_steps - peak + 1)
    warm = round(config.warmup_epochs * steps_per_epoch)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
