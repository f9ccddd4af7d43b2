"""Weight norm and spectral norm: the weights that the layers use are computed and in no optimizer."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 8 - 1, torch.tensor(y)
model = nn.Sequential(
    weight_norm(nn.Linear(64, 64)),
    nn.ReLU(),
    spectral_norm(nn.Linear(64, 64)),
    nn.ReLU(),
    weight_norm(nn.Linear(64, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(4):
    model.train()
    for idx in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[idx]), y[idx])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(epoch, (model(X[1500:]).argmax(1) == y[1500:]).float().mean().item())
