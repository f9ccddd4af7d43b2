"""Channel rounding, the config and He initialisation."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dimwise import recipe
from dimwise.errors import RecipeError
from dimwise.models import MODELS, build
from dimwise.models._parts import scale
from dimwise.models.config import ModelConfig
from dimwise.models.init import he_init_


@given(st.integers(1, 2048), st.floats(0.01, 16))
def test_scaled_channels_are_few_or_a_multiple_of_eight_and_near(channels: int, width: float) -> None:
    n = scale(channels, width)
    wanted = channels * width
    assert n >= 1
    if width == 1:
        assert n == channels
    elif wanted <= 8:
        assert n <= 8
        assert abs(n - wanted) <= max(0.5, 1 - wanted)
    else:
        assert n % 8 == 0
        assert n >= 0.9 * wanted
        assert n <= wanted + 8


def test_scale_follows_the_mobilenet_reference() -> None:
    assert [scale(c, 0.35) for c in (32, 24, 64, 96, 160, 320)] == [16, 8, 24, 32, 56, 112]
    assert [scale(c, 1.4) for c in (32, 16, 24, 1280)] == [48, 24, 32, 1792]


def test_config_round_trip_and_limits() -> None:
    assert ModelConfig().name in MODELS
    made = ModelConfig(name="mlp", width=0.5, dropout=0.1)
    assert recipe.build(ModelConfig, recipe.parse(recipe.to_toml(made))) == made
    with pytest.raises(RecipeError, match=r"width = 0 is not valid"):
        recipe.build(ModelConfig, {"width": 0})
    with pytest.raises(RecipeError, match=r"dropout = 1\.5 is not valid"):
        recipe.build(ModelConfig, {"dropout": 1.5})
    assert all(recipe.describe(ModelConfig).values())


def test_he_init_has_the_stated_deviations() -> None:
    conv = nn.Conv2d(16, 64, 3)
    depthwise = nn.Conv2d(512, 512, 3, groups=512)
    dense = nn.Linear(200, 100)
    for layer, fan in ((conv, 64 * 9), (depthwise, 9), (dense, 200)):
        he_init_(layer, generator=torch.Generator().manual_seed(0))
        assert layer.weight.detach().std(correction=0).item() == pytest.approx((2 / fan) ** 0.5, rel=0.03)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_he_init_keeps_the_signal_through_many_relu_layers() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(256, 256), nn.ReLU())])
    x = torch.randn(64, 256)
    lost = deep(x).var(0).mean()  # between inputs: biases alone keep a constant alive
    kept = he_init_(deep)(x).var(0).mean()
    assert lost < 1e-6
    assert 0.01 < kept < 20


def test_he_init_resets_norms_and_is_seeded() -> None:
    model = build("small_cnn", (1, 8, 8), 3)
    norm = model.get_submodule("norm1")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.constant_(norm.weight, 7.0)
    nn.init.constant_(norm.bias, 7.0)
    he_init_(model, generator=torch.Generator().manual_seed(1))
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    again = he_init_(build("small_cnn", (1, 8, 8), 3), generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_listing_the_table_needs_no_torch() -> None:
    code = "import sys, dimwise.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
