"""A convolutional network of our own for images of about 28 × 28, made to be trained in seconds on a CPU.

On a CPU the elementwise passes over large maps (norm, ReLU, pooling) cost as much as the products. So the map is
halved by the first convolution already, no convolution pads (the border of a digit is empty), pooling comes before norm
and ReLU (the same function where the norm's scale is positive, a quarter of the work), and the last convolution keeps
its positions for the dense layer.

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
    """(C, 28, 28) → (16, 12, 12) → (32, 10, 10) → (32, 5, 5) → (48, 3, 3) → n_outputs; other sizes alike.

    Example:
        >>> sum(p.numel() for p in fast_cnn((1, 28, 28), 10).parameters())
        23354
    """
    channels, height, width_px = image_shape("fast_cnn", input_shape, least=19)
    first, second, third = (scale(stage, width) for stage in STAGES)
    n_features = third * _side(height) * _side(width_px)
    return chain(
        [
            ("conv1", nn.Conv2d(channels, first, 5, stride=2, bias=False)),
            ("norm1", nn.BatchNorm2d(first)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(first, second, 3, bias=False)),
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


def _side(pixels: int) -> int:
    """Side of the last map: 5 × 5 at stride 2, 3 × 3, halved by the pool, 3 × 3."""
    return (((pixels - 5) // 2 + 1) - 2) // 2 - 2
