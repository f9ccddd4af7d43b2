"""A convolutional network of our own for images of about 28 × 28, made to be trained in seconds on a CPU.

On a CPU the elementwise passes over large maps (norm, ReLU, pooling) cost as much as the products. So the map is
halved by the first convolution already, pooling comes before norm and ReLU (the same function where the norm's scale
is positive, a quarter of the work), and the last convolution keeps its positions for the dense layer.

Source: strides instead of early pooling as in Springenberg et al. 2014, "Striving for simplicity: the all
convolutional net"; pooling before the nonlinearity as in tuomaso's train_mnist_fast (2019); sizes are ours.
"""

from __future__ import annotations

from torch import nn

from dimwise.models._parts import chain, drop, image_shape, scale

STAGES = (16, 32, 48)


def fast_cnn(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """(C, H, W) → (16, H/2, W/2) → (32, H/4, W/4) → (48, H/4−2, W/4−2) → n_outputs.

    Example:
        >>> sum(p.numel() for p in fast_cnn((1, 28, 28), 10).parameters())
        30890
    """
    channels, height, width_px = image_shape("fast_cnn", input_shape, least=12)
    first, second, third = (scale(stage, width) for stage in STAGES)
    # The strided convolution halves (rounding down), the pool halves again, the last convolution takes the border.
    n_features = third * (height // 2 // 2 - 2) * (width_px // 2 // 2 - 2)
    return chain(
        [
            ("conv1", nn.Conv2d(channels, first, 4, stride=2, padding=1, bias=False)),
            ("norm1", nn.BatchNorm2d(first)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(first, second, 3, padding=1, bias=False)),
            ("pool2", nn.MaxPool2d(2)),
            ("norm2", nn.BatchNorm2d(second)),
            ("relu2", nn.ReLU()),
            ("conv3", nn.Conv2d(second, third, 3, bias=False)),
            ("norm3", nn.BatchNorm2d(third)),
            ("relu3", nn.ReLU()),
            ("flatten", nn.Flatten()),
            ("drop", drop(dropout)),
            ("fc", nn.Linear(n_features, n_outputs)),
        ]
    )
