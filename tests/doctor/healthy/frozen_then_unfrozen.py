"""Gradual unfreezing: all parameters are in the optimizer from the start, the body learns from the third epoch."""

import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import nn

torch.manual_seed(0)
X, y = load_wine(return_X_y=True)
X = torch.tensor(StandardScaler().fit_transform(X), dtype=torch.float32)
y = torch.tensor(y)


def set_trainable(module, flag):
    for p in module.parameters():
        p.requires_grad_(flag)


body = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
head = nn.Linear(32, 3)
net = nn.Sequential(body, head)
opt = torch.optim.AdamW([{"params": body.parameters(), "lr": 1e-3}, {"params": head.parameters(), "lr": 1e-2}])
set_trainable(body, False)
for epoch in range(8):
    if epoch == 4:
        set_trainable(body, True)
    for idx in torch.randperm(len(X)).split(16):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X[idx]), y[idx])
        loss.backward()
        opt.step()
    print(epoch, loss.item())
