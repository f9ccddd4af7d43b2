from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

import dimwise.data
from dimwise import recipe
from dimwise.data import SOURCES, DataConfig, data_folder, load
from dimwise.data.describe import WHAT
from dimwise.data.fetch import DOWNLOADS
from dimwise.data.find import FINDERS
from dimwise.errors import RecipeError


def test_table_and_folder_agree():
    folder = Path(dimwise.data.__file__).parent / "sources"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {place.partition(":")[0].rpartition(".")[2] for place in SOURCES.values()} == files


def test_all_tables_name_the_same_sources():
    config = get_args(get_type_hints(DataConfig)["source"])
    assert set(SOURCES) == set(WHAT) == set(config)
    assert set(DOWNLOADS) == set(FINDERS) <= set(SOURCES)


def test_every_field_says_unit_and_default():
    described = recipe.describe(DataConfig)
    assert all("Default" in text for text in described.values())
    assert len(described) == 12


def test_an_unknown_source_and_a_fraction_out_of_range():
    with pytest.raises(RecipeError, match=r"source = 'minst' is not valid; expected 'digits', 'mnist'"):
        recipe.build(DataConfig, {"source": "minst"})
    with pytest.raises(RecipeError, match=r"valid_frac = 0\.9 is not valid; expected less than or equal to 0\.45"):
        recipe.build(DataConfig, {"valid_frac": 0.9})


def test_digits():
    data = load(DataConfig(source="digits"))
    assert data.train.inputs.dtype == torch.uint8
    assert len(data.train) + len(data.valid) + len(data.test) == 1797
    assert data.train.inputs.max() == 255
    assert len(data.train.inputs.unique()) == 17
    again = load(DataConfig(source="digits"))
    assert torch.equal(data.valid.inputs, again.valid.inputs)
    other = load(DataConfig(source="digits", split_seed=1))
    assert not torch.equal(data.valid.inputs, other.valid.inputs)


def test_where_the_data_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("DIMWISE_DATA", str(tmp_path / "named"))
    assert data_folder(tmp_path) == tmp_path
    assert data_folder() == tmp_path / "named"
    monkeypatch.delenv("DIMWISE_DATA")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "dimwise" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "dimwise" / "data"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_folder() == tmp_path / "Library" / "Caches" / "dimwise" / "data"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert data_folder() == tmp_path / "local" / "dimwise" / "data"


def test_the_room_is_light_until_it_is_used():
    code = "import sys, dimwise.data; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_come_late_and_wrong_ones_are_refused():
    assert dimwise.data.AugmentConfig().flip is False
    with pytest.raises(AttributeError, match=r"'dimwise\.data' has no attribute 'Dta'"):
        _ = dimwise.data.Dta
