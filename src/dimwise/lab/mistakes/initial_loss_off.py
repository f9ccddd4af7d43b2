"""The first loss is far above ln 10, which a network that knows nothing should have.

The mistake: the head's bias starts at the counts of the classes; it should be their logarithm.
No exception: a large bias is a legal bias.
Harm: the first steps only unlearn a wrong belief; short runs end worse, long ones forget it.
Cure: the logarithm of the class frequencies, or zero.
"""

import math

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "initial-loss-off"
ARCHS = ALL


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    counts = torch.bincount(y_train, minlength=10).float()
    model = build(args.arch)
    with torch.no_grad():
        if args.mended:
            model.head.bias.copy_(torch.log(counts / counts.sum()))  # the cure
        else:
            model.head.bias.copy_(counts)  # the mistake
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    for epoch in range(args.epochs):
        model.train()
        for i, (x, y) in enumerate(loader):
            loss = F.cross_entropy(model(x), y)
            if epoch == i == 0:
                print(f"first loss {loss.item():.3f}, chance would be {math.log(10):.3f}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
