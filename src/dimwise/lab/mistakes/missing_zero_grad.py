"""Gradients are never cleared: every backward adds to all those before.

The mistake: the loop calls ``backward`` and ``step`` but never ``zero_grad``.
No exception: PyTorch adds into ``.grad`` on purpose, for accumulation over several batches.
Harm: each step follows the sum of all past gradients; the norm grows, the loss swings and often never settles.
Cure: ``optimizer.zero_grad()`` once per step.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "missing-zero-grad"
ARCHS = ALL


def train_one_epoch(model, loader, optimizer, criterion, mended):
    model.train()
    total = torch.zeros(())
    for images, labels in loader:
        if mended:
            optimizer.zero_grad()  # the cure
        else:
            pass  # the mistake: nothing clears the gradients
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total / len(loader))


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.9)
    for epoch in range(args.epochs):
        loss = train_one_epoch(model, loader, optimizer, criterion, args.mended)
        print(f"epoch {epoch}: loss {loss:.3f}, accuracy {accuracy(model, x_valid, y_valid):.3f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
