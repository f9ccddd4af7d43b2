"""What the doctor costs: wall time per step after the first 200, and memory, of a script alone and under watch.

Each script times its own steps from number 200 on and prints the mean; runs alone and under the doctor alternate.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _record import Record, wait_until_quiet

REPEATS = 9
"""Odd, and many: where the C library keeps freed gradients is decided once a process, and moves a step by a fifth."""

MLP = """
import resource, time, torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
x, y = torch.randn(64 * 100, 64), torch.randint(0, 10, (64 * 100,))
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64, shuffle=True)
n = 0
while n < 6000:
    for inputs, targets in loader:
        if n == 200:
            start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
        n += 1
print((time.perf_counter() - start) / (n - 200) * 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

RESNET = """
import resource, time, torch
from dimwise import models
torch.manual_seed(0)
x, y = torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,))
net = models.build("resnet18", (3, 32, 32), 10)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for n in range(STEPS):
    if n == 200:
        start = time.perf_counter()
    rows = torch.randint(0, 512, (8,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
    optimizer.step()
print((time.perf_counter() - start) / (n - 199) * 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""".replace("STEPS", "600")

WATCH = (
    "import sys; from dimwise.doctor.script import watch_script; e = watch_script(sys.argv[1]); sys.exit(e.exit_code)"
)


def measured(script: Path, *, watched: bool) -> tuple[float, float]:
    """(µs per step, peak memory in MB)."""
    command = [sys.executable, "-c", WATCH, str(script)] if watched else [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    per_step, peak = done.stdout.split()[-2:]
    return float(per_step), float(peak) / 1024


def main() -> None:
    record = Record("doctor_overhead", "python benchmarks/doctor_overhead.py", "what the doctor costs a script")
    busy = wait_until_quiet()
    limits = {"tiny MLP": (MLP, 1.15), "ResNet-18 on 32×32 images": (RESNET, 1.03)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, limit) in limits.items():
            script = Path(folder) / "script.py"
            script.write_text(text, encoding="utf-8")
            alone: list[tuple[float, float]] = []
            watched: list[tuple[float, float]] = []
            for _ in range(REPEATS):
                alone.append(measured(script, watched=False))
                watched.append(measured(script, watched=True))
                print(name, json.dumps([alone[-1], watched[-1]]), flush=True)
            record.runs(f"{name}: alone", [t for t, _ in alone], "µs per step")
            record.runs(f"{name}: under the doctor", [t for t, _ in watched], "µs per step")
            ratio = statistics.median(w[0] / a[0] for w, a in zip(watched, alone, strict=True))
            record.target(
                f"doctor: {name}, wall time per step after 200", f"≤ {limit}×", f"{ratio:.3f}×", ratio <= limit
            )
            more = statistics.median(w[1] - a[1] for w, a in zip(watched, alone, strict=True))
            base = statistics.median(a[1] for a in alone)
            record.target(
                f"doctor: {name}, more memory",
                "≤ 50 MB + 1 %",
                f"{more:.0f} MB of {base:.0f}",
                more <= 50 + 0.01 * base,
            )
    if busy:
        record.notes.append(busy)
    print(record.write())


if __name__ == "__main__":
    main()
