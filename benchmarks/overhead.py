"""A tiny MLP (64-128-10, batch 64, SGD with momentum): what a step costs beyond its arithmetic.

Six ways to run the same mathematics, interleaved in one process: hand-written loops over tensor slices and over a
DataLoader, dimwise with logging and checkpoints on, Accelerate and Lightning (no logger, no bar).
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _record import Record, wait_until_quiet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dimwise.train as train
from dimwise.train import TrainConfig

N, BATCH, EPOCHS, REPEATS = 64 * 400, 64, 5, 7
X = torch.randn(N, 64, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 10, (N,), generator=torch.Generator().manual_seed(1))
STEPS = N // BATCH * EPOCHS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def slices() -> None:
    model = network()
    optimizer = sgd(model)
    for _ in range(EPOCHS):
        order = torch.randperm(N)
        for i in range(0, N, BATCH):
            chosen = order[i : i + BATCH]
            optimizer.zero_grad()
            F.cross_entropy(model(X[chosen]), Y[chosen]).backward()
            optimizer.step()


def slices_one_thread() -> None:
    """What the hand-written loop takes when somebody knows that one thread is enough."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    slices()
    torch.set_num_threads(before)


def loader() -> None:
    model = network()
    optimizer = sgd(model)
    batches = DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True)
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def ours() -> None:
    config = TrainConfig(epochs=EPOCHS, batch_size=BATCH, optimizer="sgd", lr=0.01)  # the rest as it comes
    with tempfile.TemporaryDirectory() as folder:
        train.fit(network(), (X, Y), "classification", config, run_dir=Path(folder))


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer, batches = accelerator.prepare(
        model, sgd(model), DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True)
    )
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()


def lightning() -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _index: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True))


WAYS: dict[str, Callable[[], None]] = {
    "tensor slices, by hand": slices,
    "tensor slices, by hand, one thread": slices_one_thread,
    "DataLoader, by hand": loader,
    "dimwise": ours,
    "Accelerate": accelerate,
    "Lightning": lightning,
}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    record = Record("overhead", "python benchmarks/overhead.py", "time per training step of a tiny MLP, by framework")
    for way in WAYS.values():
        way()
    busy = wait_until_quiet()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(REPEATS):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    medians = {name: record.runs(name, values, "µs per step") for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:24} {value:8.1f} µs")
    mine, raw, slow = medians["dimwise"], medians["tensor slices, by hand"], medians["DataLoader, by hand"]
    record.target(
        "tiny MLP, per step, against a raw DataLoader loop", "≤ 0.45×", f"{mine / slow:.2f}×", mine <= 0.45 * slow
    )
    record.target(
        "tiny MLP, per step, above a raw tensor-slice loop", "≤ 10 µs", f"{mine - raw:+.0f} µs", mine - raw <= 10
    )
    alone = medians["tensor slices, by hand, one thread"]
    record.target(
        "the same, above the slice loop on one thread", "≤ 10 µs", f"{mine - alone:+.0f} µs", mine - alone <= 10
    )
    record.figures["ratio to Lightning"] = round(mine / medians["Lightning"], 3)
    record.figures["ratio to Accelerate"] = round(mine / medians["Accelerate"], 3)
    if busy:
        record.notes.append(busy)
    print(record.write())


if __name__ == "__main__":
    main()
