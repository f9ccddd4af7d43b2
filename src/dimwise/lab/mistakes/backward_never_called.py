"""A loss is computed and the optimizer steps, but no gradient is ever computed.

The mistake: the call of ``loss.backward()`` is missing.
No exception: ``step`` skips parameters whose ``.grad`` is None.
Harm: no parameter ever moves; the loss only wobbles with the batches.
Cure: ``loss.backward()`` before ``step``.
"""

import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "backward-never-called"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
train_loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)

net = build(args.arch)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(net.parameters(), lr=3e-3)

for epoch in range(args.epochs):
    running_loss = 0.0
    for _, data in enumerate(train_loader, 0):
        inputs, labels = data
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        if args.mended:
            loss.backward()  # the cure
        else:
            pass  # the mistake: no backward
        optimizer.step()
        running_loss += loss.detach()
    print("epoch", epoch + 1, "loss", float(running_loss / len(train_loader)))

report(accuracy(net, x_valid, y_valid))
