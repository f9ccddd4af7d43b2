"""The optimizer steps, with a rate of zero.

The mistake: the rate is scaled to the batch size by integer division, and 64 // 256 is 0.
No exception: zero is a legal rate.
Harm: no parameter ever moves; the score stays that of the first weights.
Cure: divide with ``/``.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "parameters-never-change"
ARCHS = ALL

BASE_RATE = 0.012
BASE_BATCH = 256


def batches(x, y, size):
    order = torch.randperm(len(x))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        yield x[rows], y[rows]


def main(batch_size=64):
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = build(args.arch)
    if args.mended:
        rate = BASE_RATE * batch_size / BASE_BATCH  # the cure
    else:
        rate = BASE_RATE * (batch_size // BASE_BATCH)  # the mistake
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        model.train()
        for x, y in batches(x_train, y_train, batch_size):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {loss.item():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
