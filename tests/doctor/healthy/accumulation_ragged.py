"""Gradient accumulation, scaled; the last window has fewer micro batches and is scaled by its own number."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
dataset = TensorDataset(torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y))
loader = DataLoader(dataset, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
ACCUM = 4
n = len(loader)
for epoch in range(3):
    for i, (xb, yb) in enumerate(loader):
        window = ACCUM if i < n - n % ACCUM else n % ACCUM
        loss = nn.functional.cross_entropy(model(xb), yb) / window
        loss.backward()
        if (i + 1) % ACCUM == 0 or i + 1 == n:
            optimizer.step()
            optimizer.zero_grad()
    print(epoch, loss.item() * window)
