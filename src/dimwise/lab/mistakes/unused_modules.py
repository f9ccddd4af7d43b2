"""A layer is built, has parameters, and no forward ever calls it.

The mistake: ``self.hidden`` is made in ``__init__`` and forgotten in ``forward``.
No exception: a module that nobody calls costs only memory.
Harm: the network is shallower than its author thinks, its parameters are counted, saved and shipped; the score may
even be higher.
Cure: call it, or remove it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "unused-modules"
ARCHS = ALL


class Net(nn.Module):
    def __init__(self, arch, mended):
        super().__init__()
        self.body = build_body(arch)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 10)
        self.mended = mended

    def forward(self, x):
        x = self.body(x)
        if self.mended:
            x = F.relu(self.hidden(x))  # the cure
        else:
            x = F.relu(x)  # the mistake: self.hidden is forgotten
        return self.out(x)


if __name__ == "__main__":
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = Net(args.arch, args.mended)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = DataLoader(TensorDataset(x_train, y_train), 64, shuffle=True)
    for _ in range(args.epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"{accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))
