"""The optimizer was built before part of the network was replaced.

The mistake: the head is exchanged for one with ten outputs after the optimizer has taken the old head's parameters.
No exception: the optimizer goes on holding tensors that no forward uses.
Harm: the new head never learns; the body bends itself around it, slower and worse.
Cure: build the optimizer last.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build, digits, report

RULE = "optimizer-holds-stale-parameters"
ARCHS = ALL


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = build(args.arch, n_outputs=100)  # as if it came from a task with a hundred classes

    if args.mended:
        model.head = nn.Linear(WIDTH, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # the cure
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # the mistake: too early
        model.head = nn.Linear(WIDTH, 10)

    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=48, shuffle=True, drop_last=True)
    for epoch in range(args.epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} valid {accuracy(model, x_valid, y_valid):.3f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
