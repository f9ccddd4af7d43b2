"""The convolutional network with which the guide introduces training on MNIST.

Source: the guide "from theory to practice": conv 1→32 3×3, ReLU, max-pool 2, fc 32·13·13→10.
Deviation: none at (1, 28, 28) with 10 outputs and width 1.
"""

from __future__ import annotations

from torch import nn

from dimwise.models._parts import chain, drop, image_shape, scale


def guide_cnn(
    input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """One convolution, one dense layer: (C, H, W) → (32, H−2, W−2) → (32, (H−2)//2, (W−2)//2) → n_outputs.

    Example:
        >>> guide_cnn((1, 28, 28), 10).fc
        Linear(in_features=5408, out_features=10, bias=True)
    """
    channels, height, width_px = image_shape("guide_cnn", input_shape, least=4)
    n_filters = scale(32, width)
    n_features = n_filters * ((height - 2) // 2) * ((width_px - 2) // 2)
    return chain(
        [
            ("conv", nn.Conv2d(channels, n_filters, 3)),
            ("relu", nn.ReLU()),
            ("pool", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("drop", drop(dropout)),
            ("fc", nn.Linear(n_features, n_outputs)),
        ]
    )
