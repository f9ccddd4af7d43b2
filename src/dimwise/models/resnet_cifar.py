"""The thin residual networks of the CIFAR experiments: 6n + 2 layers, three stages of 16, 32 and 64 channels.

Source: He, Zhang, Ren, Sun 2015, "Deep residual learning for image recognition", section 4.2.
Deviation: none. Shortcuts are the paper's option A (every second pixel, new channels zero, no parameters), hence its
0.27 M parameters for 20 layers and 0.85 M for 56.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dimwise.models._parts import image_shape, scale


class PadShortcut(nn.Module):
    """Option A: (N, C, H, W) → (N, zeros_before + C + zeros_after, ⌈H/stride⌉, ⌈W/stride⌉), no parameters."""

    def __init__(self, zeros_before: int, zeros_after: int, stride: int) -> None:
        super().__init__()
        self.zeros_before = zeros_before
        self.zeros_after = zeros_after
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Take every ``stride``-th pixel and put channels of zeros around."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.zeros_before, self.zeros_after))


class Block(nn.Module):
    """y = ReLU(F(x) + shortcut(x)) with F of two 3 × 3 convolutions, each with batch norm."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        zeros = n_out - n_in
        same = stride == 1 and zeros == 0
        self.shortcut = nn.Identity() if same else PadShortcut(zeros // 2, zeros - zeros // 2, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) → (N, n_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Convolution, three stages of ``n_blocks`` blocks, global average, dense layer."""

    def __init__(
        self, in_channels: int, n_outputs: int, *, n_blocks: int, channels: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU()
        n_in = channels[0]
        stages = []
        for i, n_out in enumerate(channels):
            sizes = [n_in] + [n_out] * (n_blocks - 1)
            strides = [1 if i == 0 else 2] + [1] * (n_blocks - 1)
            stages.append(nn.Sequential(*(Block(a, n_out, stride) for a, stride in zip(sizes, strides, strict=True))))
            n_in = n_out
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(n_in, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, n_outputs)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.stages(x)
        return self.fc(self.dropout(self.flatten(self.average(x))))


def resnet20(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> CifarResNet:
    """Three blocks per stage, 20 layers.

    Example:
        >>> sum(p.numel() for p in resnet20((3, 32, 32), 10).parameters())
        269722
    """
    return _resnet("resnet20", input_shape, n_outputs, 3, width, dropout)


def resnet56(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> CifarResNet:
    """Nine blocks per stage, 56 layers.

    Example:
        >>> sum(p.numel() for p in resnet56((3, 32, 32), 10).parameters())
        853018
    """
    return _resnet("resnet56", input_shape, n_outputs, 9, width, dropout)


def _resnet(
    name: str, input_shape: tuple[int, ...], n_outputs: int, n_blocks: int, width: float, dropout: float
) -> CifarResNet:
    in_channels, _, _ = image_shape(name, input_shape)
    channels = tuple(scale(n, width) for n in (16, 32, 64))
    return CifarResNet(in_channels, n_outputs, n_blocks=n_blocks, channels=channels, dropout=dropout)
