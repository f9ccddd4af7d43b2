"""The fast.ai way: a module, model.zero_grad(), and p.data.sub_ for the update."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X).float() / 8 - 1, torch.tensor(y)
model = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
bs, lr = 64, 0.1


def accuracy(out, yb):
    return (out.argmax(1) == yb).float().mean()


for epoch in range(4):
    perm = torch.randperm(1500)
    for i in range(0, 1500, bs):
        xb, yb = X[perm[i : i + bs]], y[perm[i : i + bs]]
        loss = nn.functional.cross_entropy(model(xb), yb)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.data.sub_(p.grad * lr)
            model.zero_grad()
    with torch.no_grad():
        print(epoch, accuracy(model(X[1500:]), y[1500:]).item())
