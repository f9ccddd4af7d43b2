"""Images that grow: the sizes, the pixels, and the same batches otherwise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dimwise.data.augment import AugmentConfig
from dimwise.data.batches import TensorBatches
from dimwise.data.grow import Growing, shrink, side_frac
from dimwise.errors import DataError, ModelError
from dimwise.train import TrainConfig, fit


@given(n_epochs=st.integers(1, 200), start=st.floats(0.1, 1.0))
def test_images_never_shrink_and_end_at_full_size(n_epochs, start):
    sides = [side_frac(epoch, n_epochs, start) for epoch in range(n_epochs)]
    assert sides == sorted(sides)
    assert sides[0] == start
    assert n_epochs < 4 or sides[-1] == 1


def test_a_pixel_is_the_mean_of_its_area():
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(shrink(x, 0.5), x.view(2, 3, 8, 2, 8, 2).mean((3, 5)))
    assert shrink(x, 1.0) is x


def test_memory_order_is_kept():
    x = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
    assert shrink(x, 0.5).is_contiguous(memory_format=torch.channels_last)


def test_rows_of_a_table_cannot_shrink():
    with pytest.raises(DataError, match=r"augment.grow_from is set for inputs of shape \(5,\)"):
        shrink(torch.rand(2, 5), 0.5)


def test_only_the_size_differs_from_the_batches_inside():
    x, y = torch.rand(10, 1, 16, 16), torch.arange(10)
    inside = TensorBatches(x, y, 4, seed=0)
    growing = Growing(inside, 0.5, 10)
    assert (growing.n_batches, growing.n_samples) == (inside.n_batches, inside.n_samples)
    for epoch, side in ((0, 8), (5, 12), (9, 16)):
        pairs = list(zip(growing.epoch(epoch), inside.epoch(epoch), strict=True))
        assert [a[1].tolist() for a, _ in pairs] == [b[1].tolist() for _, b in pairs]
        assert {tuple(a[0].shape[2:]) for a, _ in pairs} == {(side, side)}
    assert [y.tolist() for _, y in growing.epoch(3, 1)] == [y.tolist() for _, y in inside.epoch(3, 1)]


def test_training_grows_and_a_network_of_fixed_size_is_refused_before_it_starts():
    x, y = torch.rand(16, 1, 16, 16), torch.arange(16) % 2
    seen = []

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

        def forward(self, x):
            if self.training:
                seen.append(x.shape[-1])
            return self.net(x)

    config = TrainConfig(epochs=10, batch_size=16, precision="fp32", layout="contiguous")
    fit(Pooled(), (x, y), config=config, augment=AugmentConfig(grow_from=0.5))
    assert seen == [8] * 4 + [12] * 3 + [16] * 3
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    with pytest.raises(ModelError, match=r"does not take inputs of shape \(B, 1, 8, 8\)"):
        fit(fixed, (x, y), config=config, augment=AugmentConfig(grow_from=0.5))
