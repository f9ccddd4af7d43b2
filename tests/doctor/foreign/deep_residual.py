"""Twelve residual blocks without a norm, each adding a branch as large as its input: the gradients blow up."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = "exploding-gradients"
# The loss is lost at the third step; it began a hundred times above chance.
ALSO = ("loss-not-finite", "nan-origin")

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(c, 2 * c), nn.ReLU(), nn.Linear(2 * c, c))
        for m in self.f:
            if isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight)
                nn.init.zeros_(m.bias)

    def forward(self, x):
        return x + self.f(x)


class Deep(nn.Module):
    def __init__(self, depth=12, c=48):
        super().__init__()
        self.inp = nn.Linear(64, c)
        self.blocks = nn.Sequential(*[Block(c) for _ in range(depth)])
        self.head = nn.Linear(c, 10)

    def forward(self, x):
        return self.head(self.blocks(self.inp(x)))


d = load_digits()
perm = torch.randperm(1797)
X, y = (torch.tensor(d.data).float()[perm] - 4.9) / 6, torch.tensor(d.target)[perm]
tr = DataLoader(TensorDataset(X[:1500], y[:1500]), 50, shuffle=True)
net = Deep()
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for e in range(3):
    net.train()
    for xb, yb in tr:
        loss = nn.functional.cross_entropy(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        print(e, loss.item(), (net(X[1500:]).argmax(1) == y[1500:]).float().mean().item())
