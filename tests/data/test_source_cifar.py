from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dimwise.data import DataConfig, load
from dimwise.data.sources.cifar import CIFAR10, find
from dimwise.errors import DataError

FINE = [f"fine{i}" for i in range(100)]


def pictures(n, seed):
    """(N, 3, 32, 32) and labels below 10."""
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10


def write_python10(folder):
    folder.mkdir(parents=True)
    for i, name in enumerate(["data_batch_1", *(f"data_batch_{k}" for k in range(2, 6)), "test_batch"]):
        x, y = pictures(20, i)
        batch = {"batch_label": name, "labels": y.tolist(), "data": x.reshape(20, -1), "filenames": ["f"] * 20}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [name.encode() for name in CIFAR10]}, protocol=2)
    )


def write_binary10(folder):
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        x, y = pictures(20, i)
        (folder / name).write_bytes(np.concatenate([y[:, None].astype(np.uint8), x.reshape(20, -1)], 1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")


def write_sheets10(folder):
    folder.mkdir(parents=True)
    labels: dict[str, Any] = {}
    for part, seeds in (("train", range(5)), ("test", [5])):
        for i, seed in enumerate(seeds):
            x, _ = pictures(20, seed)
            sheet = x.transpose(0, 2, 3, 1).reshape(-1, 32, 3)
            Image.fromarray(sheet).save(folder / f"{part}_{i:03d}.webp", lossless=True)
        labels[f"{part}_labels"] = np.tile(np.arange(20) % 10, len(seeds)).astype(np.uint8)
    np.savez(folder / "labels.npz", class_names=np.array(CIFAR10), **labels)


def write_npz10(folder):
    folder.mkdir(parents=True)
    train = [pictures(20, i) for i in range(5)]
    x, y = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    test = pictures(20, 5)
    np.savez(
        folder / "cifar10.npz",
        x_train=x.transpose(0, 2, 3, 1),
        y_train=y,
        x_test=test[0].transpose(0, 2, 3, 1),
        y_test=test[1],
        class_names=np.array(CIFAR10),
    )


FORMS = {
    "python": (write_python10, "cifar-10-batches-py"),
    "python below": (write_python10, "cifar10/cifar-10-batches-py"),
    "python itself": (write_python10, "cifar10"),
    "binary": (write_binary10, "cifar-10-batches-bin"),
    "binary below": (write_binary10, "cifar10/cifar-10-batches-bin"),
    "sheets": (write_sheets10, "cifar10"),
    "npz": (write_npz10, "cifar10"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels_and_labels(tmp_path, form):
    write, folder = FORMS[form]
    write(tmp_path / folder)
    data = load(DataConfig(source="cifar10"), tmp_path)
    assert data.labels == CIFAR10
    assert (len(data.train), len(data.valid), len(data.test)) == (90, 10, 20)
    expected, labels = pictures(20, 5)
    assert torch.equal(data.test.inputs, torch.from_numpy(expected))
    assert data.test.targets.tolist() == labels.tolist()
    assert "100 of the 50000 official training images" in data.notes


def test_npz_at_the_top(tmp_path):
    write_npz10(tmp_path / "x")
    assert find("cifar10", tmp_path / "x") == tmp_path / "x" / "cifar10.npz"


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar100_takes_the_fine_labels(tmp_path, form):
    x, y = pictures(20, 0)
    fine, coarse = y + 90, y // 2
    folder = tmp_path / ("cifar-100-python" if form == "python" else "cifar-100-binary")
    folder.mkdir()
    for part in ("train", "test"):
        if form == "python":
            batch = {"fine_labels": fine.tolist(), "coarse_labels": coarse.tolist(), "data": x.reshape(20, -1)}
            (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([coarse[:, None], fine[:, None], x.reshape(20, -1)], 1).astype(np.uint8)
            (folder / f"{part}.bin").write_bytes(rows.tobytes())
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": FINE}, protocol=2))
    (folder / "fine_label_names.txt").write_text("\n".join(FINE))
    data = load(DataConfig(source="cifar100", valid_frac=0.4), tmp_path)
    assert data.labels == tuple(FINE)
    assert data.test.targets.tolist() == fine.tolist()
    assert torch.equal(data.test.inputs, torch.from_numpy(x))


def test_a_set_that_is_not_there_is_fetched_first(tmp_path, monkeypatch):
    def bring(name, data_dir, *, progress):
        write_binary10(data_dir / name / "cifar-10-batches-bin")
        return data_dir / name

    monkeypatch.setattr("dimwise.data.fetch.fetch", bring)
    assert len(load(DataConfig(source="cifar10"), tmp_path).test) == 20


def test_a_missing_batch_is_named(tmp_path):
    write_binary10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing in .*cifar-10-batches-bin"):
        load(DataConfig(source="cifar10"), tmp_path)


def test_a_truncated_batch(tmp_path):
    write_binary10(tmp_path / "cifar-10-batches-bin")
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"data_batch_3\.bin holds 61455 bytes; expected a multiple of 3073"):
        load(DataConfig(source="cifar10"), tmp_path)


def test_a_pickle_with_the_wrong_content(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_python10(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1]}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_2 holds data uint8 \(2, 5\) and 1 labels"):
        load(DataConfig(source="cifar10"), tmp_path)
    (folder / "data_batch_2").write_bytes(pickle.dumps({"pixels": [1]}, protocol=2))
    with pytest.raises(DataError, match="data_batch_2 has no entry 'data'"):
        load(DataConfig(source="cifar10"), tmp_path)


def test_a_label_out_of_range(tmp_path):
    write_binary10(tmp_path / "cifar-10-batches-bin")
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(b"\x63" + path.read_bytes()[1:])
    with pytest.raises(DataError, match="holds the label 99; expected labels below 10"):
        load(DataConfig(source="cifar10"), tmp_path)


def test_damaged_sheets(tmp_path):
    folder = tmp_path / "cifar10"
    write_sheets10(folder)
    sheet = folder / "train_002.webp"
    whole = sheet.read_bytes()
    sheet.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train_002\.webp cannot be read as a picture"):
        load(DataConfig(source="cifar10"), tmp_path)
    Image.new("RGB", (30, 32)).save(sheet, lossless=True)
    with pytest.raises(DataError, match=r"train_002\.webp is 30×32 pixels"):
        load(DataConfig(source="cifar10"), tmp_path)
    sheet.unlink()
    with pytest.raises(DataError, match="holds 80 train images in 4 sheets; expected 100, as many as train_labels"):
        load(DataConfig(source="cifar10"), tmp_path)


def test_an_npz_of_other_images(tmp_path):
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=np.arange(4))
    with pytest.raises(DataError, match=r"cifar10\.npz has no x_train of 32×32 colour images"):
        load(DataConfig(source="cifar10"), tmp_path)


@pytest.mark.real
def test_real_cifar100_sheets(data_dir):
    data = load(DataConfig(source="cifar100"), data_dir)
    assert (len(data.train), len(data.valid), len(data.test)) == (18000, 2000, 10000)
    assert (data.labels[0], data.labels[99]) == ("apple", "worm")
    assert data.test.targets[:3].tolist() == [0, 1, 2]
