"""A stream without length: rows are drawn from a shuffle buffer by the dataset itself."""

import random

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

random.seed(0)
torch.manual_seed(0)


class Stream(IterableDataset):
    def __init__(self, buffer_size=500):
        self.X, self.y = load_digits(return_X_y=True)
        self.buffer_size = buffer_size

    def __iter__(self):
        buffer = []
        for x, y in zip(self.X, self.y, strict=True):
            buffer.append((torch.tensor(x, dtype=torch.float32) / 16, int(y)))
            if len(buffer) == self.buffer_size:
                yield buffer.pop(random.randrange(len(buffer)))
        random.shuffle(buffer)
        yield from buffer


loader = DataLoader(Stream(), batch_size=64)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(4):
    for xb, yb in loader:
        loss = nn.functional.cross_entropy(model(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
