"""Batches drawn at random, not by epochs: when the training set is scored, part of it was never drawn."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16 - 0.3, dtype=torch.float32), torch.tensor(digits)
order = torch.randperm(len(x))
parts = {"train": order[:1400], "valid": order[1400:]}
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


@torch.no_grad()
def score(part):
    model.eval()
    right = (model(x[parts[part]]).argmax(1) == y[parts[part]]).float().mean().item()
    model.train()
    return right


for step in range(60):
    drawn = parts["train"][torch.randint(len(parts["train"]), (32,))]
    loss = nn.functional.cross_entropy(model(x[drawn]), y[drawn])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(step, score("train"), score("valid"))
