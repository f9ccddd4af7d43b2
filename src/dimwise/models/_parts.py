"""What the architectures share: channel arithmetic, checks of the input shape, a chain of named layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from dimwise.errors import ModelError


def scale(channels: int, width: float) -> int:
    """Channels of a wider or narrower layer: to the nearest multiple of 8 when above 8, at least 1.

    ``width = 1`` keeps the paper's number whatever it is. A result that would lose more than a tenth goes to the
    next multiple up (Sandler et al. 2018, reference code), since 8 channels fill a vector register.

    Example:
        >>> scale(84, 1.0), scale(64, 0.5), scale(32, 1.4), scale(16, 0.3), scale(6, 0.1)
        (84, 32, 48, 5, 1)
    """
    if width == 1:
        return channels
    wanted = channels * width
    if wanted <= 8:
        return max(1, round(wanted))
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def image_shape(name: str, input_shape: tuple[int, ...], least: int = 1) -> tuple[int, int, int]:
    """The input shape as (channels, height, width), or an error with the least size the network can take.

    Example:
        >>> image_shape("lenet5", (1, 8, 8), least=28)
        Traceback (most recent call last):
        ...
        dimwise.errors.ModelError: lenet5 cannot take images of 8 × 8 pixels; expected at least 28 × 28. ...
    """
    if len(input_shape) != 3:
        raise ModelError(
            f"{name} takes images, not input of shape {tuple(input_shape)}",
            expected="(channels, height, width)",
            next_step="mlp takes any shape." if input_shape else "",
        )
    channels, height, width = input_shape
    if channels < 1:
        raise ModelError(f"{name}: input shape {tuple(input_shape)} has no channels", expected="at least 1")
    if min(height, width) < least:
        raise ModelError(
            f"{name} cannot take images of {height} × {width} pixels",
            expected=f"at least {least} × {least}",
            next_step="mlp and small_cnn take images of any size.",
        )
    return channels, height, width


def chain(layers: Iterable[tuple[str, nn.Module | None]]) -> nn.Sequential:
    """A sequence of named layers; ``None`` leaves one out and moves no name, so weights still load."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers if layer is not None))


def drop(probability: float) -> nn.Module | None:
    """Dropout, or nothing at probability 0, where the layer would only cost time."""
    return nn.Dropout(probability) if probability > 0 else None
