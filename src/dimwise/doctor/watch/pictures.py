"""Whether images are images the way a convolution reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from dimwise.doctor.watch import inputs

_LOOKED_AT = 64
"""Images whose neighbouring values are compared."""


def smoothness(x: Tensor) -> dict[str, float]:
    """Mean differences within flattened images: a row apart as the convolution reads them, a row apart if the channels
    came last, and of any two values of other images."""
    if x.dim() != 4 or x.shape[1] not in (3, 4) or not x.is_floating_point() or x.device.type != "cpu":
        return {}
    if inputs.in_transform() or min(x.shape[2:]) < 2:
        return {}
    with torch.no_grad():
        flat = x.detach()[:_LOOKED_AT].float().flatten(1)
        row = int(x.shape[3])
        return {
            "row_apart": _apart(flat, row),
            "row_apart_if_last": _apart(flat, row * int(x.shape[1])),
            "unrelated": float((flat - flat.roll(1, 0).flip(1)).abs().mean()),
        }


def _apart(flat: Tensor, distance: int) -> float:
    return float((flat[:, distance:] - flat[:, :-distance]).abs().mean())
