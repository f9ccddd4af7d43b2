"""A curriculum: easy samples first, the set grows every epoch; within an epoch rows are shuffled."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)
centres = torch.stack([X[y == c].mean(0) for c in range(10)])
difficulty = (X - centres[y]).norm(dim=1)
easy_first = difficulty.argsort()
data = TensorDataset(X, y)
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(5):
    n = int(len(data) * min(1.0, 0.3 + 0.2 * epoch))
    loader = DataLoader(Subset(data, easy_first[:n].tolist()), batch_size=64, shuffle=True)
    total = 0.0
    for xb, yb in loader:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        total += loss.item()
    print(epoch, n, total / len(loader))
