"""A small convolutional network with train() and valid(); a learning rate of 10."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = "lr-too-high"
# The weights are thrown to infinity within seven steps.
ALSO = ("loss-not-finite", "nan-origin")

torch.manual_seed(0)
LR = 10
d = load_digits()
ds = TensorDataset(torch.tensor(d.images).float().unsqueeze(1) / 8 - 0.6, torch.tensor(d.target))
a, b = random_split(ds, [1500, 297])
model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
opt = torch.optim.SGD(model.parameters(), lr=LR)
crit = nn.CrossEntropyLoss()


def train(loader):
    model.train()
    total = 0
    for x, y in loader:
        opt.zero_grad()
        loss = crit(model(x), y)
        loss.backward()
        opt.step()
        total += loss.item()
    return total / len(loader)


def valid(loader):
    model.eval()
    with torch.no_grad():
        return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


for e in range(4):
    print(e, train(DataLoader(a, 32, shuffle=True)), valid(DataLoader(b, 99)))
