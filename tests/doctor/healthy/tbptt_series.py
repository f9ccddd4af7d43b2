"""Truncated back-propagation on one long series, read strictly in its order; the last part is the test."""

import math

import torch
from torch import nn

torch.manual_seed(0)
t = torch.arange(2400, dtype=torch.float32)
series = torch.sin(2 * math.pi * t / 24) + 0.5 * torch.sin(2 * math.pi * t / 168) + 0.1 * torch.randn(2400)
train, test = series[:2000], series[2000:]
mean, std = train.mean(), train.std()
train, test = (train - mean) / std, (test - mean) / std


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 24, batch_first=True)
        self.fc = nn.Linear(24, 1)

    def forward(self, x, h=None):
        out, h = self.gru(x, h)
        return self.fc(out), h


model = Forecaster()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
k = 40
for epoch in range(3):
    hidden = None
    for start in range(0, len(train) - k, k):
        x = train[start : start + k].view(1, k, 1)
        y = train[start + 1 : start + k + 1].view(1, k, 1)
        pred, hidden = model(x, hidden)
        hidden = hidden.detach()
        loss = nn.functional.mse_loss(pred, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        pred, _ = model(test[:-1].view(1, -1, 1))
        print(epoch, nn.functional.mse_loss(pred.flatten(), test[1:]).item())
    model.train()
