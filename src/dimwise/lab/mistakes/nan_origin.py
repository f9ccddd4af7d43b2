"""A module of the network divides nothing by nothing.

The mistake: a layer scales each column of the image to unit deviation, and columns at the rim are often constant.
No exception: 0/0 is NaN, and NaN is a number like any other.
Harm: the first batch makes every weight NaN; the network answers with the first class for good.
Cure: a small epsilon under the fraction, as every norm layer has.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "nan-origin"
ARCHS = ALL


class ColumnNorm(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(dim=-2, keepdim=True)
        return centred / (centred.square().mean(dim=-2, keepdim=True) + self.eps).sqrt()


def step(model, criterion, optimizer, images, labels):
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    if args.mended:
        norm = ColumnNorm(eps=1e-3)  # the cure
    else:
        norm = ColumnNorm(eps=0.0)  # the mistake
    model = nn.Sequential(norm, build(args.arch))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            loss = step(model, criterion, optimizer, x_train[rows], y_train[rows])
        print(f"epoch {epoch}: last loss {loss.item():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
