"""LeNet-5, the convolutional network that read cheques.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", II.B.

Deviations, the usual ones: sub-sampling is a plain 2 × 2 average without trained coefficient and bias, C3 sees
all six maps of S2 instead of chosen subsets, tanh is not rescaled by 1.7159, and the output is linear with
cross-entropy instead of radial basis functions. Images of 28 to 31 pixels are padded by 2, as the paper did with
MNIST; larger ones give C5 more than one position.
"""

from __future__ import annotations

from torch import nn

from dimwise.models._parts import chain, drop, image_shape, scale


def lenet5(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> nn.Sequential:
    """C1 6@28×28, S2 6@14×14, C3 16@10×10, S4 16@5×5, C5 120@1×1, F6 84, output; tanh between.

    Example:
        >>> sum(p.numel() for p in lenet5((1, 32, 32), 10).parameters())
        61706
    """
    channels, height, width_px = image_shape("lenet5", input_shape, least=28)
    padding = 2 if min(height, width_px) < 32 else 0
    rows, columns = (((n + 2 * padding - 4) // 2 - 4) // 2 - 4 for n in (height, width_px))
    c1, c3, c5, f6 = (scale(n, width) for n in (6, 16, 120, 84))
    return chain(
        [
            ("c1", nn.Conv2d(channels, c1, 5, padding=padding)),
            ("tanh1", nn.Tanh()),
            ("s2", nn.AvgPool2d(2)),
            ("c3", nn.Conv2d(c1, c3, 5)),
            ("tanh3", nn.Tanh()),
            ("s4", nn.AvgPool2d(2)),
            ("c5", nn.Conv2d(c3, c5, 5)),
            ("tanh5", nn.Tanh()),
            ("flatten", nn.Flatten()),
            ("f6", nn.Linear(c5 * rows * columns, f6)),
            ("tanh6", nn.Tanh()),
            ("drop", drop(dropout)),
            ("output", nn.Linear(f6, n_outputs)),
        ]
    )
