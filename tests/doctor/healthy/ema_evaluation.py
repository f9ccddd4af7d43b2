"""The trained model is never evaluated; an averaged copy of it is."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor((X - X.mean()) / X.std()).float(), torch.tensor(y)
p = torch.randperm(len(X))
train = DataLoader(TensorDataset(X[p[:1437]], y[p[:1437]]), batch_size=64, shuffle=True)
valid = DataLoader(TensorDataset(X[p[1437:]], y[p[1437:]]), batch_size=360)
model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 10))
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(5):
    model.train()
    for xb, yb in train:
        opt.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        opt.step()
        ema.update_parameters(model)
    ema.eval()
    with torch.no_grad():
        for xb, yb in valid:
            print(epoch, (ema(xb).argmax(1) == yb).float().mean().item())
