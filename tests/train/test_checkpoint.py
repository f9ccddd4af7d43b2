"""Checkpoints are whole or not there: damage, full disks, disks without links, networks that do not fit."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dimwise.errors import RunError
from dimwise.train import checkpoint
from dimwise.train.config import TrainConfig
from dimwise.train.ema import WeightAverage
from dimwise.train.loop import Moving
from dimwise.train.optimizer import optimizer


def moving(step: int = 0, *, seed: int = 0, n_hidden: int = 3) -> Moving:
    """A small network that has taken a few steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, n_hidden), nn.Linear(n_hidden, 2))
    made = Moving(model, optimizer(model, TrainConfig(weight_decay=0.1)), average=WeightAverage(model, 0.5))
    for made.step in range(1, step + 1):
        made.optimizer.zero_grad()
        model(torch.randn(4, 2)).square().sum().backward()
        made.optimizer.step()
        assert made.average is not None
        made.average.update(made.step)
    return made


def counters(step: int, **more: Any) -> dict[str, Any]:
    return {"best_step": step, **more}


def save(folder: Path, step: int, **more: Any) -> Moving:
    now = moving(step)
    checkpoint.save(folder, now, now.model.state_dict(), counters(step, **more))
    return now


def test_what_is_saved_is_restored(tmp_path: Path) -> None:
    saved = save(tmp_path, 5, history=[{"valid_loss": math.nan, "x": [math.inf, -math.inf, 0.1]}])
    found = checkpoint.load(tmp_path)
    fresh = moving(0, seed=1)
    checkpoint.restore(fresh, found)
    assert fresh.step == 5
    for mine, theirs in zip(fresh.model.parameters(), saved.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for key, value in saved.optimizer.state[theirs].items():
            assert torch.equal(fresh.optimizer.state[mine][key], value)
    assert fresh.average is not None
    assert saved.average is not None
    assert all(torch.equal(v, saved.average.state()[k]) for k, v in fresh.average.state().items())
    row = found.counters["history"][0]
    assert math.isnan(row["valid_loss"])
    assert row["x"] == [math.inf, -math.inf, 0.1]


def test_the_scale_of_half_precision_goes_on(tmp_path: Path) -> None:
    now = moving(1)
    now.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    now.scaler.scale(torch.tensor(1.0))
    checkpoint.save(tmp_path, now, now.model.state_dict(), counters(1))
    fresh = moving(0)
    fresh.scaler = torch.amp.GradScaler("cpu")
    checkpoint.restore(fresh, checkpoint.load(tmp_path))
    assert fresh.scaler.scale(torch.tensor(1.0)).item() == 1024.0


def test_the_names_people_look_for(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "last-00000002.safetensors").read_bytes()
    assert (tmp_path / "best.safetensors").is_file()
    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def test_two_generations_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.glob("last-*")) == ["last-00000002.safetensors", "last-00000003.safetensors"]


@pytest.mark.parametrize("part", ["last", "state", "best"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_generation_falls_back_to_the_older_one(tmp_path: Path, part: str, harm: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    _harm(tmp_path / f"{part}-00000002.safetensors", harm)
    found = checkpoint.load(tmp_path)
    assert (found.step, found.skipped) == (1, (f"{part}-00000002.safetensors",))


def _harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    path.unlink()
    if how != "remove":
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flip" else data[:-1])


def test_a_damaged_generation_is_never_built_on(tmp_path: Path) -> None:
    """After going back, neither its best weights nor its place as the spare one are taken over."""
    save(tmp_path, 1)
    save(tmp_path, 9)
    _harm(tmp_path / "best-00000009.safetensors", "flip")
    assert checkpoint.load(tmp_path).step == 1
    save(tmp_path, 5)
    steps = [g["step"] for g in json.loads((tmp_path / "manifest.json").read_text())["generations"]]
    assert steps == [5, 1]
    now = moving(9)
    _harm(tmp_path / "best-00000005.safetensors", "flip")
    checkpoint.save(tmp_path, now, now.model.state_dict(), counters(5))
    assert checkpoint.load(tmp_path).step == 9


def test_best_weights_are_written_once(tmp_path: Path) -> None:
    first = moving(1)
    checkpoint.save(tmp_path, first, first.model.state_dict(), counters(1))
    written = (tmp_path / "best-00000001.safetensors").stat().st_mtime_ns
    checkpoint.save(tmp_path, moving(2), first.model.state_dict(), counters(1))
    assert (tmp_path / "best-00000001.safetensors").stat().st_mtime_ns == written


def test_a_kill_before_the_names_are_set_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_name", lambda *_: None)
        save(tmp_path, 2)
    (tmp_path / ".last.safetensors.1.tmp").write_bytes(b"left behind")
    (tmp_path / "last-00000007.safetensors").write_bytes(b"of a save that was never completed")
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "last-00000001.safetensors").read_bytes()
    checkpoint.tidy(tmp_path, checkpoint.load(tmp_path))
    for part in ("last", "best"):
        assert (tmp_path / f"{part}.safetensors").read_bytes() == (
            tmp_path / f"{part}-00000002.safetensors"
        ).read_bytes()
    assert len(list(tmp_path.iterdir())) == 1 + 2 + 2 * 3


def test_all_damaged_says_so(tmp_path: Path) -> None:
    save(tmp_path, 1)
    _harm(tmp_path / "last-00000001.safetensors", "flip")
    with pytest.raises(RunError, match=r"damaged: last-00000001\.safetensors differ"):
        checkpoint.load(tmp_path)


def test_no_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with pytest.raises(RunError, match="no checkpoint in r"):
        checkpoint.load(tmp_path / "r" / "checkpoints")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99, "generations": []}', "\0"])
def test_an_unreadable_manifest_says_so(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json cannot be read; expected a checkpoint manifest of format 1"):
        checkpoint.load(tmp_path)


def test_another_network_says_so(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(RunError, match=r"do not fit the network.*size mismatch for 0\.weight"):
        checkpoint.restore(moving(n_hidden=4), checkpoint.load(tmp_path))


CALLS = [(os, "fsync"), (Path, "replace"), (Path, "hardlink_to"), (Path, "write_bytes")]


@pytest.mark.parametrize("nth", range(16))
def test_a_full_disk_leaves_a_whole_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The n-th call that needs the disk fails, and all after it: whatever it was, a generation is whole."""
    save(tmp_path, 1)
    count = 0

    def failing(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, failing(getattr(owner, name)))
        with pytest.raises(RunError, match=r"disk full.*The checkpoint of step [12] is intact: resume from it") as told:
            save(tmp_path, 2)
    found = checkpoint.load(tmp_path)
    assert found.skipped == ()
    assert f"step {found.step} is intact" in str(told.value)
    used = {f["file"] for f in json.loads((tmp_path / "manifest.json").read_text())["generations"][0]["files"].values()}
    assert used <= {p.name for p in tmp_path.iterdir()}
    assert not list(tmp_path.glob(".*.tmp"))
    save(tmp_path, 2)  # and with space again it goes on
    assert checkpoint.load(tmp_path).step == 2


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"last-00000001\.safetensors': disk full. Free some space"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "last-00000002.safetensors").read_bytes()
    assert checkpoint.load(tmp_path).step == 2


def test_tied_and_strided_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Conv2d(2, 2, 2))
    tied = nn.Parameter(torch.randn(3, 3))
    model[0].weight = model[1].weight = tied
    kernel = nn.Parameter(torch.randn(2, 2, 2, 2))
    model[2].weight = kernel
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    now = Moving(model, optimizer(model, TrainConfig()))
    checkpoint.save(tmp_path, now, model.state_dict(), counters(0))
    assert torch.equal(checkpoint.load(tmp_path).weights["1.weight"], tied)
    assert torch.equal(checkpoint.load(tmp_path).weights["2.weight"], kernel)
