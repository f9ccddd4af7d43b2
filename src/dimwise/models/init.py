"""He initialisation: weights that keep the size of the signal through layers of ReLU."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import nn


def he_init_(model: nn.Module, *, generator: torch.Generator | None = None) -> nn.Module:
    """Draw the weights of convolutions and dense layers anew, in place: w ~ N(0, 2/fan), b = 0.

    fan is fan_out = C_out · k² / groups for convolutions (the gradient keeps its size) and fan_in for dense
    layers, since with fan_out = 10 classes the first loss would be far above log 10. Norm layers are set to 1 and 0.

    Args:
        model: changed in place.
        generator: source of randomness; None takes PyTorch's global one.

    Returns:
        The same model.

    Source: He, Zhang, Ren, Sun 2015, "Delving deep into rectifiers", equations 10 and 14.

    Example:
        >>> layer = he_init_(nn.Conv2d(64, 128, 3))
        >>> round(float(layer.weight.detach().std() * (128 * 9 / 2) ** 0.5), 1), layer.bias.abs().max().item()
        (1.0, 0.0)
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                fan = module.out_channels * prod(module.kernel_size) // module.groups
            elif isinstance(module, nn.Linear):
                fan = module.in_features
            elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
                if isinstance(module.weight, nn.Parameter):
                    module.weight.fill_(1.0)
                if isinstance(module.bias, nn.Parameter):
                    module.bias.zero_()
                continue
            else:
                continue
            module.weight.normal_(0.0, sqrt(2 / fan), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
    return model
