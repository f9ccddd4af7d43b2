"""Regression on the raw target (25 to 346): the first loss is tens of thousands and that is the data's scale."""

import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_diabetes(return_X_y=True)
Xt, Xv, yt, yv = train_test_split(X, y, random_state=1)
scaler = StandardScaler().fit(Xt)
to = lambda a: torch.tensor(a, dtype=torch.float32)  # noqa: E731
train = DataLoader(TensorDataset(to(scaler.transform(Xt)), to(yt)[:, None]), batch_size=32, shuffle=True)
Xv, yv = to(scaler.transform(Xv)), to(yv)[:, None]
model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
opt = torch.optim.Adam(model.parameters(), lr=0.03)
for epoch in range(15):
    model.train()
    for xb, yb in train:
        loss = nn.functional.mse_loss(model(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        print(epoch, nn.functional.mse_loss(model(Xv), yv).sqrt().item())
