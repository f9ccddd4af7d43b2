"""Multi-layer perceptron: the network for tables, and the least one for images.

Source: Rumelhart, Hinton, Williams 1986, "Learning representations by back-propagating errors".
Deviation: ReLU instead of the logistic function (Nair, Hinton 2010).
"""

from __future__ import annotations

from math import prod

from torch import nn

from dimwise.errors import ModelError
from dimwise.models._parts import chain, drop, scale


def mlp(input_shape: tuple[int, ...], n_outputs: int, *, width: float = 1.0, dropout: float = 0.0) -> nn.Sequential:
    """One hidden layer: y = W₂ max(0, W₁ x + b₁) + b₂, with 128 · width hidden units.

    Args:
        input_shape: any shape without the batch dimension; it is flattened.
        n_outputs: numbers returned for one input.
        width: factor on the 128 hidden units.
        dropout: probability, after the ReLU.

    Example:
        >>> [tuple(p.shape) for p in mlp((64,), 10).parameters()]
        [(128, 64), (128,), (10, 128), (10,)]
    """
    if not input_shape or min(input_shape) < 1:
        raise ModelError(f"mlp cannot take input of shape {tuple(input_shape)}", expected="sizes of at least 1")
    n_hidden = scale(128, width)
    return chain(
        [
            ("flatten", nn.Flatten() if len(input_shape) > 1 else None),
            ("fc1", nn.Linear(prod(input_shape), n_hidden)),
            ("relu1", nn.ReLU()),
            ("drop1", drop(dropout)),
            ("fc2", nn.Linear(n_hidden, n_outputs)),
        ]
    )
