"""Each layer has a rate of its own, falling by 0.5 from the head down; no decay on biases."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 8 - 1, torch.tensor(y)
net = nn.Sequential(
    nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
)
groups, lr = [], 4e-3
for layer in [net[6], net[4], net[2], net[0]]:
    groups.append({"params": [layer.weight], "lr": lr, "weight_decay": 0.05})
    groups.append({"params": [layer.bias], "lr": lr, "weight_decay": 0.0})
    lr *= 0.5
optimizer = torch.optim.AdamW(groups)
for epoch in range(4):
    for idx in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X[idx]), y[idx])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
