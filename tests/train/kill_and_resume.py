"""Train, be killed at a given instant, resume, compare: run by test_resume.py in a process of its own.

Every case is a fork of this process, which imports torch once and computes nothing itself. "Instants" are counted
at each step and at each call that changes the disk (sync, rename, link, unlink), so a kill can fall between any two.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # the optimizers import it at their first use: once here, not once in every fork
from torch import Tensor, nn
from torch.utils.data import Dataset

from dimwise.data.augment import AugmentConfig
from dimwise.data.sets import Split
from dimwise.runs.metrics import read
from dimwise.tasks import Task
from dimwise.train import TrainConfig, fit, job, plain_step
from dimwise.train.loop import steps_per_epoch

SHARED: dict[str, Any] = {"checkpoint_every_s": 0, "precision": "fp32", "layout": "contiguous", "epochs": 3}


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset whose transforms draw from the three global generators, as other people's do."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.arange(6.0) * (index + 1) / 50 + torch.randn(6) * 0.1
        return x + float(np.random.rand()) + random.random(), torch.tensor(index % 3)  # noqa: NPY002


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(26, 1, 6, 6, generator=generator), torch.randint(0, 3, (26,), generator=generator)


def conv_net() -> nn.Module:
    torch.manual_seed(1)
    parts = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)]
    return nn.Sequential(*parts, nn.Linear(12, 3))


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def everything() -> tuple[nn.Module, Any, TrainConfig, AugmentConfig | None, int]:
    """Model, data, config, augmentation, and at which multiples of a step a checkpoint may be written."""
    config = TrainConfig(
        **SHARED,
        batch_size=4,
        accumulate=2,
        optimizer="adamw",
        weight_decay=0.1,
        lr=0.05,
        schedule="onecycle",
        clip_norm=0.5,
        ema=0.9,
        label_smoothing=0.1,
    )
    return conv_net(), images(), config, AugmentConfig(crop=1, flip=True, cutout=2, mixup=0.4, cutmix=1.0), 1


def channels_last() -> tuple[nn.Module, Any, TrainConfig, AugmentConfig | None, int]:
    shared = SHARED | {"layout": "channels_last", "epochs": 9}
    config = TrainConfig(
        **shared, batch_size=8, optimizer="nesterov", lr=0.2, schedule="cosine", warmup_epochs=1, patience=2
    )
    return conv_net(), images(), config, AugmentConfig(crop=1), 3


def loader() -> tuple[nn.Module, Any, TrainConfig, AugmentConfig | None, int]:
    config = TrainConfig(**SHARED, batch_size=4, optimizer="adam", lr=0.01, keep="last", ema=0.8)
    return mlp(), Noisy(), config, None, 2


def half() -> tuple[nn.Module, Any, TrainConfig, AugmentConfig | None, int]:
    config = TrainConfig(**(SHARED | {"precision": "fp16"}), batch_size=8, optimizer="sgd", lr=0.1, clip_norm=1.0)
    x = images()[0].flatten(1)[:, :6].contiguous()
    return mlp(), (x, images()[1]), config, None, 2


SCENARIOS = {f.__name__: f for f in (everything, channels_last, loader, half)}


class Instants:
    """Counts what happens, and dies at a given count."""

    def __init__(self, dies_at: int | None) -> None:
        self.count = 0
        self._dies_at = dies_at

    def tick(self) -> None:
        self.count += 1
        if self.count == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        """Tick before and after each call."""
        real: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = real(*args, **kwargs)
            self.tick()
            return result

        setattr(owner, name, watched)


def train(scenario: str, folder: Path, *, resume: bool, dies_at: int | None) -> None:
    """One attempt; when it survives, ``outcome.json`` holds what must be the same."""
    model, data, config, augmentation, every = SCENARIOS[scenario]()
    instants = Instants(dies_at)
    os.fsync = lambda fd: None  # type: ignore[misc]  # slow, and a killed process loses nothing that it handed to the system
    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "hardlink_to"), (Path, "unlink"), (Path, "mkdir")):
        instants.watch(owner, name)
    job._LOG_EVERY_S = -1.0
    real_save = job.Job._save

    def sparse_save(self: Any, metrics: Any) -> None:  # as if the clock asked for a checkpoint at these steps only
        ends = self._out_of_patience() or self.moving.step == config.epochs * steps_per_epoch(self.feed.batches, config)
        if ends or self.moving.step % every == 0:
            real_save(self, metrics)

    job.Job._save = sparse_save  # type: ignore[method-assign]

    def step(net: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        instants.tick()
        return plain_step(net, x, y, task)

    x, y = (data[0][:9], data[1][:9]) if isinstance(data, tuple) else (torch.ones(3, 6), torch.arange(3))
    fitted = fit(
        model, data, None, config, valid=Split(x, y), augment=augmentation, run_dir=folder, step=step, resume=resume
    )
    records = read(folder / "metrics.jsonl")
    times = {"t", "seconds", "images_per_s"}
    outcome = {
        "instants": instants.count,
        "kept": digest(fitted.model.state_dict()),
        "history": [{k: v for k, v in row.items() if k not in times} for row in fitted.history],
        "records": [{k: v for k, v in r.items() if k not in times} for r in records if r["kind"] != "resume"],
        "files": {
            name: hashlib.sha256((folder / "checkpoints" / name).read_bytes()).hexdigest()
            for name in ("last.safetensors", "best.safetensors", f"state-{newest(folder):08d}.safetensors")
        },
        "steps": fitted.steps,
        "stopped_early": fitted.stopped_early,
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


def newest(folder: Path) -> int:
    manifest = json.loads((folder / "checkpoints" / "manifest.json").read_text())
    step: int = manifest["generations"][0]["step"]
    return step


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(v.contiguous().numpy().tobytes() for v in state.values())).hexdigest()


def forked(scenario: str, folder: Path, *, resume: bool, dies_at: int | None) -> int:
    """Run an attempt in a fork; returns the signal it died of, or 0."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(scenario, folder, resume=resume, dies_at=dies_at)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{scenario}, dying at {dies_at}: status {status}"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def compare(scenario: str, n_kills: int, folder: Path) -> dict[str, Any]:
    """The reference, then one killed and resumed run for each of so many instants."""
    whole = folder / "whole"
    assert forked(scenario, whole, resume=False, dies_at=None) == 0
    expected = json.loads((whole / "outcome.json").read_text())
    n_instants = expected.pop("instants")
    different = []
    spread = {1 + round(i * (n_instants - 1) / (n_kills - 1)) for i in range(n_kills)}
    instants = sorted(spread | {n_instants - 16})  # the last save: the manifest is written, the names are not yet set
    for instant in instants:
        run = folder / f"killed-{instant}"
        assert forked(scenario, run, resume=False, dies_at=instant) == signal.SIGKILL
        if instant % 3 == 0:  # and some are killed again on their way back
            forked(scenario, run, resume=True, dies_at=1 + n_instants // 4)
        if not (run / "outcome.json").is_file():
            assert forked(scenario, run, resume=True, dies_at=None) == 0
        found = json.loads((run / "outcome.json").read_text())
        wrong = [key for key in expected if found[key] != expected[key]]
        if wrong:
            different.append(f"killed at instant {instant} of {n_instants}: {', '.join(wrong)}")
    return {
        "instants": n_instants,
        "kills": len(instants),
        "different": different,
        "steps": expected["steps"],
        "epochs": len(expected["history"]),
        "stopped_early": expected["stopped_early"],
        "records": len(expected["records"]),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for scenario in SCENARIOS:
        place = Path(sys.argv[2]) / scenario
        place.mkdir()
        print(json.dumps({"scenario": scenario} | compare(scenario, int(sys.argv[1]), place)), flush=True)
