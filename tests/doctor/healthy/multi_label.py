"""Several labels a sample, most of them 0; BCE with logits, thresholds by a sigmoid outside the loss."""

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, Y = make_multilabel_classification(1200, n_features=20, n_classes=8, n_labels=2, random_state=0)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
Y = torch.tensor(Y, dtype=torch.float32)
train = DataLoader(TensorDataset(X[:1000], Y[:1000]), batch_size=50, shuffle=True)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8))
loss_fn = nn.BCEWithLogitsLoss()
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(5):
    for xb, yb in train:
        loss = loss_fn(model(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        hits = (torch.sigmoid(model(X[1000:])) > 0.5).float() == Y[1000:]
    print(epoch, hits.float().mean().item())
