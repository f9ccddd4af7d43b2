"""Accuracy is measured on a part of the training set too, next to a true validation."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y))
perm = torch.randperm(len(data)).tolist()
train_set, val_set = Subset(data, perm[:1400]), Subset(data, perm[1400:])
train_loader = DataLoader(train_set, 64, shuffle=True)
train_eval_loader = DataLoader(Subset(train_set, range(400)), 200)
val_loader = DataLoader(val_set, 200)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), 2e-3)


@torch.no_grad()
def evaluate(loader):
    was_training = model.training
    model.eval()
    hits = sum((model(x).argmax(1) == t).sum().item() for x, t in loader)
    model.train(was_training)
    return hits / len(loader.dataset)


for epoch in range(4):
    running = 0.0
    for x, t in train_loader:
        optimizer.zero_grad()
        out = model(x)
        loss = nn.functional.cross_entropy(out, t)
        loss.backward()
        optimizer.step()
        running += (out.detach().argmax(1) == t).sum().item()
    print(epoch, running / 1400, evaluate(train_eval_loader), evaluate(val_loader))
