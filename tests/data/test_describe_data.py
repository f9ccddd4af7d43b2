from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dimwise.data import DataConfig, load
from dimwise.data.assemble import Raw, assemble
from dimwise.data.describe import WHAT, contact_sheet, describe, list_sources
from dimwise.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig(source="digits"))


def toy(task="classification", inputs=None, targets=None, labels=("a", "b")):
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 6), dtype=np.uint8) if inputs is None else inputs
    y = np.arange(40) % 2 if targets is None else targets
    return assemble(Raw("toy", (x, y), labels, task), DataConfig())


def test_counts_and_statistics(digits):
    told = describe(digits)
    assert told["splits"]["test"]["classes"]["3"] == int((digits.test.targets == 3).sum())
    assert sum(told["splits"]["train"]["classes"].values()) == told["splits"]["train"]["n"] == 1258
    scaled = digits.train.inputs.double() / 255
    assert told["input"]["mean"] == pytest.approx([scaled.mean().item()])
    assert told["input"]["std"] == pytest.approx([scaled.std(correction=0).item()])
    assert (told["input"]["min"], told["input"]["max"]) == (0, 255)
    assert 1.0 <= told["imbalance"] < 1.1


def test_it_is_plain_json(digits):
    assert json.loads(json.dumps(describe(digits))) == describe(digits)


def test_regression_is_told_in_its_own_unit():
    y = np.linspace(100, 300, 40)[:, None]
    told = describe(toy("regression", targets=y, labels=("price",)))
    assert told["splits"]["train"]["targets"]["price"]["mean"] == pytest.approx(200, abs=15)
    assert told["imbalance"] is None


def test_multilabel_counts_each_label():
    y = np.stack([np.ones(40), np.arange(40) % 2], axis=1)
    told = describe(toy("multilabel", targets=y))
    assert told["splits"]["train"]["classes"] == {"a": 28, "b": pytest.approx(14, abs=6)}


def test_a_table_names_its_features(tmp_path):
    rows = "\n".join(f"{i % 7},{'xyz'[i % 3]},{i % 2}" for i in range(40))
    (tmp_path / "t.csv").write_text("n,c,y\n" + rows)
    told = describe(load(DataConfig(source="csv", path="t.csv", target="y"), tmp_path))
    assert told["input"]["features"] == ["n", "c=x", "c=y", "c=z"]
    assert len(told["input"]["mean"]) == 4


def test_a_contact_sheet_shows_the_images_themselves(tmp_path):
    data = toy()
    path = contact_sheet(data, tmp_path / "deep" / "sheet.png")
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 64 + 4, 132 + 8 * 64 + 3 * 4 + 4, 3)
    first = data.train.inputs[data.train.targets == 1][0].permute(1, 2, 0).numpy()  # class b, second line
    top, left = 4 + 64, 4 + 132
    shown = sheet[top : top + 60 : 10, left : left + 60 : 10]  # six pixels, each ten wide
    assert np.array_equal(shown, first)


@pytest.mark.parametrize("n_classes", [3, 100])
def test_many_classes_stand_in_several_blocks(tmp_path, n_classes):
    x = np.zeros((n_classes * 4, 1, 32, 32), np.uint8)
    data = toy(inputs=x, targets=np.arange(n_classes * 4) % n_classes, labels=[f"class {i}" for i in range(n_classes)])
    with Image.open(contact_sheet(data, tmp_path / "sheet.png")) as sheet:
        width, height = sheet.size
    assert width < 2400
    assert height <= 1700


def test_other_tasks_have_a_sheet_too(tmp_path):
    several = toy("multilabel", targets=np.eye(2)[np.arange(40) % 2])
    amounts = toy("regression", targets=np.linspace(0, 1, 40)[:, None], labels=("y",))
    for data in (several, amounts):
        assert contact_sheet(data, tmp_path / "sheet.png").stat().st_size > 1000


def test_a_table_has_no_sheet(tmp_path):
    data = toy(inputs=np.zeros((40, 5), np.float32))
    with pytest.raises(DataError, match=r"toy has inputs \(28, 5\) torch\.float32; expected images"):
        contact_sheet(data, tmp_path / "sheet.png")


def test_long_names_are_cut(tmp_path):
    data = toy(labels=("a very long name of a class that fits nowhere at all", "b"))
    assert contact_sheet(data, tmp_path / "sheet.png").exists()


def test_every_source_is_listed(tmp_path):
    listed = {source["name"]: source for source in list_sources(tmp_path)}
    assert set(listed) == set(WHAT)
    assert listed["digits"]["found"] == "built in"
    assert listed["mnist"]["found"] == ""
    assert listed["mnist"]["download_bytes"] == 11594722
    assert listed["csv"]["found"] is None


@pytest.mark.real
def test_what_is_found_is_told(data_dir):
    found = {source["name"]: source["found"] for source in list_sources(data_dir)}
    assert found["cifar10"] == str(data_dir / "cifar10")
    assert found["fashion"] == str(data_dir / "fashion_mnist")


def test_digits_are_not_changed_by_looking(digits, tmp_path):
    before = digits.train.inputs.clone()
    contact_sheet(digits, tmp_path / "sheet.png")
    assert torch.equal(before, digits.train.inputs)
