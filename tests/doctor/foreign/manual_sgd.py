"""Gradient descent by hand; `p = p - lr * p.grad` binds a new name and leaves the parameter alone."""

import torch
from sklearn.datasets import make_moons
from torch import nn

EXPECTED = "parameters-never-change"

torch.manual_seed(0)
X, y = make_moons(1000, noise=0.15, random_state=0)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32).view(-1, 1)


class Moon(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = nn.Linear(2, 30)
        self.h2 = nn.Linear(30, 30)
        self.o = nn.Linear(30, 1)

    def forward(self, x):
        return self.o(torch.tanh(self.h2(torch.tanh(self.h(x)))))


def update(model, lr):
    with torch.no_grad():
        for p in model.parameters():
            p = p - lr * p.grad


model = Moon()
loss_fn = nn.BCEWithLogitsLoss()
for epoch in range(10):
    for b in torch.randperm(800).split(40):
        loss = loss_fn(model(X[b]), y[b])
        model.zero_grad()
        loss.backward()
        update(model, 0.3)
    with torch.no_grad():
        print(epoch, loss.item(), ((model(X[800:]) > 0) == (y[800:] > 0.5)).float().mean().item())
