"""Residual networks for ImageNet: 18 layers of basic blocks, 50 and 152 of bottlenecks.

Source: He, Zhang, Ren, Sun 2015, "Deep residual learning for image recognition", table 1; shortcuts are option B.
Deviation: in a bottleneck the 3 × 3 convolution strides, not the first 1 × 1 ("v1.5"): about half a point better
for 7 % more multiplications, and what published weights are for. Parameter names are torchvision's, so they load.
Small images go through the same stem, which divides the size by 4 and the whole network by 32: below 64 pixels
``resnet20`` and ``small_cnn`` see more.
"""

from __future__ import annotations

from torch import Tensor, nn

from dimwise.models._parts import image_shape, scale


class BasicBlock(nn.Module):
    """y = ReLU(F(x) + shortcut(x)) with F of two 3 × 3 convolutions."""

    expansion = 1

    def __init__(self, n_in: int, n_mid: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_mid, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_mid)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_mid, n_mid, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_mid)
        self.relu2 = nn.ReLU()
        self.downsample = _shortcut(n_in, n_mid, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) → (N, n_mid, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.downsample(x))


class Bottleneck(nn.Module):
    """y = ReLU(F(x) + shortcut(x)) with F of 1 × 1, 3 × 3, 1 × 1 convolutions, the last four times as wide."""

    expansion = 4

    def __init__(self, n_in: int, n_mid: int, stride: int) -> None:
        super().__init__()
        n_out = n_mid * self.expansion
        self.conv1 = nn.Conv2d(n_in, n_mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_mid)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_mid, n_mid, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_mid)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(n_mid, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.relu3 = nn.ReLU()
        self.downsample = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_in, H, W) → (N, 4·n_mid, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.downsample(x))


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    """Option B: nothing where the shapes agree, a 1 × 1 convolution where they do not."""
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """Stem, four stages, global average, dense layer."""

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        width: float,
        dropout: float,
    ) -> None:
        super().__init__()
        n_in = scale(64, width)
        self.conv1 = nn.Conv2d(in_channels, n_in, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for depth, channels, stride in zip(depths, (64, 128, 256, 512), (1, 2, 2, 2), strict=True):
            n_mid = scale(channels, width)
            n_out = n_mid * block.expansion
            first = block(n_in, n_mid, stride)
            stages.append(nn.Sequential(first, *(block(n_out, n_mid, 1) for _ in range(depth - 1))))
            n_in = n_out
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(n_in, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, n_outputs)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, ⌈H/4⌉, ⌈W/4⌉)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512·expansion, ⌈H/32⌉, ⌈W/32⌉)
        return self.fc(self.dropout(self.flatten(self.avgpool(x))))


def resnet18(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> ResNet:
    """Two basic blocks in each of four stages; 11,689,512 parameters at (3, 224, 224) with 1000 outputs."""
    in_channels, _, _ = image_shape("resnet18", input_shape)
    return ResNet(in_channels, n_outputs, block=BasicBlock, depths=(2, 2, 2, 2), width=width, dropout=dropout)


def resnet50(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> ResNet:
    """3, 4, 6 and 3 bottlenecks; 25,557,032 parameters at (3, 224, 224) with 1000 outputs."""
    in_channels, _, _ = image_shape("resnet50", input_shape)
    return ResNet(in_channels, n_outputs, block=Bottleneck, depths=(3, 4, 6, 3), width=width, dropout=dropout)


def resnet152(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> ResNet:
    """3, 8, 36 and 3 bottlenecks; 60,192,808 parameters at (3, 224, 224) with 1000 outputs."""
    in_channels, _, _ = image_shape("resnet152", input_shape)
    return ResNet(in_channels, n_outputs, block=Bottleneck, depths=(3, 8, 36, 3), width=width, dropout=dropout)
