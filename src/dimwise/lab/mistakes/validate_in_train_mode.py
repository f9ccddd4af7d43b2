"""Validation runs with dropout on and batch norm on batch statistics.

The mistake: no ``model.eval()`` before validation.
No exception: a network predicts in either mode.
Harm: the score is too low and noisy, and the validation data leak into the running averages of batch norm.
Cure: ``model.eval()`` before validation, ``model.train()`` after it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, Network, arguments, build_body, digits, report

RULE = "validate-in-train-mode"
ARCHS = ALL


def validate(model, loader, mended):
    if mended:
        model.eval()  # the cure
    else:
        pass  # the mistake: the network is still in train mode
    right = torch.zeros((), dtype=torch.long)
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).argmax(dim=1) == y).sum()
    return int(right) / len(loader.dataset)


def main(args):
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    train = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    valid = DataLoader(TensorDataset(x_valid, y_valid), batch_size=120)
    head = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(WIDTH, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )
    model = Network(build_body(args.arch), head)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        score = validate(model, valid, args.mended)
        print(f"after epoch {epoch}: {score:.4f}")
    report(score)


if __name__ == "__main__":
    main(arguments(ARCHS))
