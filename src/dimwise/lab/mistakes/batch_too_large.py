"""One batch needs more memory than the process may have.

The mistake: all images in one batch, on a machine with little memory. To be met safely the script limits itself first:
the process may take a few hundred megabytes more than it has, and not the machine's last byte.
An exception is raised, this once, in the middle of the first forward: ``RuntimeError: ... can't allocate memory``; on a
GPU it comes when the largest batch comes, perhaps after hours.
Harm: the run ends.
Cure: a batch that fits, with accumulation where the large one was meant.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "batch-too-large"
ARCHS = ALL

HEADROOM_BYTES = 400 * 2**20


def limit_memory() -> None:
    """Let this process allocate at most HEADROOM_BYTES more (Linux; elsewhere there is no limit to set)."""
    if sys.platform == "linux":
        import resource
        from pathlib import Path

        lines = Path("/proc/self/status").read_text().splitlines()
        data_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (data_kib * 1024 + HEADROOM_BYTES, hard))


class Wide(nn.Module):
    """Many convolution channels on enlarged images before the body: where activations cost most."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=4, mode="bilinear")
        self.conv = nn.Conv2d(1, 48, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(8)
        self.mix = nn.Conv2d(48, 1, 1)
        self.body = build_body(arch)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.conv(self.enlarge(x)))
        return self.head(self.body(self.mix(self.pool(wide)) + x))


def main() -> None:
    args = arguments(ARCHS, epochs=3)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = Wide(args.arch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    limit_memory()
    if args.mended:
        batch_size = 64  # the cure
    else:
        batch_size = len(x_train)  # the mistake
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_train[rows]), y_train[rows])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: last loss {loss.item():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
