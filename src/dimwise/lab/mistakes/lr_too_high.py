"""The learning rate is far above what the loss surface allows.

The mistake: a rate copied from SGD given to Adam.
No exception: steps may be as long as they like.
Harm: the loss jumps up in the first steps and never comes back to where it began, or hovers at chance.
Cure: a rate from the optimizer's usual range, or from a learning-rate range test.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "lr-too-high"
ARCHS = ALL

args = arguments(ARCHS)
if args.mended:
    learning_rate = 0.003  # the cure
else:
    learning_rate = 0.3  # the mistake

torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
train_dataloader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
model = build(args.arch)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)


def train_loop(dataloader, model, loss_fn, optimizer):
    size = len(dataloader.dataset)
    model.train()
    for batch, (X, y) in enumerate(dataloader):
        pred = model(X)
        loss = loss_fn(pred, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 20 == 0:
            print(f"loss: {loss.item():>7f}  [{batch * len(X):>5d}/{size:>5d}]")


for t in range(args.epochs):
    print(f"Epoch {t + 1}")
    train_loop(train_dataloader, model, loss_fn, optimizer)
report(accuracy(model, x_valid, y_valid))
