"""Mixup with soft labels and label smoothing: the training loss cannot reach zero, targets are probabilities."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
np.random.seed(0)
d = load_digits()
X = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
y = torch.tensor(d.target)
order = torch.randperm(len(X))
train = DataLoader(TensorDataset(X[order[:1400]], y[order[:1400]]), batch_size=70, shuffle=True)
valid = DataLoader(TensorDataset(X[order[1400:]], y[order[1400:]]), batch_size=397)
model = nn.Sequential(
    nn.Conv2d(1, 24, 3, padding=1),
    nn.GELU(),
    nn.AvgPool2d(2),
    nn.Flatten(),
    nn.Linear(384, 64),
    nn.GELU(),
    nn.Linear(64, 10),
)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)


def mixup(x, y, alpha=0.4):
    lam = np.random.beta(alpha, alpha)
    index = torch.randperm(len(x))
    onehot = nn.functional.one_hot(y, 10).float()
    return lam * x + (1 - lam) * x[index], lam * onehot + (1 - lam) * onehot[index]


for epoch in range(4):
    model.train()
    for xb, yb in train:
        xm, ym = mixup(xb, yb)
        loss = criterion(model(xm), ym)
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        for xb, yb in valid:
            print(epoch, (model(xb).argmax(1) == yb).float().mean().item())
