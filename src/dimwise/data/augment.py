"""Augmentation of whole batches: a handful of tensor operations whatever the batch size, no per-sample Python.

Letters: B batch, C channels, H height, W width, K classes, c = ``crop``, s = ``cutout``. Every random number comes
from the generator that is passed in, and memory order (contiguous or channels-last) and type are kept.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dimwise.errors import DataError
from dimwise.recipe import config


@config
class AugmentConfig:
    """What happens to training inputs on their way to the network; all of it is off by default."""

    flip: bool = False
    """Mirror half of the images left to right. Default: off; wrong for digits and text, good for photographs."""
    crop: Annotated[int, Field(ge=0)] = 0
    """Shift images by up to so many pixels each way, filled with zeros. Default: off; 2 to 4 suits 32×32."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of a square set to zero at a random place. Default: off; a quarter of the image is usual."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """α of MixUp's Beta(α, α), no unit; larger mixes more. Default: off; 0.2 is usual."""
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    """α of CutMix's Beta(α, α), no unit. Default: off; 1 is usual. With mixup too, each batch takes one of them."""
    grow_from: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Side of the images in the first epochs, as a fraction of the full side; they grow to 1 (see ``grow.py``).
    Default: 1, full size from the start; 0.6 saves a third of the time of a network with a global pool."""
    cycle_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs after which the batches repeat: their order, shifts and all else that is drawn. Default: 0, never; what
    was computed about a batch, such as a teacher's answers, then serves again."""


def augment(inputs: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Shifted crop, flip and cutout, each image its own.

    Args:
        inputs: (B, C, H, W), normalised float or uint8; never changed in place.
        config: which of them; with none the very same tensor comes back.
        generator: source of every random number.

    Returns:
        (B, C, H, W) of the same type and memory order.

    Raises:
        DataError: the inputs are no images, or smaller than the shift or the square.

    Source: Krizhevsky 2012, section 4.1 (shifts, flips); DeVries, Taylor 2017 (cutout).

    Example:
        >>> x = torch.arange(8.0).view(2, 1, 2, 2)
        >>> augment(x, AugmentConfig(flip=True), torch.Generator().manual_seed(3)).flatten().tolist()
        [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0]
        >>> augment(x, AugmentConfig(), torch.Generator()) is x
        True
    """
    for name in ("flip", "crop", "cutout"):
        if getattr(config, name):
            _require_images(inputs, name, at_least=0 if name == "flip" else getattr(config, name))
    if config.crop:
        inputs = _shift(inputs, config.crop, generator)
    if config.flip:
        mirrored = torch.rand(len(inputs), generator=generator, device=generator.device) < 0.5
        inputs = torch.where(mirrored.to(inputs.device).view(-1, 1, 1, 1), inputs.flip(3), inputs)
    if config.cutout:
        inputs = _cut_out(inputs, config.cutout, generator)
    return inputs


def mix(
    inputs: Tensor, targets: Tensor, n_classes: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """MixUp or CutMix: every input is blended with another one of its batch, and so are their targets.

    MixUp: x̃ = λx + (1−λ)x', ỹ = λy + (1−λ)y', λ ~ Beta(α, α).
    CutMix: a box of x' is pasted into x, ỹ = λy + (1−λ)y' with 1−λ = area of the box that lies inside the image / HW.

    Args:
        inputs: (B, ...) for MixUp, (B, C, H, W) for CutMix; uint8 becomes float32 under MixUp, unscaled.
        targets: (B,) integer classes, or (B, K) float.
        n_classes: K, for integer targets.
        config: ``mixup`` and ``cutmix``; with neither both tensors come back as they are.
        generator: source of every random number; with both, it also chooses, one or the other half the time.

    Returns:
        inputs like those given, targets (B, K) float32 whose rows sum to what they summed to.

    Raises:
        DataError: the inputs are tokens, or (CutMix) no images.

    Source: Zhang et al. 2018 (MixUp), Yun et al. 2019, equation 1 and section 3 (CutMix).
    Deviation: one λ and one box a batch, as both papers' own code does.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
        >>> mixed, soft = mix(x, y, 2, AugmentConfig(mixup=1.0), torch.Generator().manual_seed(0))
        >>> soft.sum(1).tolist(), torch.allclose(mixed[:, 0], soft[:, 1])
        ([1.0, 1.0], True)
    """
    if not config.mixup and not config.cutmix:
        return inputs, targets
    if targets.dim() == 1 and not targets.is_floating_point():
        targets = F.one_hot(targets.long(), n_classes).float()  # (B, K)
    if inputs.dtype == torch.int64:
        raise DataError(
            f"augment.{'mixup' if config.mixup else 'cutmix'} is set for tokens of texts",
            expected="numbers, which can be blended",
            next_step="Switch it off.",
        )
    both = bool(config.mixup and config.cutmix)
    paste = _coin(generator) if both else bool(config.cutmix)
    partner = torch.randperm(len(inputs), generator=generator, device=generator.device).to(inputs.device)
    share = _beta(config.cutmix if paste else config.mixup, generator)
    if paste:
        inputs, share = _paste(inputs, inputs[partner], share, generator)
    else:
        values = inputs if inputs.is_floating_point() else inputs.float()
        inputs = torch.lerp(values, values[partner], 1 - share)  # λx + (1−λ)x'
    return inputs, share * targets + (1 - share) * targets[partner]


def _require_images(inputs: Tensor, name: str, *, at_least: int) -> None:
    if inputs.dim() != 4:
        raise DataError(
            f"augment.{name} is set for inputs of shape {tuple(inputs.shape)}",
            expected="images (B, C, H, W)",
            next_step=f"Switch augment.{name} off.",
        )
    side = min(inputs.shape[2:])
    if at_least > side:
        raise DataError(f"augment.{name} is {at_least} for images of {side} pixels", expected=f"at most {side}")


def _is_channels_last(inputs: Tensor) -> bool:
    return not inputs.is_contiguous() and inputs.is_contiguous(memory_format=torch.channels_last)


def _shift(inputs: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Zero padding of ``most`` pixels on each side, then a window of the old size at a random place of each image.

    A row of a window lies in one piece in memory, so the windows are rows picked out of the flat padded batch.
    """
    n_batch, n_channels, height, width = inputs.shape
    places = torch.randint(0, 2 * most + 1, (2, n_batch), generator=generator, device=generator.device)
    down, right = places.to(inputs.device)  # (B,), (B,)
    padded = F.pad(inputs, (most, most, most, most))
    wide = width + 2 * most
    lines = torch.arange(height, device=inputs.device)
    if _is_channels_last(inputs):
        flat = padded.permute(0, 2, 3, 1).reshape(-1)
        image = torch.arange(n_batch, device=inputs.device)[:, None] * (height + 2 * most)
        first = ((image + down[:, None] + lines) * wide + right[:, None]) * n_channels  # (B, H)
        rows = flat.unfold(0, width * n_channels, 1).index_select(0, first.flatten())
        return rows.view(n_batch, height, width, n_channels).permute(0, 3, 1, 2)
    flat = padded.reshape(-1)
    plane = torch.arange(n_batch * n_channels, device=inputs.device).view(n_batch, n_channels, 1)
    first = (plane * (height + 2 * most) + (down[:, None, None] + lines)) * wide + right[:, None, None]  # (B, C, H)
    return flat.unfold(0, width, 1).index_select(0, first.flatten()).view(inputs.shape)


def _cut_out(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square of zeros around a random pixel; what reaches over the border is lost, as in the paper."""
    n_batch, _, height, width = inputs.shape
    limits = torch.tensor([[height], [width]], device=generator.device)
    spots = torch.rand((2, n_batch), generator=generator, device=generator.device) * limits
    top, left = (spots.long() - side // 2).to(inputs.device)  # (B,), (B,)
    down = torch.arange(height, device=inputs.device) - top[:, None]  # (B, H) distance from the upper edge
    right = torch.arange(width, device=inputs.device) - left[:, None]  # (B, W)
    in_rows, in_columns = (down >= 0) & (down < side), (right >= 0) & (right < side)
    square = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
    return torch.where(square, torch.zeros((), dtype=inputs.dtype, device=inputs.device), inputs)


def _paste(inputs: Tensor, others: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """One box for the batch, of about 1−λ of the area around a random pixel; returns the λ that came out."""
    _require_images(inputs, "cutmix", at_least=0)
    height, width = inputs.shape[2:]
    edge = (1 - share) ** 0.5
    draws = torch.rand(2, generator=generator, device=generator.device).tolist()
    (top, bottom), (left, right) = (
        _span(int(draw * size), round(edge * size), size) for draw, size in zip(draws, (height, width), strict=True)
    )
    pasted = inputs.clone(memory_format=torch.preserve_format)
    pasted[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


def _span(centre: int, length: int, size: int) -> tuple[int, int]:
    start = centre - length // 2
    return max(0, start), min(size, start + length)


def _coin(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator, device=generator.device) < 0.5)


def _beta(alpha: float, generator: torch.Generator) -> float:
    # torch draws no Beta from a generator; NumPy does, seeded by a number that ours draws.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
