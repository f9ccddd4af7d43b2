"""The room's door and its config."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

from dimwise import recipe, ship
from dimwise.errors import RecipeError


def test_every_export_resolves() -> None:
    assert len(ship.EXPORTS) > 10
    for name, home in ship.EXPORTS.items():
        assert getattr(ship, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match=r"'dimwise\.ship' has no attribute 'to_tflite'"):
        _ = ship.to_tflite


def test_no_module_hides_an_export() -> None:
    """``import dimwise.ship.x`` puts the module x where the function x would be."""
    modules = {module.name for module in pkgutil.iter_modules(ship.__path__)}
    assert len(modules) > 5
    assert not modules & set(ship.EXPORTS)


def test_the_door_is_light() -> None:
    script = "import sys, dimwise.ship; print(sorted({'torch', 'numpy', 'onnxruntime', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_goes_through_toml() -> None:
    config = recipe.build(ship.ShipConfig, {"threads": 2, "batches": [5, 7]})
    assert recipe.build(ship.ShipConfig, recipe.parse(recipe.to_toml(config))) == config


@pytest.mark.parametrize(
    "bad",
    [
        {"threads": 0},
        {"batches": [0]},
        {"batches": []},
        {"opset": 7},
        {"parity_tolerance": 0.0},
        {"parity_int8_tolerance": 0.0},
    ],
)
def test_values_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(bad))):
        recipe.build(ship.ShipConfig, bad)
