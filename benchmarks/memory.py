"""How near ``measure.predict_memory`` comes to what a step really takes.

Nine networks of the table (without the deepest two of their families), an LSTM, a Transformer encoder and attention
alone; three batch sizes each, fp32 and bf16 (autocast), Adam.

Each case runs in a process of its own and is measured in two ways:

- allocator: the largest number of bytes that PyTorch's allocator held, from the profiler's memory events (which share
  nothing with the prediction), for a training step and for inference;
- resident: the high-water mark of the process (VmHWM) over two training steps, above what Python, PyTorch and one
  step of a tiny network take. The C library's malloc is left as it comes.

python benchmarks/memory.py              all cases
python benchmarks/memory.py NAME ...     only these networks, nothing written
python benchmarks/memory.py --predict    predict anew; what was measured stays as it stands in the record
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _record import RECORDS, Record
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dimwise import models
from dimwise.measure import predict_memory

WORDS, WIDTH, LENGTH, CLASSES = 1000, 256, 128, 10

IMAGES: dict[str, tuple[tuple[int, ...], tuple[int, int, int]]] = {
    "mlp": ((1, 28, 28), (20_000, 30_000, 60_000)),
    "guide_cnn": ((1, 28, 28), (500, 1000, 2000)),
    "small_cnn": ((1, 8, 8), (3000, 4000, 6000)),
    "fast_cnn": ((1, 28, 28), (1500, 2000, 3000)),
    "lenet5": ((1, 32, 32), (1000, 2000, 4000)),
    "resnet20": ((3, 32, 32), (64, 96, 128)),
    "resnet18": ((3, 128, 128), (8, 12, 16)),
    "resnet50": ((3, 128, 128), (4, 6, 8)),
    "mobilenetv2": ((3, 128, 128), (6, 8, 12)),
}
"""Input and batch sizes for which activations are at least a large part, and two cores do not take all day."""
TEXTS = {"lstm": (16, 32, 48), "encoder": (8, 12, 16), "attention": (16, 24, 32)}


class Lstm(nn.Module):
    """Two recurrent layers over embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.recurrent = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(x))[0][:, -1])


class Encoder(nn.Module):
    """Four layers of a Transformer encoder with dropout."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True, activation="gelu")
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x)).mean(1))


class Attention(nn.Module):
    """Causal attention as language models call it, without dropout, which lets PyTorch use its fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.project = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for project in self.project:
            q, k, v = project(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


OWN: dict[str, Callable[[], nn.Module]] = {"lstm": Lstm, "encoder": Encoder, "attention": Attention}


def case(name: str, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Network, input, targets."""
    targets = torch.randint(0, CLASSES, (batch,))
    if name in OWN:
        return OWN[name](), torch.randint(0, WORDS, (batch, LENGTH)), targets
    shape, _ = IMAGES[name]
    return models.build(name, shape, CLASSES), torch.randn(batch, *shape), targets


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-5)


def autocast(precision: str) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def train(model: nn.Module, x: Tensor, y: Tensor, precision: str, n_steps: int) -> None:
    optimizer = adam(model.train())
    for _ in range(n_steps):
        with autocast(precision):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del loss


def resident(key: str) -> int:
    """VmRSS or VmHWM, in bytes."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key)) * 1024


def allocated(work: Callable[[], object]) -> int:
    """Most bytes that the allocator held during the work, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None
    results = record.profiler.kineto_results
    assert results is not None

    def events(nodes: Any) -> Iterator[tuple[int, int, int]]:
        for node in nodes:
            if node.tag.name == "Allocation":
                yield node.start_time_ns, node.extra_fields.total_allocated, node.extra_fields.alloc_size
            yield from events(node.children)

    found = sorted(events(results.experimental_event_tree()))
    return max(total for _, total, _ in found) - (found[0][1] - found[0][2])


def measure_one(name: str, batch: int, precision: str) -> dict[str, Any]:
    """One case, in this process: resident first, since profiling takes memory of its own."""
    tiny = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, CLASSES))
    train(tiny, torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long), precision, 1)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    train(*case(name, batch), precision, 2)
    above = resident("VmHWM") - before
    gc.collect()
    training = allocated(lambda: train(*case(name, batch), precision, 2))

    def infer() -> None:
        model, x, _ = case(name, batch)
        with torch.no_grad(), autocast(precision):
            model.eval()(x)

    inference = allocated(infer)
    return {
        "name": name,
        "batch": batch,
        "precision": precision,
        "allocator_training": training,
        "resident_training": above,
        "allocator_inference": inference,
        **predicted(name, batch, precision),
    }


def predicted(name: str, batch: int, precision: str) -> dict[str, int]:
    """What the library says of one case."""
    model, x, _ = case(name, batch)

    def loss(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, torch.empty(batch, dtype=torch.long))

    told = predict_memory(model, x, precision, task_loss=loss, optimizer=adam)
    return {"predicted_training": told.training.total, "predicted_inference": told.inference.total}


def measure_all(names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for batch in IMAGES[name][1] if name in IMAGES else TEXTS[name]:
            for precision in ("fp32", "bf16"):
                words = [sys.executable, __file__, "--one", name, str(batch), precision]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                row = json.loads(done.stdout.splitlines()[-1])
                rows.append(row)
                print(
                    f"{name:12} {batch:6} {precision}  predicted {row['predicted_training'] / 1e6:7.1f} MB, "
                    f"of allocator {row['predicted_training'] / row['allocator_training']:.3f}, "
                    f"of resident {row['predicted_training'] / row['resident_training']:.3f}, "
                    f"inference {row['predicted_inference'] / row['allocator_inference']:.3f}",
                    flush=True,
                )
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_one(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
        return
    if sys.argv[1:] == ["--predict"]:
        known = json.loads((RECORDS / "memory.json").read_text("utf-8"))["figures"]["cases"]
        rows = [row | predicted(row["name"], row["batch"], row["precision"]) for row in known]
    else:
        rows = measure_all(sys.argv[1:] or [*IMAGES, *TEXTS])
        if sys.argv[1:]:
            return
    print(write(rows))


def write(rows: list[dict[str, Any]]) -> Path:
    """The record: every case, the errors, and whether they are small enough."""
    record = Record("memory", "python benchmarks/memory.py", "predicted against measured peak memory of a step")
    record.notes.append(str(__doc__))
    record.notes.append(
        "The formulas for what oneDNN and the fused encoder layer take inside were found on some of these networks, so "
        "their cases are no test on unseen ones."
    )
    record.figures["cases"] = rows
    for part, how, least_bytes in (
        ("training", "allocator", 0),
        ("inference", "allocator", 0),
        ("training", "resident", 150e6),
    ):
        kept = [r for r in rows if r[f"{how}_{part}"] >= least_bytes]
        errors = [100 * abs(r[f"predicted_{part}"] / r[f"{how}_{part}"] - 1) for r in kept]
        median = record.runs(f"error of {part} against {how}", errors, "%")
        record.target(
            f"predicted memory of {part} against {how}, {len(kept)} cases: median, worst error",
            "≤ 5 %, ≤ 15 %",
            f"{median:.1f} %, {max(errors):.1f} %",
            median <= 5 and max(errors) <= 15,
        )
    record.runs("resident over predicted", [r["resident_training"] / r["predicted_training"] for r in rows], "ratio")
    return record.write()


if __name__ == "__main__":
    main()
