"""A small convolutional network of our own, for images from 8 × 8 up: quick to train, made to prune and quantize well.

Three stages of convolution, batch norm and ReLU, a global average and one dense layer. Each convolution is
followed by its norm, so an exporter folds the two into one; there are no branches, so any channel can leave; the
average makes the dense layer independent of the image size.

Source: the pattern is that of Springenberg et al. 2014, "Striving for simplicity: the all convolutional net"
(global average) with batch norm of Ioffe, Szegedy 2015; sizes are ours.
"""

from __future__ import annotations

from torch import nn

from dimwise.models._parts import chain, drop, image_shape, scale

STAGES = (32, 64, 64)


def small_cnn(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """Stages of 32, 64 and 64 channels (times width); the map is halved between two while it is above 4 pixels.

    Example:
        >>> net = small_cnn((1, 8, 8), 10)
        >>> [name for name, _ in net.named_children()][:5], net.fc
        (['conv1', 'norm1', 'relu1', 'pool1', 'conv2'], Linear(in_features=64, out_features=10, bias=True))
    """
    channels, height, width_px = image_shape("small_cnn", input_shape)
    layers: list[tuple[str, nn.Module | None]] = []
    for i, stage in enumerate(STAGES, 1):
        n_filters = scale(stage, width)
        layers += [
            (f"conv{i}", nn.Conv2d(channels, n_filters, 3, padding=1, bias=False)),
            (f"norm{i}", nn.BatchNorm2d(n_filters)),
            (f"relu{i}", nn.ReLU()),
        ]
        if i < len(STAGES) and min(height, width_px) > 4:
            layers.append((f"pool{i}", nn.MaxPool2d(2)))
            height, width_px = height // 2, width_px // 2
        channels = n_filters
    layers += [
        ("average", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("drop", drop(dropout)),
        ("fc", nn.Linear(channels, n_outputs)),
    ]
    return chain(layers)
