"""One digit against the rest, 10 % positives, with pos_weight."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
y = (y == 8).astype("float32")
Xt, Xv, yt, yv = train_test_split((X / 16).astype("float32"), y, test_size=0.25, random_state=0, stratify=y)
train = DataLoader(TensorDataset(torch.tensor(Xt), torch.tensor(yt)), batch_size=64, shuffle=True)
valid = DataLoader(TensorDataset(torch.tensor(Xv), torch.tensor(yv)), batch_size=256)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor((yt == 0).sum() / (yt == 1).sum()))
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(5):
    model.train()
    for xb, yb in train:
        opt.zero_grad()
        loss = criterion(model(xb).squeeze(-1), yb)
        loss.backward()
        opt.step()
    model.eval()
    tp = fp = fn = 0
    with torch.no_grad():
        for xb, yb in valid:
            p = model(xb).squeeze(-1) > 0
            tp += (p & (yb == 1)).sum().item()
            fp += (p & (yb == 0)).sum().item()
            fn += (~p & (yb == 1)).sum().item()
    print(epoch, "F1", 2 * tp / max(1, 2 * tp + fp + fn))
