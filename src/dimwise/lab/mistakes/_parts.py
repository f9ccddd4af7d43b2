"""What the scripts of this folder share: the data, three small networks, the command line. The loops are their own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

# Networks of this size are slowed down, not sped up, by a second thread.
torch.set_num_threads(1)

ALL = ("cnn", "lstm", "transformer")
WIDTH = 64
"""Features that every body gives to its head."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def arguments(archs: Sequence[str], epochs: int = 5, variants: Sequence[str] = ("",)) -> argparse.Namespace:
    """The command line of one script; the first of ``archs`` and of ``variants`` is the default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mended", action="store_true", help="run the cure instead of the mistake")
    parser.add_argument("--arch", choices=archs, default=archs[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--variant", choices=variants, default=variants[0])
    return parser.parse_args()


def raw_digits(seed: int = 0) -> Arrays:
    """scikit-learn's digits, (N, 8, 8) in 0..16 as float32, split at random: train x, y (1437), valid x, y (360)."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(images))
    train, valid = order[:1437], order[1437:]
    return images[train], labels[train], images[valid], labels[valid]


def digits(seed: int = 0) -> Tensors:
    """The same as tensors (N, 1, 8, 8), standardised with mean and deviation of the training part."""
    x_train, y_train, x_valid, y_valid = (torch.from_numpy(part) for part in raw_digits(seed))
    mean, std = x_train.mean(), x_train.std()
    return (x_train[:, None] - mean) / std, y_train, (x_valid[:, None] - mean) / std, y_valid


class Cnn(nn.Sequential):
    """Two convolutions and a dense layer: (N, channels, 8, 8) -> (N, WIDTH)."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, WIDTH),
            nn.ReLU(),
        )


class Lstm(nn.Module):
    """The eight rows as a sequence, the last state as features: (N, 1, 8, 8) -> (N, WIDTH)."""

    def __init__(self, n_inputs: int = 8) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_inputs, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1) if x.dim() == 4 else x
        _, (last, _) = self.lstm(rows)
        return last[-1]


class Transformer(nn.Module):
    """The eight rows as tokens, their mean as features: (N, 1, 8, 8) -> (N, WIDTH)."""

    def __init__(self, n_inputs: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(8, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1) if x.dim() == 4 else x
        return self.encoder(self.embed(rows) + self.place).mean(1)


class Network(nn.Module):
    """A body that makes features and a head that reads them."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def build_body(arch: str) -> nn.Module:
    """One of the three bodies by its name."""
    return {"cnn": Cnn, "lstm": Lstm, "transformer": Transformer}[arch]()


def build(arch: str, n_outputs: int = 10) -> Network:
    """A whole network: one of the three bodies and a linear head."""
    return Network(build_body(arch), nn.Linear(WIDTH, n_outputs))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers, in eval mode and without gradients; the mode is put back."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean()
    model.train(was_training)
    return float(right)


def report(score: float, name: str = "accuracy") -> None:
    """The last line of every script."""
    print(f"score={score:.4f} name={name}", flush=True)
