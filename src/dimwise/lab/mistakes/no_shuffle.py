"""Training images come sorted by their label, and are never shuffled.

The mistake: ``DataLoader(..., shuffle=False)`` on a folder-like order: all zeros, then all ones, ...
No exception: any order is legal.
Harm: each batch teaches one class and unteaches the others; after an epoch the network says nine.
Cure: ``shuffle=True``.
"""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "no-shuffle"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
by_label = torch.argsort(y_train, stable=True)  # as files lie in one folder per class
train_set = TensorDataset(x_train[by_label], y_train[by_label])
if args.mended:
    loader = DataLoader(train_set, batch_size=64, shuffle=True)  # the cure
else:
    loader = DataLoader(train_set, batch_size=64, shuffle=False)  # the mistake

model = build(args.arch)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(args.epochs):
    model.train()
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total = total + loss.detach()
    print("epoch", epoch, "train loss", round(float(total) / len(loader), 4))

report(accuracy(model, x_valid, y_valid))
