"""SWA with update_bn: forward passes in train mode without gradients, only to refresh the statistics."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
d = load_digits()
X = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
y = torch.tensor(d.target)
perm = torch.randperm(len(X))
train = DataLoader(TensorDataset(X[perm[:1408]], y[perm[:1408]]), batch_size=64, shuffle=True)
test = DataLoader(TensorDataset(X[perm[1408:]], y[perm[1408:]]), batch_size=200)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(256, 64, bias=False),
    nn.BatchNorm1d(64),
    nn.ReLU(),
    nn.Linear(64, 10),
)
swa_model = AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
swa_scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=1)
for epoch in range(5):
    model.train()
    for xb, yb in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
    if epoch >= 3:
        swa_model.update_parameters(model)
        swa_scheduler.step()
    else:
        scheduler.step()
update_bn(train, swa_model)
swa_model.eval()
with torch.no_grad():
    print(sum((swa_model(xb).argmax(1) == yb).sum().item() for xb, yb in test) / len(test.dataset))
