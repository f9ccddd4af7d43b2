"""A pretrained body is frozen by requires_grad = False and only the head goes to the optimizer."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(y)
perm = torch.randperm(len(X))
train = DataLoader(TensorDataset(X[perm[:1400]], y[perm[:1400]]), batch_size=64, shuffle=True)
valid = DataLoader(TensorDataset(X[perm[1400:]], y[perm[1400:]]), batch_size=200)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()
pretrain = torch.optim.Adam(model.parameters(), lr=1e-3)
for xb, yb in train:  # stands for the download of pretrained weights
    loss = nn.functional.cross_entropy(model(xb), yb % 2)
    pretrain.zero_grad()
    loss.backward()
    pretrain.step()

for p in model.backbone.parameters():
    p.requires_grad = False
model.head = nn.Linear(512, 10)
optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-3)
for epoch in range(3):
    model.train()
    for xb, yb in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        acc = sum((model(xb).argmax(1) == yb).sum().item() for xb, yb in valid) / len(valid.dataset)
    print(epoch, acc)
