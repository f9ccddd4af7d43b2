"""MobileNetV2: wide inside, narrow between; almost all arithmetic is in 1 × 1 convolutions.

Source: Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
Deviation: images below 64 pixels pass the stem and the first stage with a stride of 2 whole, since the paper's strides
divide by 32, which leaves one pixel of 32 to decide on; they are divided by 8. Dropout before the classifier is off
unless asked for; published training used 0.2. Parameter names are torchvision's, so published weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

from dimwise.models._parts import image_shape, scale

# (expansion t, channels c, repeats n, stride s of the first), the rows of table 2
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
SMALL = 64
"""Pixels of the shorter side below which the first two strides are 1."""


def _conv_norm_relu(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1 × 1 up to t·C channels, 3 × 3 per channel, 1 × 1 down without ReLU; x is added where the shapes agree."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        n_mid = n_in * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv_norm_relu(n_in, n_mid, 1)]
        layers.append(_conv_norm_relu(n_mid, n_mid, 3, stride, groups=n_mid))
        layers += [nn.Conv2d(n_mid, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) → (N, n_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, 1 × 1 convolution, global average, dense layer."""

    def __init__(self, in_channels: int, n_outputs: int, *, small: bool, width: float, dropout: float) -> None:
        super().__init__()
        n_in = scale(32, width)
        layers: list[nn.Module] = [_conv_norm_relu(in_channels, n_in, 3, stride=1 if small else 2)]
        for stage, (expansion, channels, repeats, first_stride) in enumerate(STAGES):
            n_out = scale(channels, width)
            for i in range(repeats):
                stride = first_stride if i == 0 and not (small and stage == 1) else 1
                layers.append(InvertedResidual(n_in, n_out, stride, expansion))
                n_in = n_out
        n_last = scale(1280, max(1.0, width))  # the paper does not narrow the last layer
        layers.append(_conv_norm_relu(n_in, n_last, 1))
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_last, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, n_outputs)."""
        x = self.features(x)  # (N, 1280, ⌈H/32⌉, ⌈W/32⌉), of small images ⌈H/8⌉
        return self.classifier(self.flatten(self.average(x)))


def mobilenetv2(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> MobileNetV2:
    """3,504,872 parameters at (3, 224, 224) with 1000 outputs.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     sum(p.numel() for p in mobilenetv2((3, 224, 224), 1000).parameters())
        3504872
    """
    in_channels, height, width_px = image_shape("mobilenetv2", input_shape)
    return MobileNetV2(in_channels, n_outputs, small=min(height, width_px) < SMALL, width=width, dropout=dropout)
